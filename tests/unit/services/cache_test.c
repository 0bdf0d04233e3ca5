/* Fetching and forgetting without Redis: who loads, who waits, what they get. Two caches on one segment and one loop
 * stand for two workers. */
#include "services/cache.h"

#include "services/cache_fixture.h"

struct caller {
    struct cache_wait *wait;
    int n_done;
    enum cache_outcome_type type;
    enum err_code code;
    struct cache_load *load;
    char value[32];
};

struct world {
    int fd;
    struct loop *loop;
    struct cache *a, *b;
    struct caller callers[8];
};

static struct cache *open_cache(struct world *w)
{
    struct err err = {0};
    return cache_new(&(struct cache_opts){.loop = w->loop,
                                          .segment_fd = w->fd,
                                          .size = SIZE,
                                          .max_value = 1000,
                                          .l1_max_ttl_ms = 1000,
                                          .name_space = "test"},
                     &err);
}

static int set_up(void **state)
{
    static struct world w;
    struct err err = {0};
    w = (struct world){.fd = cache_segment_create(SIZE, 1000, &err), .loop = loop_new()};
    w.a = open_cache(&w);
    w.b = open_cache(&w);
    *state = &w;
    return !w.a || !w.b;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    cache_free(w->a);
    cache_free(w->b);
    close(w->fd);
    loop_run(w->loop);
    loop_free(w->loop);
    return 0;
}

static void on_done(void *data, const struct cache_outcome *outcome)
{
    struct caller *caller = data;
    caller->n_done++;
    caller->wait = NULL;
    caller->type = outcome->type;
    caller->load = outcome->load;
    caller->code = outcome->err ? outcome->err->code : ERR_NONE;
    snprintf(caller->value, sizeof(caller->value), "%.*s%s", SLICE_FMT(outcome->value.bytes),
             outcome->is_stale ? " (stale)" : "");
}

static struct caller *call(struct world *w, struct cache *cache, int i, enum cache_mode mode)
{
    static const struct slice tag = {"tag", 3};
    struct caller *caller = &w->callers[i];
    *caller = (struct caller){0};
    struct cache_call call = {.subject = {SLICE("key"), &tag, 1},
                              .mode = mode,
                              .deadline_ms = loop_now(w->loop) + 60000,
                              .done = on_done,
                              .data = caller,
                              .owner = caller};
    caller->wait = cache_wait_start(cache, &call);
    assert_int_equal(caller->n_done, 0); /* never from inside the call */
    return caller;
}

static void turn_until(struct world *w, const struct caller *caller)
{
    while (caller->n_done == 0)
        assert_true(loop_turn(w->loop, true));
    assert_int_equal(caller->n_done, 1);
}

static struct caller *begin_load(struct world *w, struct cache *cache, int i)
{
    struct caller *caller = call(w, cache, i, CACHE_FETCH);
    turn_until(w, caller);
    assert_int_equal(caller->type, CACHE_LOAD);
    return caller;
}

static void store(struct caller *caller, const char *text)
{
    cache_load_store(caller->load, &(struct cache_value){CACHE_STRING, slice_str(text)},
                     &(struct cache_life){.ttl_ms = HOUR_MS, .stale_ms = HOUR_MS, .neg_ttl_ms = 0});
}

static void assert_got(struct world *w, const struct caller *caller, const char *text)
{
    turn_until(w, caller);
    assert_int_equal(caller->type, CACHE_VALUE);
    assert_string_equal(caller->value, text);
}

static void assert_l1(struct cache *cache, const char *text)
{
    struct buf out = {0};
    enum cache_kind kind;
    enum cache_hit hit = cache_peek(cache, SLICE("key"), &out, &kind);
    if (text) {
        assert_int_equal(hit, CACHE_HIT);
        assert_int_equal(out.len, strlen(text));
        assert_memory_equal(out.ptr, text, out.len);
    } else {
        assert_int_equal(hit, CACHE_MISS);
    }
    buf_free(&out);
}

static void forget(struct cache *cache)
{
    struct slice key = SLICE("key");
    (void)cache_forget(cache, &(struct cache_names){.keys = &key, .n_keys = 1}, SLICE(""));
}

static void test_one_loads_for_both_processes(void **state)
{
    struct world *w = *state;
    struct caller *loader = begin_load(w, w->a, 0);
    struct caller *near = call(w, w->a, 1, CACHE_FETCH), *far = call(w, w->b, 2, CACHE_FETCH);
    struct caller *far_too = call(w, w->b, 3, CACHE_FETCH), *trying = call(w, w->b, 4, CACHE_TRY);
    turn_until(w, trying);
    assert_int_equal(trying->type, CACHE_ELSEWHERE);
    assert_true(cache_is_loading(w->a, SLICE("key"), loader));
    assert_false(cache_is_loading(w->a, SLICE("key"), near));
    clock_fake(clock_ms(), clock_wall_ms()); /* no timer fires any more: the others are woken, or wait for ever */
    store(loader, "v");
    assert_got(w, near, "v");
    assert_got(w, far, "v");
    assert_got(w, far_too, "v");
    clock_fake(0, 0);
    assert_l1(w->b, "v");
}

static void test_abandoned_goes_to_the_next(void **state)
{
    struct world *w = *state;
    struct caller *loader = begin_load(w, w->a, 0), *second = call(w, w->a, 1, CACHE_FETCH);
    struct caller *third = call(w, w->a, 2, CACHE_FETCH), *far = call(w, w->b, 3, CACHE_FETCH);
    cache_load_abandon(loader->load);
    cache_wait_cancel(second->wait); /* had it, and goes away before it knows */
    turn_until(w, third);
    assert_int_equal(third->type, CACHE_LOAD);
    assert_int_equal(second->n_done, 0);
    cache_load_abandon(third->load);
    turn_until(w, far);
    assert_int_equal(far->type, CACHE_LOAD);
    store(far, "v");
    assert_l1(w->a, "v");
}

static void test_who_waits_has_a_deadline_of_his_own(void **state)
{
    struct world *w = *state;
    struct caller *loader = begin_load(w, w->a, 0), *patient = call(w, w->a, 1, CACHE_FETCH), *hasty = &w->callers[2];
    struct cache_call call = {.subject = {.key = SLICE("key")},
                              .deadline_ms = loop_now(w->loop) + 20,
                              .done = on_done,
                              .data = hasty,
                              .owner = hasty};
    *hasty = (struct caller){.wait = cache_wait_start(w->a, &call)};
    turn_until(w, hasty);
    assert_int_equal(hasty->type, CACHE_FAILED);
    assert_int_equal(hasty->code, ERR_DEADLINE);
    assert_int_equal(patient->n_done, 0);
    store(loader, "v");
    assert_got(w, patient, "v");
}

static enum cache_hit peek_after(struct cache *cache, uint64_t ms)
{
    struct buf out = {0};
    enum cache_kind kind;
    clock_fake(clock_ms() + ms, clock_wall_ms());
    enum cache_hit hit = cache_peek(cache, SLICE("key"), &out, &kind);
    clock_fake(0, 0);
    buf_free(&out);
    return hit;
}

static void test_jitter_shortens_a_ttl(void **state)
{
    struct world *w = *state;
    struct cache_life life = {.ttl_ms = HOUR_MS, .stale_ms = HOUR_MS, .jitter = 0.5};
    unsigned n_hits = 0;
    for (int i = 0; i < 64; i++) {
        forget(w->a);
        cache_load_store(begin_load(w, w->a, 0)->load, &(struct cache_value){CACHE_STRING, SLICE("v")}, &life);
        assert_int_equal(peek_after(w->a, HOUR_MS * 49 / 100), CACHE_HIT);
        assert_int_equal(peek_after(w->a, HOUR_MS * 101 / 100), CACHE_HIT_STALE);
        n_hits += peek_after(w->a, HOUR_MS * 3 / 4) == CACHE_HIT;
    }
    assert_in_range(n_hits, 8, 56); /* of 64, each half of the time */
}

static void test_a_failure_is_everybodys(void **state)
{
    struct world *w = *state;
    struct err err = {0};
    struct caller *loader = begin_load(w, w->a, 0), *near = call(w, w->a, 1, CACHE_FETCH);
    (void)err_set(&err, ERR_UNAVAILABLE, "no");
    cache_load_fail(loader->load, &err);
    turn_until(w, near);
    assert_int_equal(near->type, CACHE_FAILED);
    assert_int_equal(near->code, ERR_UNAVAILABLE);
    store(begin_load(w, w->a, 2), "v"); /* and is not kept */
    assert_l1(w->a, "v");
}

static void test_nothing_is_told_but_not_kept(void **state)
{
    struct world *w = *state;
    struct caller *loader = begin_load(w, w->a, 0), *near = call(w, w->a, 1, CACHE_FETCH);
    struct cache_value nothing = {.kind = CACHE_NOTHING};
    cache_load_store(loader->load, &nothing, &(struct cache_life){.ttl_ms = HOUR_MS});
    assert_got(w, near, "");
    assert_l1(w->a, NULL);
    loader = begin_load(w, w->a, 0);
    cache_load_store(loader->load, &nothing, &(struct cache_life){.ttl_ms = HOUR_MS, .neg_ttl_ms = HOUR_MS});
    assert_l1(w->a, "");
}

static void test_what_was_read_before_a_forget(void **state)
{
    struct world *w = *state;
    struct caller *old = begin_load(w, w->a, 0), *before = call(w, w->a, 1, CACHE_FETCH);
    forget(w->b);
    struct caller *after = begin_load(w, w->a, 2); /* does not wait for the old one */
    store(old, "old");
    assert_l1(w->a, NULL);
    assert_int_equal(before->n_done, 0);
    store(after, "new");
    assert_got(w, before, "new");
    assert_l1(w->b, "new");
}

static void test_refreshing(void **state)
{
    struct world *w = *state;
    struct cache_subject subject = {.key = SLICE("key")};
    struct cache_load *claimed = cache_refresh_claim(w->a, &subject);
    assert_non_null(claimed);
    assert_null(cache_refresh_claim(w->a, &subject));
    assert_null(cache_refresh_claim(w->b, &subject));
    struct caller *caller = &w->callers[0];
    struct cache_call call = {
        .subject = subject, .claimed = claimed, .deadline_ms = UINT64_MAX / 2, .done = on_done, .data = caller};
    *caller = (struct caller){.wait = cache_wait_start(w->a, &call)};
    turn_until(w, caller);
    assert_int_equal(caller->type, CACHE_LOAD);
    struct err err = {.code = ERR_PG};
    cache_load_fail(caller->load, &err);
    assert_null(cache_refresh_claim(w->b, &subject)); /* a moment's rest */
    store(begin_load(w, w->b, 1), "v");               /* which is not for who has nothing */
}

static void test_limits(void **state)
{
    struct world *w = *state;
    struct err err = {0};
    static char bytes[1001];
    struct caller *loader = begin_load(w, w->a, 0);
    assert_int_equal(cache_check_value(w->a, loader->load, slice_of(bytes, 1000), &err), OK);
    assert_int_equal(cache_check_value(w->a, loader->load, slice_of(bytes, 1001), &err), ERR);
    assert_non_null(strstr(err.message, "\"key\" has 1001 bytes, cache.max_value allows 1000"));
    cache_load_abandon(loader->load);
    assert_int_equal(cache_check_key(SLICE("a b"), &err), OK);
    assert_int_equal(cache_check_key(slice_of(bytes, CACHE_KEY_MAX), &err), OK);
    assert_int_equal(cache_check_key(slice_of(bytes, CACHE_KEY_MAX + 1), &err), ERR);
    assert_int_equal(cache_check_key(SLICE(""), &err), ERR);
    assert_int_equal(cache_check_tag(SLICE("a-b"), &err), OK);
    assert_int_equal(cache_check_tag(SLICE("a b"), &err), ERR);
    assert_int_equal(cache_check_tag(SLICE(""), &err), ERR);
}

static void test_bad_name_space(void **state)
{
    struct world *w = *state;
    struct err err;
    static const char *const bad[] = {"", "a b", "a-name-of-more-than-forty-characters-is-cut"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct cache_opts opts = {.loop = w->loop, .segment_fd = -1, .size = SIZE, .max_value = 1000};
        opts.name_space = bad[i];
        assert_null(cache_new(&opts, &err));
        assert_non_null(strstr(err.message, "cache.namespace"));
    }
}

static void test_who_waits_when_it_ends(void **state)
{
    struct world *w = *state;
    struct caller *loader = begin_load(w, w->a, 0), *far = call(w, w->b, 1, CACHE_FETCH);
    cache_free(w->b);
    w->b = NULL;
    assert_int_equal(far->n_done, 1);
    assert_int_equal(far->code, ERR_CANCELLED);
    cache_load_abandon(loader->load);
}

static void test_figures(void **state)
{
    struct world *w = *state;
    struct cache_stats stats;
    struct buf json = {0};
    store(begin_load(w, w->a, 0), "v");
    assert_l1(w->a, "v");
    assert_l1(w->b, "v");
    cache_stats(w->b, &stats);
    assert_int_equal(stats.counters[CACHE_HITS_L1], 2);
    assert_int_equal(stats.counters[CACHE_LOADS], 1);
    assert_int_equal(stats.l1.n_items, 1);
    assert_true(stats.l1.bytes_used > 0 && !stats.has_l2 && stats.n_in_flight == 0);
    cache_stats_json(&stats, &json);
    buf_byte(&json, '\0');
    assert_ptr_equal(strstr(json.ptr, "{\"hits_l1\":2,"), json.ptr);
    assert_non_null(strstr(json.ptr, ",\"l2\":false,\"l2_behind\":false}"));
    buf_free(&json);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_one_loads_for_both_processes),
        TEST(test_abandoned_goes_to_the_next),
        TEST(test_who_waits_has_a_deadline_of_his_own),
        TEST(test_jitter_shortens_a_ttl),
        TEST(test_a_failure_is_everybodys),
        TEST(test_nothing_is_told_but_not_kept),
        TEST(test_what_was_read_before_a_forget),
        TEST(test_refreshing),
        TEST(test_limits),
        TEST(test_bad_name_space),
        TEST(test_who_waits_when_it_ends),
        TEST(test_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
