/* Sequences against a real server, in several workers of one machine and of another: what they share, what they wait
 * for, and that no number is given out twice. One worker: seq_test.c. */
#include "services/seq_fixture.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "services/seq_store.h"

static int new_segment(void)
{
    struct err err = {0};
    int fd = seq_segment_create(&err);
    assert_true(fd >= 0);
    return fd;
}

static struct seq_answer claim(struct seq_store *store, struct seq_key *key)
{
    struct seq_answer answer;
    struct seq_ask ask = {.now_ms = clock_ms(), .n_wanted = 1, .n_waiting = 1, .may_claim = true, .may_prefetch = true};
    seq_store_take(store, key, &ask, &answer);
    return answer;
}

static void test_workers_share(void **state)
{
    (void)state;
    int fd = new_segment();
    struct seq *one = open_seq(pg, fd), *two = open_seq(pg, fd);
    int64_t last = 0;
    for (int i = 0; i < 200; i++) {
        int64_t n = next_of(i % 2 ? one : two, "order");
        assert_true(n > last);
        last = n;
    }
    assert_true(last < 300); /* one block after the other, whoever takes */
    seq_free(one);
    seq_free(two);
    close(fd);
}

/* A number met again: the database is moved past it, and nobody on this machine gives out what was leased before. */
static void test_skips_what_is_taken(void **state)
{
    (void)state;
    int fd = new_segment();
    struct seq *one = open_seq(pg, fd), *two = open_seq(pg, fd);
    struct seq_number number = {.value = 0};
    char text[SEQ_NUMBER_MAX + 1];
    struct err err = {0};
    for (int64_t n = 1; n <= 100; n++)
        assert_int_equal(next_of(n % 2 ? one : two, "order"), n);
    int id = seq_find(one, SLICE("order"));
    number.period = seq_period_at(SEQ_FY, clock_wall_ms());
    assert_int_equal(seq_format_write(seq_def(one, id), number.period, 500, text, &err), OK);
    assert_true(seq_read(one, id, slice_str(text), &number));
    assert_int_equal(number.value, 500);
    assert_false(seq_read(one, id, SLICE("PC9900-000500"), &number)); /* an old year's needs no skip */
    assert_true(seq_read(one, id, slice_str(text), &number));
    sql("UPDATE sequences SET value = 500 WHERE name = 'order'");
    seq_skip(one, id, &number);
    assert_int_equal(next_of(two, "order"), 501);
    assert_int_equal(next_of(one, "order"), 502);
    seq_free(one);
    seq_free(two);
    close(fd);
}

static void test_waits_for_anothers_lease(void **state)
{
    (void)state;
    struct err err = {0};
    int fd = new_segment();
    struct seq_store other;
    struct seq_key key = {.name = "many"};
    struct seq *mine = open_seq(pg, fd);
    assert_int_equal(seq_store_open(&other, fd, &err), OK);
    assert_int_equal(claim(&other, &key).n_lease, 1);
    struct box box;
    start(mine, "many", &box, 20000);
    seq_store_put(&other, &key, clock_ms(), (struct seq_range){7000, 7001}, 0); /* its lease arrives */
    wait_for(&box);
    assert_int_equal(box.number.value, 7000);
    seq_free(mine);
    seq_store_close(&other);
    close(fd);
}

static void test_other_claims_and_never_delivers(void **state)
{
    (void)state;
    struct err err = {0};
    int fd = new_segment();
    struct seq_store other;
    struct seq_key key = {.name = "many"};
    struct seq *mine = open_seq(pg, fd);
    assert_int_equal(seq_store_open(&other, fd, &err), OK);
    assert_int_equal(claim(&other, &key).n_lease, 1);
    uint64_t start_ms = clock_ms();
    assert_int_equal(next_of(mine, "many"), 1);
    assert_in_range(clock_ms() - start_ms, 15, 900); /* not at once, and not when the claim expires */
    seq_free(mine);
    seq_store_close(&other);
    close(fd);
}

/* A worker that stopped, or is dumping core, in the middle of a change: everybody else goes on. */
static void test_lock_held_by_the_stopped(void **state)
{
    (void)state;
    int fd = new_segment();
    struct shm_segment segment;
    struct err err = {0};
    assert_int_equal(shm_attach(fd, &seq_layout, &segment, &err), OK);
    pid_t pid = fork();
    if (pid == 0) {
        size_t stride = seq_layout.size / (2 * SEQ_MAX);
        for (size_t i = 0; i < 2 * SEQ_MAX; i++)
            if (shm_lock((struct shm_lock *)(void *)((char *)segment.body + i * stride), 0) != SHM_HELD)
                _exit(1);
        raise(SIGSTOP);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    struct seq *mine = open_seq(pg, fd);
    for (int64_t n = 1; n <= 20; n++) /* leases of its own, exactly what waits */
        assert_int_equal(next_of(mine, "many"), n);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    for (int64_t n = 21; n <= 40; n++)
        assert_int_equal(next_of(mine, "many"), n);
    seq_free(mine);
    shm_detach(&segment);
    close(fd);
}

enum { N_WORKERS = 4, N_EACH = 50000, N_SEEN = 400000 };

/* Takes N_EACH numbers, sixteen at a time, as a worker under load does. */
NORETURN static void run_worker(int fd, uint8_t *seen)
{
    enum { AT_ONCE = 16 };
    struct box boxes[AT_ONCE];
    open_world();
    seq = open_seq(pg, fd);
    for (int n = 0; n < N_EACH; n += AT_ONCE) {
        for (int i = 0; i < AT_ONCE; i++)
            start(seq, "many", &boxes[i], 20000);
        for (int i = 0; i < AT_ONCE; i++) {
            while (!boxes[i].n_done)
                loop_turn(loop, true);
            int64_t value = boxes[i].number.value;
            if (boxes[i].err.code || value < 1 || value >= N_SEEN ||
                __atomic_fetch_add(&seen[value], 1, __ATOMIC_SEQ_CST) > 0)
                _exit(1);
        }
    }
    _exit(0);
}

static void test_unique_over_processes(void **state)
{
    (void)state;
    uint8_t *seen = mmap(NULL, N_SEEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(seen, MAP_FAILED);
    int fd = new_segment(), status, n_seen = 0;
    pid_t pids[N_WORKERS + 1];
    for (int i = 0; i <= N_WORKERS; i++)
        if ((pids[i] = fork()) == 0)
            run_worker(i == N_WORKERS ? new_segment() : fd, seen); /* the last one: another machine */
    for (int i = 0; i <= N_WORKERS; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    for (int i = 0; i < N_SEEN; i++)
        n_seen += seen[i];
    assert_int_equal(n_seen, (N_WORKERS + 1) * N_EACH);
    munmap(seen, N_SEEN);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_workers_share),
        TEST(test_skips_what_is_taken),
        TEST(test_waits_for_anothers_lease),
        TEST(test_other_claims_and_never_delivers),
        TEST(test_lock_held_by_the_stopped),
        TEST(test_unique_over_processes),
    };
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
