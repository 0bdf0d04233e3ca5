/* Values in shared memory: what comes back, what does not, what goes first, and what other processes' deaths do to it.
 */
#include "services/cache_fixture.h"

#include <sys/prctl.h>

/* ---- what comes back ------------------------------------------------------------------------------------------ */

static void assert_value(const struct cache_shm *shm, const char *key, struct slice expected)
{
    struct buf out = {0};
    bool is_stale;
    assert_true(get_text(shm, key, clock_ms(), &out, &is_stale));
    assert_false(is_stale);
    assert_int_equal(out.len, expected.len);
    if (expected.len)
        assert_memory_equal(out.ptr, expected.ptr, expected.len);
    buf_free(&out);
}

static void test_any_size_comes_back(void **state)
{
    struct machine *m = *state;
    static const size_t sizes[] = {0, 1, 100, 380, 390, 400, 504, 505, 1000, 4095, 4096, 4097, 5000, 40000, MAX_VALUE};
    char *bytes = try_alloc(MAX_VALUE);
    for (size_t i = 0; i < MAX_VALUE; i++)
        bytes[i] = (char)(i * 31 + i / 504);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        char key[32];
        snprintf(key, sizeof(key), "size:%zu", sizes[i]);
        assert_true(put_text(&m->one, key, slice_of(bytes, sizes[i]), HOUR_MS));
        assert_value(&m->two, key, slice_of(bytes, sizes[i]));
    }
    assert_true(put_text(&m->one, "size:1000", SLICE("shorter"), HOUR_MS));
    assert_value(&m->one, "size:1000", SLICE("shorter"));
    assert_false(has(&m->one, "size:2"));
    free(bytes);
}

static void test_longest_key_and_most_stamps(void **state)
{
    struct machine *m = *state;
    char key[CACHE_KEY_MAX];
    memset(key, 'k', sizeof(key));
    struct cache_name name = cache_name(&m->one, slice_of(key, sizeof(key)));
    struct cache_stamp stamps[CACHE_STAMPS_MAX];
    for (int i = 0; i < CACHE_STAMPS_MAX; i++)
        stamps[i] = cache_stamp_tag(&m->one, slice_of(key, (size_t)i + 1));
    struct cache_l1_item item = {.name = name,
                                 .kind = CACHE_STRING,
                                 .value = SLICE("v"),
                                 .fresh_until_ms = UINT64_MAX,
                                 .dead_at_ms = UINT64_MAX,
                                 .stamps = stamps,
                                 .n_stamps = CACHE_STAMPS_MAX};
    assert_true(cache_l1_put(&m->one, &item));
    struct buf out = {0};
    struct cache_l1_found found;
    assert_true(cache_l1_get(&m->two, &name, clock_ms(), &out, &found));
    assert_int_equal(found.kind, CACHE_STRING);
    cache_stamp_raise(&m->two, stamps[CACHE_STAMPS_MAX - 1]);
    assert_false(cache_l1_get(&m->one, &name, clock_ms(), &out, &found));
    buf_free(&out);
}

static void test_time(void **state)
{
    struct machine *m = *state;
    struct buf out = {0};
    bool is_stale;
    uint64_t now_ms = clock_ms();
    assert_true(put_text(&m->one, "a", SLICE("v"), 10000)); /* dead after twice as long */
    assert_true(get_text(&m->one, "a", now_ms + 9000, &out, &is_stale) && !is_stale);
    assert_true(get_text(&m->one, "a", now_ms + 11000, &out, &is_stale) && is_stale);
    assert_false(get_text(&m->one, "a", now_ms + 21000, &out, &is_stale));
    assert_false(get_text(&m->one, "a", now_ms, &out, &is_stale)); /* it is gone, not only hidden */
    buf_free(&out);
}

static void test_what_was_forgotten_is_not_stored(void **state)
{
    struct machine *m = *state;
    struct cache_name name = cache_name(&m->one, SLICE("a"));
    struct cache_stamp stamps[] = {cache_stamp_key(&m->one, &name)};
    struct cache_l1_item item = {.name = name,
                                 .kind = CACHE_RAW,
                                 .value = SLICE("old"),
                                 .fresh_until_ms = UINT64_MAX,
                                 .dead_at_ms = UINT64_MAX,
                                 .stamps = stamps,
                                 .n_stamps = 1};
    cache_stamp_raise(&m->two, cache_stamp_key(&m->two, &name)); /* by another process */
    assert_false(cache_l1_put(&m->one, &item));
    assert_false(has(&m->one, "a"));
    stamps[0] = cache_stamp_key(&m->one, &name);
    assert_true(cache_l1_put(&m->one, &item));
    assert_true(has(&m->two, "a"));
    cache_stamp_raise(&m->two, cache_stamp_all(&m->two));
    assert_true(has(&m->one, "a")); /* does not carry that stamp */
    cache_l1_remove(&m->two, &name);
    assert_false(has(&m->one, "a"));
}

/* ---- what goes first ------------------------------------------------------------------------------------------ */

static void test_what_is_used_stays(void **state)
{
    struct machine *m = *state;
    char key[32], text[1000] = {0};
    struct cache_l1_usage usage;
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "hot:%d", i);
        assert_true(put_text(&m->one, key, slice_of(text, sizeof(text)), HOUR_MS));
    }
    for (int i = 0; i < 20000; i++) { /* a scan through ten times what there is room for */
        snprintf(key, sizeof(key), "scan:%d", i);
        assert_true(put_text(&m->one, key, slice_of(text, sizeof(text)), HOUR_MS));
        snprintf(key, sizeof(key), "hot:%d", i % 20);
        assert_true(has(&m->one, key));
    }
    cache_l1_usage(&m->one, &usage);
    assert_true(count_of(&m->one, CACHE_EVICTIONS) > 15000);
    assert_true(usage.bytes_used > usage.bytes * 9 / 10); /* and the memory is used */
}

/* Against a map that forgets nothing: what comes back is the last that was put, and nothing after a forget. */
static void test_against_a_model(void **state)
{
    enum { KEYS = 300, STEPS = 60000 };
    struct machine *m = *state;
    static char bytes[MAX_VALUE];
    static struct {
        size_t len;
        char fill;
        bool is_there;
    } model[KEYS];
    struct buf out = {0};
    size_t n_hits = 0, n_gets = 0;
    bool is_stale;
    srand(7);
    for (int step = 0; step < STEPS; step++) {
        int i = rand() % KEYS, what = rand() % 100;
        char key[32];
        snprintf(key, sizeof(key), "key:%d", i);
        const struct cache_shm *shm = rand() % 2 ? &m->one : &m->two;
        struct cache_name name = cache_name(shm, slice_str(key));
        if (what < 40) {
            model[i].len = (size_t)(rand() % 100 < 5 ? rand() % MAX_VALUE : rand() % 3000);
            model[i].fill = (char)rand();
            memset(bytes, model[i].fill, model[i].len);
            model[i].is_there = put_text(shm, key, slice_of(bytes, model[i].len), HOUR_MS);
        } else if (what < 45) {
            cache_stamp_raise(shm, cache_stamp_key(shm, &name));
            if (what < 43)
                cache_l1_remove(shm, &name);
            model[i].is_there = false;
        } else if (n_gets++, get_text(shm, key, clock_ms(), &out, &is_stale)) {
            n_hits++;
            assert_true(model[i].is_there);
            assert_int_equal(out.len, model[i].len);
            for (size_t b = 0; b < out.len; b++)
                assert_int_equal(out.ptr[b], model[i].fill);
        }
    }
    assert_true(n_hits * 2 > n_gets);
    for (int i = 0; i < KEYS; i++) {
        char key[32];
        snprintf(key, sizeof(key), "key:%d", i);
        struct cache_name name = cache_name(&m->one, slice_str(key));
        cache_l1_remove(&m->one, &name);
    }
    struct cache_l1_usage usage; /* every block has come back */
    cache_l1_usage(&m->one, &usage);
    assert_int_equal(usage.n_items, 0);
    assert_int_equal(usage.bytes_used, 0);
    buf_free(&out);
}

/* ---- other processes ------------------------------------------------------------------------------------------ */

static void test_shard_of_the_dead_is_emptied(void **state)
{
    struct machine *m = *state;
    assert_true(put_text(&m->one, "a", SLICE("v"), HOUR_MS));
    start_holder(&m->one, "a", true);
    assert_false(has(&m->two, "a"));
    assert_int_equal(count_of(&m->two, CACHE_ORPHANED), 1);
    assert_true(put_text(&m->two, "a", SLICE("new"), HOUR_MS));
    assert_value(&m->one, "a", SLICE("new"));
}

static void test_shard_of_the_stopped_is_a_miss(void **state)
{
    struct machine *m = *state;
    assert_true(put_text(&m->one, "a", SLICE("v"), HOUR_MS));
    pid_t pid = start_holder(&m->one, "a", false);
    assert_false(has(&m->two, "a")); /* and this line is reached */
    assert_false(put_text(&m->two, "a", SLICE("w"), HOUR_MS));
    struct cache_name name = cache_name(&m->two, SLICE("a"));
    cache_stamp_raise(&m->two, cache_stamp_key(&m->two, &name)); /* forgetting needs no lock */
    cache_l1_remove(&m->two, &name);
    assert_int_equal(count_of(&m->two, CACHE_BUSY), 3);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(has(&m->two, "a"));
    assert_true(put_text(&m->two, "a", SLICE("x"), HOUR_MS));
    assert_value(&m->one, "a", SLICE("x"));
}

/* Puts values of one repeated byte, large and small, for ever. */
NORETURN static void run_writer(const struct cache_shm *shm, unsigned seed)
{
    static char bytes[MAX_VALUE];
    for (;; seed = seed * 1103515245u + 12345u) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", seed >> 16 & 7);
        size_t len = (seed >> 20) % 3 ? 20000 : 300;
        memset(bytes, (char)(seed >> 24), len);
        put_text(shm, key, slice_of(bytes, len), HOUR_MS);
    }
}

static void read_some(const struct cache_shm *shm, int n, size_t *n_hits)
{
    struct buf out = {0};
    bool is_stale;
    for (int i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i & 7);
        if (!get_text(shm, key, clock_ms(), &out, &is_stale))
            continue;
        *n_hits += 1;
        assert_true(out.len == 300 || out.len == 20000);
        for (size_t b = 1; b < out.len; b++)
            assert_int_equal(out.ptr[b], out.ptr[0]); /* never half of one and half of another */
    }
    buf_free(&out);
}

static void test_no_torn_value_while_writers_die(void **state)
{
    enum { VICTIMS = 30 };
    struct machine *m = *state;
    size_t n_hits = 0;
    pid_t steady = fork();
    if (steady == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* none is left behind by a test that fails */
        run_writer(&m->one, 1);
    }
    for (unsigned i = 0; i < VICTIMS; i++) {
        pid_t victim = fork();
        if (victim == 0)
            run_writer(&m->two, i + 2);
        read_some(&m->two, 200, &n_hits);
        kill(victim, SIGKILL);
        assert_int_equal(waitpid(victim, NULL, 0), victim);
    }
    kill(steady, SIGKILL);
    assert_int_equal(waitpid(steady, NULL, 0), steady);
    assert_true(n_hits > 0);
}

static void test_geometry(void **state)
{
    (void)state;
    struct err err = {0};
    struct cache_shm shm;
    assert_int_equal(cache_shm_create(1000, 10, &err), -1);
    assert_non_null(strstr(err.message, "cache.size"));
    assert_int_equal(cache_shm_create(SIZE, SIZE, &err), -1);
    assert_non_null(strstr(err.message, "cache.max_value"));
    static const struct {
        size_t size, max_value;
    } cases[] = {{CACHE_SIZE_MIN, 1024}, {CACHE_SIZE_MIN, CACHE_SIZE_MIN / 8},
                 {3 << 20, 100000},      {16 << 20, 1 << 20},
                 {64 << 20, 1 << 20},    {64 << 20, 1000}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(cache_shm_open(&shm, -1, cases[i].size, cases[i].max_value, &err), OK);
        const struct cache_geometry *g = &shm.geometry;
        assert_true(g->shards_at + g->n_shards * g->shard_size <= g->size);
        assert_true(g->n_blocks * 504u > 2 * cases[i].max_value); /* the largest value leaves room for others */
        char *bytes = xalloc(cases[i].max_value);
        assert_true(put_text(&shm, "largest", slice_of(bytes, cases[i].max_value), HOUR_MS));
        assert_true(has(&shm, "largest"));
        free(bytes);
        cache_shm_close(&shm);
    }
    int fd = cache_shm_create(SIZE, MAX_VALUE, &err);
    assert_int_equal(cache_shm_open(&shm, fd, 2 * SIZE, MAX_VALUE, &err), OK); /* another size: memory of its own */
    assert_true(put_text(&shm, "a", SLICE("v"), HOUR_MS));
    cache_shm_close(&shm);
    assert_true(cache_shm_fits(fd, SIZE, MAX_VALUE));
    assert_false(cache_shm_fits(fd, SIZE, MAX_VALUE / 2)); /* as many bytes, divided otherwise */
    close(fd);
}

static void test_an_inherited_segment_keeps_its_values(void **state)
{
    struct machine *m = *state;
    struct err err = {0};
    assert_true(put_text(&m->one, "kept", SLICE("v"), HOUR_MS));
    shm_offer(dup(m->fd));
    int fd = cache_shm_create(SIZE, MAX_VALUE, &err);
    shm_offer_end();
    struct cache_shm heir;
    assert_int_equal(cache_shm_open(&heir, fd, SIZE, MAX_VALUE, &err), OK);
    assert_true(has(&heir, "kept"));
    assert_true(has(&m->one, "kept")); /* the old one's, who still runs */
    cache_shm_close(&heir);
    close(fd);
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, machine_set_up, machine_tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_any_size_comes_back),
        ROW(test_an_inherited_segment_keeps_its_values),
        ROW(test_longest_key_and_most_stamps),
        ROW(test_time),
        ROW(test_what_was_forgotten_is_not_stored),
        ROW(test_what_is_used_stays),
        ROW(test_against_a_model),
        ROW(test_shard_of_the_dead_is_emptied),
        ROW(test_shard_of_the_stopped_is_a_miss),
        ROW(test_no_torn_value_while_writers_die),
        cmocka_unit_test(test_geometry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
