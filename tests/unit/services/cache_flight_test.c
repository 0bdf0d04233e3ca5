/* Claims on keys that are being loaded: one holder, waiters who are told, leases that end. */
#include "services/cache_fixture.h"
#include "services/cache_flight.h"

enum { NOW_MS = 1000000 };

struct told {
    int n;
    uint64_t id;
};

static void on_told(void *data, uint64_t id)
{
    struct told *told = data;
    told->n++;
    told->id = id;
}

static enum cache_claim_result claim_at(const struct cache_shm *shm, const char *key, uint64_t now_ms, bool may_cool,
                                        struct cache_claim *claim)
{
    uint64_t until_ms;
    struct cache_name name = cache_name(shm, slice_str(key));
    struct cache_claim_ask ask = {.name = name,
                                  .stamps = {cache_stamp_all(shm), cache_stamp_key(shm, &name)},
                                  .now_ms = now_ms,
                                  .may_cool = may_cool,
                                  .may_wait = !may_cool};
    return cache_flight_claim(shm, &ask, claim, &until_ms);
}

static void test_one_holder_and_who_waits_is_told(void **state)
{
    struct machine *m = *state;
    struct cache_claim claim, other;
    struct told told = {0};
    assert_int_equal(claim_at(&m->one, "a", NOW_MS, false, &claim), CACHE_CLAIMED);
    assert_int_equal(claim_at(&m->two, "a", NOW_MS, true, &other), CACHE_TAKEN); /* only asked */
    cache_flight_end(&m->one, claim, NOW_MS, 0, on_told, &told);
    assert_int_equal(told.n, 0);
    assert_int_equal(claim_at(&m->one, "a", NOW_MS, false, &claim), CACHE_CLAIMED);
    assert_int_equal(claim_at(&m->two, "a", NOW_MS, false, &other), CACHE_TAKEN);
    assert_int_equal(claim_at(&m->two, "b", NOW_MS, false, &other), CACHE_CLAIMED);
    cache_flight_end(&m->one, claim, NOW_MS, 0, on_told, &told);
    assert_int_equal(told.n, 1);
    assert_true(told.id == m->two.id);
    cache_flight_end(&m->one, claim, NOW_MS, 0, on_told, &told); /* not twice */
    assert_int_equal(told.n, 1);
    assert_int_equal(cache_flight_count(&m->one), 1);
}

static void test_a_lease_ends_unless_renewed(void **state)
{
    struct machine *m = *state;
    struct cache_claim claim, other;
    struct told told = {0};
    assert_int_equal(claim_at(&m->one, "a", NOW_MS, false, &claim), CACHE_CLAIMED);
    assert_true(cache_flight_renew(&m->one, claim, NOW_MS + 900));
    assert_int_equal(claim_at(&m->two, "a", NOW_MS + 1100, false, &other), CACHE_TAKEN);
    assert_int_equal(claim_at(&m->two, "a", NOW_MS + 1901, false, &other), CACHE_CLAIMED);
    assert_false(cache_flight_renew(&m->one, claim, NOW_MS + 1902)); /* who slept has lost it */
    cache_flight_end(&m->one, claim, NOW_MS + 1902, 0, on_told, &told);
    assert_int_equal(claim_at(&m->one, "a", NOW_MS + 1903, false, &claim), CACHE_TAKEN);
}

static void test_a_forget_ends_a_claim(void **state)
{
    struct machine *m = *state;
    struct cache_claim claim, other;
    struct cache_name name = cache_name(&m->one, SLICE("a"));
    assert_int_equal(claim_at(&m->one, "a", NOW_MS, false, &claim), CACHE_CLAIMED);
    cache_stamp_raise(&m->two, cache_stamp_key(&m->two, &name));
    assert_int_equal(claim_at(&m->two, "a", NOW_MS, false, &other), CACHE_CLAIMED);
}

static void test_after_a_failure_only_refreshing_waits(void **state)
{
    struct machine *m = *state;
    struct cache_claim claim;
    struct told told = {0};
    assert_int_equal(claim_at(&m->one, "a", NOW_MS, true, &claim), CACHE_CLAIMED);
    cache_flight_end(&m->one, claim, NOW_MS, 500, on_told, &told);
    assert_int_equal(claim_at(&m->two, "a", NOW_MS + 499, true, &claim), CACHE_COOLING);
    assert_int_equal(claim_at(&m->two, "a", NOW_MS + 500, true, &claim), CACHE_CLAIMED);
    cache_flight_end(&m->two, claim, NOW_MS + 500, 500, on_told, &told);
    assert_int_equal(claim_at(&m->one, "a", NOW_MS + 501, false, &claim), CACHE_CLAIMED);
}

static void test_too_many_are_not_shared(void **state)
{
    struct machine *m = *state;
    int n_unshared = 0;
    for (int i = 0; i < 2000; i++) {
        char key[16];
        struct cache_claim claim;
        snprintf(key, sizeof(key), "k%d", i);
        n_unshared += claim_at(&m->one, key, NOW_MS, false, &claim) == CACHE_UNSHARED;
    }
    assert_in_range(n_unshared, 2000 - 1024, 1999);
    assert_int_equal(cache_flight_count(&m->one), 2000 - n_unshared);
}

static void bury(void *data, uint64_t id)
{
    struct machine *m = ((void **)data)[0];
    cache_flight_bury(&m->two, id, on_told, ((void **)data)[1]);
}

static void test_claims_of_the_dead_end(void **state)
{
    struct machine *m = *state;
    struct told told = {0};
    struct cache_claim claim;
    pid_t pid = fork();
    if (pid == 0) {
        struct cache_shm shm;
        struct err err;
        if (cache_shm_open(&shm, m->fd, SIZE, MAX_VALUE, &err) != OK)
            _exit(1);
        cache_count(&shm, CACHE_LOADS);
        (void)claim_at(&shm, "a", NOW_MS, false, &claim);
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(claim_at(&m->two, "a", NOW_MS, false, &claim), CACHE_TAKEN);
    void *both[] = {m, &told};
    cache_shm_bury(&m->one, bury, both);
    assert_int_equal(told.n, 1); /* the one who waits: us */
    assert_int_equal(claim_at(&m->two, "a", NOW_MS, false, &claim), CACHE_CLAIMED);
    assert_int_equal(count_of(&m->one, CACHE_LOADS), 1); /* what it counted stays */
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, machine_set_up, machine_tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_one_holder_and_who_waits_is_told),
        ROW(test_a_lease_ends_unless_renewed),
        ROW(test_a_forget_ends_a_claim),
        ROW(test_after_a_failure_only_refreshing_waits),
        ROW(test_too_many_are_not_shared),
        ROW(test_claims_of_the_dead_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
