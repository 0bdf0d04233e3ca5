/* The shared slots: who gets numbers, who leases, and what is left when a process dies or stops. No PostgreSQL. */
#include "services/seq_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define NOW_MS 1000000u

struct fixture {
    int fd;
    struct seq_store one, two; /* two workers of one machine */
    struct seq_key a, b;       /* the sequence "order", as they see it */
};

static int set_up(void **state)
{
    static struct fixture f;
    struct err err = {0};
    f = (struct fixture){.fd = shm_create(&seq_layout, &err)};
    f.a = f.b = (struct seq_key){.name = "order", .period = {"2026-27"}};
    *state = &f;
    return f.fd < 0 || seq_store_open(&f.one, f.fd, &err) != OK || seq_store_open(&f.two, f.fd, &err) != OK;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    seq_store_close(&f->one);
    seq_store_close(&f->two);
    close(f->fd);
    return 0;
}

static struct seq_answer ask_at(struct seq_store *store, struct seq_key *key, uint64_t now_ms, uint32_t n)
{
    struct seq_ask ask = {.now_ms = now_ms, .n_wanted = n, .n_waiting = n, .may_claim = true, .may_prefetch = true};
    struct seq_answer answer;
    seq_store_take(store, key, &ask, &answer);
    return answer;
}

static struct seq_answer ask(struct seq_store *store, struct seq_key *key)
{
    return ask_at(store, key, NOW_MS, 1);
}

static void put(struct seq_store *store, struct seq_key *key, int64_t first, int64_t n)
{
    seq_store_put(store, key, NOW_MS, (struct seq_range){first, first + n}, 0);
}

static void assert_nothing(struct seq_answer answer)
{
    assert_int_equal(seq_range_len(answer.range), 0);
}

static void test_one_machine_one_lease(void **state)
{
    struct fixture *f = *state;
    struct seq_answer answer = ask(&f->one, &f->a);
    assert_nothing(answer);
    assert_int_equal(answer.n_lease, 1);
    answer = ask(&f->two, &f->b); /* the other is at it */
    assert_nothing(answer);
    assert_int_equal(answer.n_lease, 0);
    assert_false(answer.is_busy);
    put(&f->one, &f->a, 41, 2);
    answer = ask(&f->two, &f->b); /* what one leased is everybody's */
    assert_int_equal(answer.range.next, 41);
    assert_int_equal(seq_range_len(answer.range), 1);
    answer = ask(&f->one, &f->a);
    assert_int_equal(answer.range.next, 42);
    assert_true(answer.n_lease > 0); /* nothing left: fetch ahead */
}

static void test_claim_of_the_dead_expires(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(&f->one, &f->a).n_lease, 1);
    assert_int_equal(ask_at(&f->two, &f->b, NOW_MS + 999, 1).n_lease, 0);
    assert_int_equal(ask_at(&f->two, &f->b, NOW_MS + 1000, 1).n_lease, 1);
    seq_store_give_up(&f->one, &f->a, NOW_MS + 1001); /* too late: it is not his any more */
    assert_int_equal(ask_at(&f->one, &f->a, NOW_MS + 1001, 1).n_lease, 0);
    seq_store_give_up(&f->two, &f->b, NOW_MS + 1002);
    assert_true(ask_at(&f->one, &f->a, NOW_MS + 1003, 1).n_lease > 0);
}

static void test_sequences_do_not_mix(void **state)
{
    struct fixture *f = *state;
    char names[SEQ_MAX][16];
    struct seq_key keys[SEQ_MAX];
    for (int i = 0; i < SEQ_MAX; i++) {
        snprintf(names[i], sizeof names[i], "s%d", i);
        keys[i] = (struct seq_key){.name = names[i]};
        put(&f->one, &keys[i], 1000 * i + 1, 3);
    }
    for (int i = 0; i < SEQ_MAX; i++)
        for (int n = 1; n <= 3; n++) {
            struct seq_key fresh = {.name = names[i]};
            assert_int_equal(ask(n == 2 ? &f->two : &f->one, n == 3 ? &keys[i] : &fresh).range.next, 1000 * i + n);
        }
}

/* Takes and leases for `ms`, one number each `every_ms`; returns the size of the last lease. */
static uint32_t use(struct fixture *f, uint64_t *now_ms, uint64_t ms, uint64_t every_ms)
{
    static int64_t last;
    uint32_t block = 0;
    for (uint64_t end_ms = *now_ms + ms; *now_ms < end_ms; *now_ms += every_ms) {
        struct seq_answer answer = ask_at(&f->one, &f->a, *now_ms, 1);
        if (answer.n_lease == 0)
            continue;
        block = answer.n_lease;
        put(&f->one, &f->a, last + 1, block);
        last += block;
    }
    return block;
}

static void test_block_follows_demand(void **state)
{
    struct fixture *f = *state;
    uint64_t now_ms = NOW_MS;
    assert_int_equal(use(f, &now_ms, 60000, 10000), 1); /* now and then: one in advance */
    uint32_t block = use(f, &now_ms, 3000, 10);         /* a hundred a second: a quarter of a second's */
    assert_in_range(block, 10, 50);
    assert_int_equal(ask_at(&f->one, &f->a, now_ms + 1, 1).is_busy, false);
    struct seq_answer answer = ask_at(&f->one, &f->a, now_ms + 2, 100000);
    assert_true(answer.n_lease > 0 && answer.n_lease <= SEQ_BLOCK_MAX); /* never more, whoever waits */
    put(&f->one, &f->a, 1000000, answer.n_lease);
    now_ms += 3600000;
    use(f, &now_ms, 2000 * 10000, 10000); /* uses that up */
    assert_int_equal(use(f, &now_ms, 60000, 10000), 1);
}

static void test_lease_covers_who_waits(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask_at(&f->one, &f->a, NOW_MS, 500).n_lease, 500);
}

static void test_last_years_numbers_are_dropped(void **state)
{
    struct fixture *f = *state;
    put(&f->one, &f->a, 900, 10);
    assert_int_equal(ask(&f->one, &f->a).range.next, 900);
    f->b.period = (struct seq_period){"2027-28"};
    struct seq_answer answer = ask(&f->two, &f->b);
    assert_nothing(answer);
    assert_int_equal(answer.n_lease, 1);
    assert_int_equal(f->two.n_dropped, 9);
    put(&f->two, &f->b, 1, 4);
    f->a.period = f->b.period;
    assert_int_equal(ask(&f->one, &f->a).range.next, 1);
}

static void test_no_room_is_a_gap(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 12; i++)
        put(&f->one, &f->a, 100 * (i + 1), 1);
    int n = 0;
    while (seq_range_len(ask(&f->two, &f->b).range) > 0)
        n++;
    assert_true(n > 0 && n < 12);
    assert_int_equal(f->one.n_dropped, 12 - n);
}

static void test_skipped_numbers_are_gaps(void **state)
{
    struct fixture *f = *state;
    put(&f->one, &f->a, 5, 3);
    put(&f->one, &f->a, 10, 4);
    seq_store_skip(&f->two, &f->b, NOW_MS, 11);
    assert_int_equal(f->two.n_dropped, 3 + 2);
    assert_int_equal(ask(&f->one, &f->a).range.next, 12);
    put(&f->one, &f->a, 3, 2);                 /* was under way */
    seq_store_skip(&f->two, &f->b, NOW_MS, 4); /* knows less */
    assert_int_equal(ask(&f->two, &f->b).range.next, 13);
    assert_nothing(ask(&f->two, &f->b));
    seq_store_skip(&f->two, &f->b, NOW_MS, 20);
    put(&f->one, &f->a, 18, 5);
    assert_int_equal(ask(&f->two, &f->b).range.next, 21);
    f->a.period = (struct seq_period){"2027-28"};
    put(&f->one, &f->a, 1, 1);
    assert_int_equal(ask(&f->one, &f->a).range.next, 1);
}

/* ---- death --------------------------------------------------------------------------------------------------- */

enum { N_SLOTS = 2 * SEQ_MAX };

/* A child that holds the lock of every slot, then dies, or stops. */
static pid_t start_holder(struct seq_store *store, bool dies)
{
    pid_t pid = fork();
    if (pid == 0) {
        size_t stride = seq_layout.size / N_SLOTS;
        for (size_t i = 0; i < N_SLOTS; i++) /* a slot starts with its lock */
            if (shm_lock((struct shm_lock *)(void *)((char *)store->segment.body + i * stride), 0) != SHM_HELD)
                _exit(1);
        raise(dies ? SIGKILL : SIGSTOP);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(dies ? WIFSIGNALED(status) : WIFSTOPPED(status));
    return pid;
}

static void test_slot_of_the_dead_is_empty(void **state)
{
    struct fixture *f = *state;
    put(&f->one, &f->a, 900, 10);
    start_holder(&f->one, true);
    struct seq_answer answer = ask(&f->two, &f->b);
    assert_nothing(answer); /* empty: neither 900 nor zero */
    assert_false(answer.is_busy);
    assert_int_equal(answer.n_lease, 1);
    assert_true(f->two.n_orphaned > 0);
    put(&f->two, &f->b, 910, 2);
    assert_int_equal(ask(&f->one, &f->a).range.next, 910); /* and it works again, for all */
}

static void test_slot_of_the_stopped_is_busy(void **state)
{
    struct fixture *f = *state;
    put(&f->one, &f->a, 900, 10);
    pid_t pid = start_holder(&f->one, false);
    struct seq_answer answer = ask(&f->two, &f->b);
    assert_true(answer.is_busy);
    assert_nothing(answer);
    assert_int_equal(answer.n_lease, 0);
    put(&f->two, &f->b, 910, 5); /* nowhere to put it: a gap */
    assert_int_equal(f->two.n_dropped, 5);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    answer = ask(&f->two, &f->b);
    assert_false(answer.is_busy);
    assert_nothing(answer);
}

enum { N_NUMBERS = 200000 };

struct world {
    int64_t row;             /* of the database: the last number leased */
    uint8_t seen[N_NUMBERS]; /* how often each was handed out */
};

static bool is_new(struct world *world, struct seq_range range)
{
    return seq_range_len(range) == 0 || __atomic_fetch_add(&world->seen[range.next], 1, __ATOMIC_SEQ_CST) == 0;
}

/* A worker: takes one after the other, and leases when it is told to. */
NORETURN static void run_worker(struct world *world, struct seq_store *store)
{
    struct seq_key key = {.name = "order"};
    while (__atomic_load_n(&world->row, __ATOMIC_SEQ_CST) < N_NUMBERS - 5 * SEQ_BLOCK_MAX) {
        struct seq_answer answer = ask_at(store, &key, clock_ms(), 1);
        if (!is_new(world, answer.range))
            _exit(1);
        if (answer.n_lease == 0)
            continue;
        int64_t end = __atomic_add_fetch(&world->row, answer.n_lease, __ATOMIC_SEQ_CST);
        put(store, &key, end - answer.n_lease, answer.n_lease);
    }
    _exit(0);
}

/* One that only takes, until it is killed, anywhere. */
NORETURN static void run_victim(struct world *world, struct seq_store *store)
{
    struct seq_key key = {.name = "order"};
    struct seq_answer answer = {.n_lease = 0};
    while (is_new(world, answer.range))
        seq_store_take(store, &key, &(struct seq_ask){.now_ms = clock_ms(), .n_wanted = 1}, &answer);
    _exit(1);
}

static void test_unique_while_processes_die(void **state)
{
    enum { WORKERS = 3, VICTIMS = 20 };
    struct fixture *f = *state;
    struct world *world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(world, MAP_FAILED);
    pid_t pids[WORKERS];
    int status;
    for (int i = 0; i < WORKERS; i++)
        if ((pids[i] = fork()) == 0)
            run_worker(world, &f->one);
    for (int i = 0; i < VICTIMS; i++) {
        pid_t victim = fork();
        if (victim == 0)
            run_victim(world, &f->two);
        usleep(2000); /* of its life; where it is killed is the point of the test */
        kill(victim, SIGKILL);
        assert_int_equal(waitpid(victim, &status, 0), victim);
        assert_true(WIFSIGNALED(status)); /* it did not end by itself: no number came twice */
    }
    for (int i = 0; i < WORKERS; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    int64_t n_seen = 0;
    for (int i = 0; i < N_NUMBERS; i++) {
        assert_in_range(world->seen[i], 0, 1);
        n_seen += world->seen[i];
    }
    assert_true(n_seen > 0);
    munmap(world, sizeof *world);
}

static void test_other_layout_is_left_alone(void **state)
{
    (void)state;
    struct err err = {0};
    struct seq_store store;
    struct shm_layout future = seq_layout;
    future.version++;
    int fd = shm_create(&future, &err);
    assert_true(fd >= 0);
    assert_int_equal(seq_store_open(&store, fd, &err), OK); /* with memory of its own */
    struct seq_key key = {.name = "order"};
    put(&store, &key, 5, 1);
    assert_int_equal(ask(&store, &key).range.next, 5);
    seq_store_close(&store);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_one_machine_one_lease),      TEST(test_claim_of_the_dead_expires),
        TEST(test_sequences_do_not_mix),       TEST(test_block_follows_demand),
        TEST(test_lease_covers_who_waits),     TEST(test_last_years_numbers_are_dropped),
        TEST(test_no_room_is_a_gap),           TEST(test_skipped_numbers_are_gaps),
        TEST(test_slot_of_the_dead_is_empty),  TEST(test_slot_of_the_stopped_is_busy),
        TEST(test_unique_while_processes_die), TEST(test_other_layout_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
