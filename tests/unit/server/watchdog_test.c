/* The watchdog over a scoreboard that the test writes, with time of its own. What it asks and kills is a child that
 * sleeps. */
#include "server/watchdog.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/last_words.h"
#include "server/process_stats.h"

enum { STALL_MS = 1000, START_MS = 3000 };

struct rig {
    struct scoreboard *board;
    struct scoreboard_slot *slot;
    struct watchdog *watchdog;
    uint64_t now_ms;
    pid_t pid;
    int n_stalled;
    char why[2048];
};

static uint64_t waited_us; /* what the kernel is said to say */

static uint64_t fake_waited_us(uint32_t pid)
{
    (void)pid;
    return waited_us;
}

static void on_stalled(void *data, unsigned slot, const char *why)
{
    struct rig *rig = data;
    assert_int_equal(slot, 1);
    rig->n_stalled++;
    snprintf(rig->why, sizeof(rig->why), "%s", why);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct err err;
    int fd = scoreboard_segment_create(2, &err);
    rig->board = scoreboard_attach(fd, &err);
    close(fd);
    rig->slot = &rig->board->slots[1];
    rig->pid = fork();
    if (rig->pid == 0) {
        signal(WATCHDOG_SIGNAL, SIG_IGN);
        for (;;)
            pause();
    }
    rig->now_ms = 1000000;
    waited_us = 0;
    struct watchdog_opts opts = {.board = rig->board,
                                 .stall_ms = STALL_MS,
                                 .start_ms = START_MS,
                                 .on_stalled = on_stalled,
                                 .waited_us = fake_waited_us,
                                 .data = rig};
    rig->watchdog = watchdog_new(&opts, rig->now_ms);
    scoreboard_take(rig->slot, 1);
    rig->slot->pid = (uint32_t)rig->pid;
    rig->slot->state = SCOREBOARD_SERVING;
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    kill(rig->pid, SIGKILL);
    waitpid(rig->pid, NULL, 0);
    watchdog_free(rig->watchdog);
    scoreboard_detach(rig->board);
    free(rig);
    return 0;
}

static void pass(struct rig *rig, uint64_t ms)
{
    for (uint64_t at = 0; at < ms; at += WATCHDOG_TICK_MS) {
        rig->now_ms += WATCHDOG_TICK_MS;
        watchdog_look(rig->watchdog, rig->now_ms);
    }
}

static void test_who_beats_is_left_alone(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 100; i++) {
        rig->slot->beat_ms++;
        pass(rig, WATCHDOG_LATE_MS - WATCHDOG_TICK_MS);
        assert_false(watchdog_is_late(rig->watchdog, 1));
    }
    assert_int_equal(rig->n_stalled, 0);
}

static void test_late_then_stalled_once(void **state)
{
    struct rig *rig = *state;
    pass(rig, WATCHDOG_TICK_MS + WATCHDOG_LATE_MS);
    assert_true(watchdog_is_late(rig->watchdog, 1));
    rig->slot->beat_ms++;
    pass(rig, WATCHDOG_TICK_MS);
    assert_false(watchdog_is_late(rig->watchdog, 1));
    pass(rig, STALL_MS - WATCHDOG_TICK_MS);
    assert_int_equal(rig->n_stalled, 0);
    pass(rig, 2 * WATCHDOG_TICK_MS + WATCHDOG_ASK_MS);
    assert_int_equal(rig->n_stalled, 1);
    assert_non_null(strstr(rig->why, "did not return to its loop"));
    pass(rig, 10 * STALL_MS);
    assert_int_equal(rig->n_stalled, 1);
}

static void test_the_masters_own_lateness_is_not_theirs(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 5; i++) {
        rig->now_ms += 10 * STALL_MS; /* each counts as one tick */
        watchdog_look(rig->watchdog, rig->now_ms);
    }
    assert_int_equal(rig->n_stalled, 0);
}

static void test_waiting_for_a_core_does_not_count(void **state)
{
    struct rig *rig = *state;
    pass(rig, WATCHDOG_TICK_MS + WATCHDOG_LATE_MS);
    for (int i = 0; i < 4 * STALL_MS / WATCHDOG_TICK_MS; i++) {
        waited_us += WATCHDOG_TICK_MS * 1000;
        pass(rig, WATCHDOG_TICK_MS);
    }
    assert_int_equal(rig->n_stalled, 0);
    assert_true(watchdog_is_late(rig->watchdog, 1));          /* a sibling accepts all the same */
    pass(rig, STALL_MS + WATCHDOG_ASK_MS + WATCHDOG_TICK_MS); /* now it runs, or sleeps */
    assert_int_equal(rig->n_stalled, 1);
}

static void test_half_a_core_is_enough_to_be_stuck(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; rig->n_stalled == 0; i++) {
        assert_true(i * WATCHDOG_TICK_MS <= STALL_MS + WATCHDOG_ASK_MS + WATCHDOG_TICK_MS);
        waited_us += WATCHDOG_TICK_MS * 500;
        pass(rig, WATCHDOG_TICK_MS);
    }
}

static void test_ten_times_the_limit_is_enough(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; rig->n_stalled == 0; i++) {
        assert_true(i * WATCHDOG_TICK_MS < 11 * (STALL_MS + WATCHDOG_ASK_MS));
        waited_us += WATCHDOG_TICK_MS * 1000;
        pass(rig, WATCHDOG_TICK_MS);
        assert_true(rig->n_stalled == 0 || i * WATCHDOG_TICK_MS > 10 * STALL_MS);
    }
}

static void test_a_start_has_a_limit_of_its_own(void **state)
{
    struct rig *rig = *state;
    rig->slot->state = SCOREBOARD_STARTING;
    pass(rig, START_MS);
    assert_int_equal(rig->n_stalled, 0);
    pass(rig, WATCHDOG_ASK_MS + 3 * WATCHDOG_TICK_MS);
    assert_int_equal(rig->n_stalled, 1);
    assert_non_null(strstr(rig->why, "worker.start_timeout"));
}

static void await(const _Atomic uint64_t *field, uint64_t value)
{
    for (int i = 0; *field != value; i++) {
        assert_true(i < 20000);
        usleep(1000);
    }
}

/* In the place of the one that sleeps and says nothing: one that answers as a worker does. */
static void answer(struct rig *rig)
{
    kill(rig->pid, SIGKILL);
    waitpid(rig->pid, NULL, 0);
    rig->pid = fork();
    if (rig->pid == 0) {
        last_words_install(rig->slot, false);
        rig->slot->requests = 1;
        for (;;)
            pause();
    }
    await(&rig->slot->requests, 1);
    rig->slot->pid = (uint32_t)rig->pid;
}

/* One that was asked in a stall and came back is asked anew in the next: what it said then is no answer. */
static void test_an_answer_is_to_one_stall(void **state)
{
    struct rig *rig = *state;
    answer(rig);
    pass(rig, WATCHDOG_TICK_MS + STALL_MS);
    await(&rig->slot->asked_beat_ms, rig->slot->beat_ms);
    while (rig->slot->report.stage != WHERE_WHOLE)
        usleep(1000);
    snprintf(rig->slot->report.lua, WHERE_LUA, "then.lua:1");
    rig->slot->beat_ms++;
    pass(rig, WATCHDOG_TICK_MS + STALL_MS);
    assert_int_equal(rig->n_stalled, 0); /* asked first */
    await(&rig->slot->asked_beat_ms, rig->slot->beat_ms);
    pass(rig, WATCHDOG_ASK_MS + WATCHDOG_TICK_MS);
    assert_int_equal(rig->n_stalled, 1);
    assert_null(strstr(rig->why, "then.lua"));
    assert_non_null(strstr(rig->why, "in C: "));
}

static void test_a_seat_is_forgotten_with_its_process(void **state)
{
    struct rig *rig = *state;
    pass(rig, STALL_MS);
    scoreboard_release(rig->slot);
    pass(rig, WATCHDOG_TICK_MS);
    assert_false(watchdog_is_late(rig->watchdog, 1));
    scoreboard_take(rig->slot, 1);
    pass(rig, 10 * STALL_MS); /* no pid yet: nobody is asked, least of all the process group */
    assert_int_equal(rig->n_stalled, 0);
}

/* The kernel's own words: a process that sleeps does not wait; what it says of us only grows. */
static void test_what_the_kernel_says(void **state)
{
    struct rig *rig = *state;
    uint64_t before_us = process_stats_waited_us(getpid());
    assert_true(process_stats_waited_us(getpid()) >= before_us);
    assert_int_equal(process_stats_waited_us(0), 0);
    assert_true(process_stats_waited_us(rig->pid) < 60000000);
    assert_true(process_stats_own_bytes() > 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_who_beats_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_then_stalled_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_masters_own_lateness_is_not_theirs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waiting_for_a_core_does_not_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_a_core_is_enough_to_be_stuck, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ten_times_the_limit_is_enough, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_start_has_a_limit_of_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_answer_is_to_one_stall, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_seat_is_forgotten_with_its_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_the_kernel_says, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
