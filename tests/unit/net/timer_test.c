#include "net/net_help.h"

#include <stdlib.h>

#include "base/clock.h"

#define T0 1000000u

struct probe { /* a timer that writes down that it fired */
    struct timer timer;
    struct loop *loop;
    int id;
    void (*then)(struct probe *probe);
    struct probe *other;
};

static int fired[4096];
static size_t n_fired;
static uint64_t fake_ms;

static void on_probe(struct timer *timer)
{
    struct probe *probe = container_of(timer, struct probe, timer);
    assert_false(timer_is_armed(timer));
    assert_true(n_fired < ARRAY_LEN(fired));
    fired[n_fired++] = probe->id;
    if (probe->then)
        probe->then(probe);
}

static void arm(struct probe *probe, uint64_t due_ms)
{
    timer_arm(probe->loop, &probe->timer, due_ms, on_probe);
}

static void set_clock(uint64_t ms)
{
    fake_ms = ms;
    clock_fake(ms, 1);
}

static int setup(void **state)
{
    n_fired = 0;
    set_clock(T0);
    *state = loop_new();
    return 0;
}

static int teardown(void **state)
{
    loop_free(*state); /* asserts that no timer is left */
    clock_fake(0, 0);
    return 0;
}

static void test_fires_in_deadline_order_and_never_early(void **state)
{
    struct probe a = {.loop = *state, .id = 1}, b = {.loop = *state, .id = 2}, c = {.loop = *state, .id = 3};
    arm(&c, T0 + 30);
    arm(&a, T0 + 10);
    arm(&b, T0 + 20);
    set_clock(T0 + 9);
    assert_true(loop_turn(*state, false));
    assert_int_equal(n_fired, 0);
    set_clock(T0 + 10);
    loop_turn(*state, false);
    assert_int_equal(n_fired, 1);
    set_clock(T0 + 100);
    assert_false(loop_turn(*state, false));
    assert_int_equal(n_fired, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(fired[i], i + 1);
}

static void test_equal_deadlines_fire_in_order_of_arming(void **state)
{
    struct probe probes[50];
    for (int i = 0; i < 50; i++) {
        probes[i] = (struct probe){.loop = *state, .id = i};
        arm(&probes[i], T0 + 5);
    }
    arm(&probes[7], T0 + 5); /* re-armed: the last now */
    set_clock(T0 + 5);
    loop_turn(*state, false);
    assert_int_equal(n_fired, 50);
    for (int i = 0; i < 49; i++)
        assert_int_equal(fired[i], i < 7 ? i : i + 1);
    assert_int_equal(fired[49], 7);
}

static void rearm_in_the_past(struct probe *probe)
{
    if (n_fired < 10)
        arm(probe, 0);
}

static void test_one_armed_in_the_past_fires_next_turn_and_starves_nobody(void **state)
{
    struct probe greedy = {.loop = *state, .id = 1, .then = rearm_in_the_past}, quiet = {.loop = *state, .id = 2};
    arm(&greedy, 0);
    arm(&quiet, T0);
    loop_turn(*state, false);
    assert_int_equal(n_fired, 2); /* greedy once, not for ever */
    assert_int_equal(fired[0], 1);
    assert_int_equal(fired[1], 2);
    loop_turn(*state, true); /* due: does not wait */
    assert_int_equal(n_fired, 3);
    timer_stop(*state, &greedy.timer);
}

static void stop_other(struct probe *probe)
{
    timer_stop(probe->loop, &probe->other->timer);
}

static void test_fn_may_stop_another_that_is_due(void **state)
{
    struct probe b = {.loop = *state, .id = 2}, a = {.loop = *state, .id = 1, .then = stop_other, .other = &b};
    arm(&a, T0);
    arm(&b, T0);
    loop_turn(*state, false);
    assert_int_equal(n_fired, 1);
    assert_false(timer_is_armed(&b.timer));
}

static void free_probe(struct probe *probe)
{
    free(probe);
}

static void test_fn_may_free_its_owner(void **state)
{
    struct probe *probe = xalloc(sizeof(*probe));
    *probe = (struct probe){.loop = *state, .id = 9, .then = free_probe};
    arm(probe, T0);
    loop_turn(*state, false);
    assert_int_equal(n_fired, 1);
}

static void test_stop_is_safe_when_not_armed(void **state)
{
    struct probe a = {.loop = *state};
    timer_stop(*state, &a.timer);
    arm(&a, T0 + 5);
    assert_true(timer_is_armed(&a.timer));
    timer_stop(*state, &a.timer);
    timer_stop(*state, &a.timer);
    assert_false(timer_is_armed(&a.timer));
    set_clock(T0 + 10);
    assert_false(loop_turn(*state, false));
    assert_int_equal(n_fired, 0);
}

/* Against a model: random arms, re-arms and stops, then time passes; what fires must be exactly what the
 * model says, in order of deadline. */
static void test_random_heap_agrees_with_a_model(void **state)
{
    enum { N = 500 };
    static struct probe probes[N];
    uint64_t due[N] = {0};
    unsigned seed = 42;
    for (int i = 0; i < N; i++)
        probes[i] = (struct probe){.loop = *state, .id = i};
    for (int round = 0; round < 40; round++) {
        for (int step = 0; step < 200; step++) {
            int i = rand_r(&seed) % N;
            if (rand_r(&seed) % 4) {
                due[i] = fake_ms + 1 + (unsigned)rand_r(&seed) % 1000;
                arm(&probes[i], due[i]);
            } else {
                due[i] = 0;
                timer_stop(*state, &probes[i].timer);
            }
        }
        n_fired = 0;
        set_clock(fake_ms + 100);
        loop_turn(*state, false);
        size_t n_expected = 0;
        for (int i = 0; i < N; i++)
            n_expected += due[i] && due[i] <= fake_ms;
        assert_int_equal(n_fired, n_expected);
        for (size_t i = 0; i < n_fired; i++) {
            assert_true(due[fired[i]] && due[fired[i]] <= fake_ms);
            assert_true(i == 0 || due[fired[i - 1]] <= due[fired[i]]);
        }
        for (size_t i = 0; i < n_fired; i++)
            due[fired[i]] = 0;
        for (int i = 0; i < N; i++)
            assert_int_equal(timer_is_armed(&probes[i].timer), due[i] != 0);
    }
    for (int i = 0; i < N; i++)
        timer_stop(*state, &probes[i].timer);
}

/* ---- on the real clock --------------------------------------------------------------------------------- */

static int n_turns;

static void count_turn(struct loop_hook *hook UNUSED)
{
    n_turns++;
}

static void never(void *data UNUSED)
{
    fail_msg("nobody sends this");
}

static void rearm_once(struct probe *probe)
{
    assert_true(loop_now(probe->loop) >= probe->timer.due_ms);
    if (n_fired == 1)
        arm(probe, loop_now(probe->loop) + 15);
    else
        loop_stop(probe->loop);
}

static void test_loop_sleeps_until_the_deadline(void **state)
{
    clock_fake(0, 0);
    struct probe a = {.loop = *state, .id = 1, .then = rearm_once};
    struct loop_hook hook = {0};
    struct loop_wakeup *wakeup = loop_wakeup_new(*state, never, NULL); /* without timers, a wait for ever */
    loop_hook_add(*state, &hook, count_turn);
    alarm(20); /* instead of hanging */
    uint64_t start_ms = clock_ms();
    arm(&a, start_ms + 15);
    n_turns = 0;
    loop_run(*state);
    alarm(0);
    assert_int_equal(n_fired, 2);
    assert_true(clock_ms() >= start_ms + 30);
    assert_true(n_turns <= 10); /* 2, and a few by rounding: no busy loop */
    loop_hook_remove(&hook);
    loop_wakeup_free(wakeup);
}

/* libuv runs timers before it polls: ours expires there, and the poll must not block then. */
static void test_timer_that_expires_before_the_poll_does_not_hang(void **state)
{
    struct probe a = {.loop = *state, .id = 1};
    struct loop_wakeup *wakeup = loop_wakeup_new(*state, never, NULL);
    arm(&a, T0 + 5);
    loop_turn(*state, false); /* libuv's timer is set; our clock stands still, its clock does not */
    clock_fake(0, 0);
    for (uint64_t start_ms = clock_ms(); clock_ms() < start_ms + 10;)
        ;
    set_clock(T0);
    alarm(20);
    loop_turn(*state, true);
    alarm(0);
    timer_stop(*state, &a.timer);
    loop_wakeup_free(wakeup);
}

static void test_loop_ends_after_the_last_timer(void **state)
{
    clock_fake(0, 0);
    struct probe a = {.loop = *state, .id = 1};
    arm(&a, clock_ms() + 5);
    loop_run(*state);
    assert_int_equal(n_fired, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fires_in_deadline_order_and_never_early, setup, teardown),
        cmocka_unit_test_setup_teardown(test_equal_deadlines_fire_in_order_of_arming, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_armed_in_the_past_fires_next_turn_and_starves_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fn_may_stop_another_that_is_due, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fn_may_free_its_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_is_safe_when_not_armed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_heap_agrees_with_a_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loop_sleeps_until_the_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer_that_expires_before_the_poll_does_not_hang, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loop_ends_after_the_last_timer, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
