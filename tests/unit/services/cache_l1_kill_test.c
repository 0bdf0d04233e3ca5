/* Processes are killed anywhere within their changes of L1, hundreds of times. After each death every list of every
 * shard must hold together, every block must be in exactly one place, and every value must be whole. It looks inside,
 * so it is compiled with what it tests. */
#include "services/cache_l1.c"

#include "services/cache_fixture.h"

#include <sys/mman.h>
#include <sys/prctl.h>

enum { KEYS = 64, LARGE = 20000, N_BLOCKS_MAX = 2048 };

/* ---- what must hold ------------------------------------------------------------------------------------------- */

struct census { /* of one shard */
    const struct view *view;
    uint8_t seen[N_BLOCKS_MAX + 1];
    uint32_t n_linked, n_limbo, n_free; /* blocks */
};

static void count_block(struct census *census, uint32_t at, uint32_t *n)
{
    assert_in_range(at, 1, census->view->body->n_fresh);
    assert_int_equal(census->seen[at]++, 0); /* in one place, not in two */
    *n += 1;
}

static void count_item(struct census *census, uint32_t first, uint32_t *n)
{
    const struct item *item = item_at(census->view, first);
    uint32_t last = first, n_before = *n;
    for (uint32_t at = first; at; at = census->view->blocks[at].next) {
        count_block(census, at, n);
        last = at;
    }
    assert_int_equal(last, item->last);
    assert_int_equal(*n - n_before, item->n_blocks);
    assert_true(item->kind < CACHE_N_KINDS && item->n_stamps <= CACHE_STAMPS_MAX && item->key_len <= CACHE_KEY_MAX);
    assert_true(item->n_blocks == blocks_for(head_len(item->n_stamps, item->key_len) + item->value_len));
}

static void assert_whole(const struct view *view, uint32_t at)
{
    static char bytes[MAX_VALUE];
    const struct item *item = item_at(view, at);
    assert_in_range(item->value_len, 1, LARGE);
    copy_value(view, at, head_len(item->n_stamps, item->key_len), item->value_len, bytes, NULL);
    assert_int_equal(memcmp(bytes, bytes + 1, item->value_len - 1), 0); /* one byte, repeated */
}

static void check_items(struct census *census)
{
    const struct body *body = census->view->body;
    uint32_t newer = 0, n_items = 0;
    bool has_hand = body->hand == 0;
    for (uint32_t at = body->newest; at; newer = at, at = item_at(census->view, at)->older) {
        const struct item *item = item_at(census->view, at);
        count_item(census, at, &census->n_linked);
        assert_int_equal(item->newer, newer);
        assert_int_equal(item->state, ITEM_LINKED);
        assert_int_equal(find(census->view, &(struct cache_name){key_of(item), item->hash}), at);
        assert_whole(census->view, at);
        has_hand = has_hand || body->hand == at;
        n_items++;
    }
    assert_int_equal(body->oldest, newer);
    assert_int_equal(body->n_items, n_items);
    assert_true(has_hand);
}

static void check_buckets(const struct view *view)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < view->n_buckets; b++)
        for (uint32_t at = view->buckets[b]; at; at = item_at(view, at)->chain)
            assert_true(++n <= view->body->n_items);
    assert_int_equal(n, view->body->n_items);
}

static void check_shard(const struct view *view)
{
    struct census census = {.view = view};
    const struct body *body = view->body;
    assert_true(view->n_blocks <= N_BLOCKS_MAX && body->n_fresh <= view->n_blocks);
    check_items(&census);
    check_buckets(view);
    for (uint32_t at = body->limbo; at; at = item_at(view, at)->chain) {
        assert_int_equal(item_at(view, at)->state, ITEM_LIMBO);
        count_item(&census, at, &census.n_limbo);
    }
    uint32_t at = body->free_list;
    for (uint32_t i = 0; i < body->n_free; i++, at = view->blocks[at].next)
        count_block(&census, at, &census.n_free);
    assert_int_equal(census.n_linked + census.n_limbo, body->n_used);
    assert_int_equal(body->n_used + body->n_free, body->n_fresh); /* none is lost */
}

static void check_all(const struct cache_shm *shm)
{
    for (uint32_t i = 0; i < shm->geometry.n_shards; i++) {
        struct view view = view_at(shm, i);
        while (!lock(&view)) /* who has it is alive, and lets go of it */
            ;
        check_shard(&view);
        unlock(&view);
    }
}

/* ---- who dies ------------------------------------------------------------------------------------------------- */

struct life {
    _Atomic unsigned n_steps;
};

/* Everything that changes L1, for ever: more than there is room for, in values of one repeated byte. */
NORETURN static void live(const struct cache_shm *shm, struct life *life, unsigned seed)
{
    static char bytes[LARGE];
    struct buf out = {0};
    for (;; seed = seed * 1103515245u + 12345u, atomic_fetch_add(&life->n_steps, 1)) {
        char key[16];
        bool is_stale;
        size_t len = (seed >> 20) % 3 ? 300 : LARGE;
        snprintf(key, sizeof(key), "k%u", seed >> 16 & (KEYS - 1));
        struct cache_name name = cache_name(shm, slice_str(key));
        switch (seed >> 24 & 7) {
        case 0:
            cache_stamp_raise(shm, cache_stamp_key(shm, &name));
            break;
        case 1:
            cache_l1_remove(shm, &name);
            break;
        case 2:
        case 3:
            (void)get_text(shm, key, clock_ms(), &out, &is_stale);
            break;
        default:
            memset(bytes, (char)(seed >> 8), len);
            put_text(shm, key, slice_of(bytes, len), HOUR_MS);
        }
    }
}

static pid_t start_life(const struct cache_shm *shm, struct life *life, unsigned seed)
{
    unsigned before = atomic_load(&life->n_steps);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* none is left behind by a test that fails */
        live(shm, life, seed);
    }
    while (atomic_load(&life->n_steps) == before)
        usleep(100);
    return pid;
}

static void end_life(pid_t pid)
{
    int status;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* it did not crash before */
}

/* Beside `steady` ones, which go on. */
static void run(struct machine *m, int n_steady)
{
    enum { ORPHANS = 300, VICTIMS_MAX = 20000 };
    pid_t steady[2];
    struct life *lives = mmap(NULL, sizeof(*lives) * 3, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(lives, MAP_FAILED);
    for (int i = 0; i < n_steady; i++)
        steady[i] = start_life(&m->one, &lives[i], (unsigned)i + 1);
    unsigned i = 0;
    for (; count_of(&m->two, CACHE_ORPHANED) < ORPHANS && i < VICTIMS_MAX; i++) {
        pid_t victim = start_life(&m->two, &lives[2], i * 2654435761u);
        usleep(i * 7 % 100);
        end_life(victim);
        check_all(&m->two);
    }
    assert_true(i < VICTIMS_MAX); /* many died within */
    for (int k = 0; k < n_steady; k++)
        end_life(steady[k]);
    check_all(&m->two);
    munmap(lives, sizeof(*lives) * 3);
}

static void test_shards_hold_together_when_their_holders_die(void **state)
{
    run(*state, 0);
}

static void test_who_lives_writes_into_nobody_elses_blocks(void **state)
{
    run(*state, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_shards_hold_together_when_their_holders_die, machine_set_up,
                                        machine_tear_down),
        cmocka_unit_test_setup_teardown(test_who_lives_writes_into_nobody_elses_blocks, machine_set_up,
                                        machine_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
