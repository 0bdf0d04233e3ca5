/* The state machine of reloads, with processes and a check of the test's own: who is asked, who may vote, when it
 * commits, and that nothing is left of what failed. */
#include "server/reload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/timer.h"

enum { N_SLOTS = 3, TIMEOUT_MS = 1000 };

struct answers {
    int n;
    struct reload_result last;
    char error[RELOAD_ERROR], hash[RELOAD_HASH];
};

static struct {
    struct loop *loop;
    struct reload_state *state;
    struct reload *reload;
    enum reload_presence slots[N_SLOTS];
    enum status send_status;
    struct {
        enum control_type type;
        uint32_t number;
        bool has_fd;
    } sent[N_SLOTS][128];
    int n_sent[N_SLOTS], n_checks, n_stopped_checks, n_commits;
    uint32_t committed;
    bool check_fails;
    uint64_t now_ms;
} world;

static enum reload_presence presence(void *data, unsigned slot)
{
    assert_ptr_equal(data, &world);
    return world.slots[slot];
}

static enum status send_to(void *data UNUSED, unsigned slot, enum control_type type, uint32_t number, int fd)
{
    assert_int_equal(world.slots[slot], RELOAD_READY);
    if (world.send_status != OK)
        return world.send_status;
    int n = world.n_sent[slot]++;
    assert_true(n < 128);
    world.sent[slot][n].type = type;
    world.sent[slot][n].number = number;
    world.sent[slot][n].has_fd = fd >= 0;
    return OK;
}

static enum status start_check(void *data UNUSED, struct err *err)
{
    world.n_checks++;
    return world.check_fails ? err_set(err, ERR_SYSTEM, "fork: no") : OK;
}

static void stop_check(void *data UNUSED)
{
    world.n_stopped_checks++;
}

static void on_commit(void *data UNUSED, int bundle_fd, uint32_t number)
{
    assert_true(fcntl(bundle_fd, F_GETFD) >= 0);
    world.n_commits++;
    world.committed = number;
}

static int some_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int count_fds(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void on_answer(void *data, const struct reload_result *result)
{
    struct answers *answers = data;
    answers->n++;
    answers->last = *result;
    snprintf(answers->error, sizeof(answers->error), "%s", result->error ? result->error : "");
    snprintf(answers->hash, sizeof(answers->hash), "%s", result->hash);
}

static int n_fds_before;

static int setup(void **state)
{
    struct err err = {0};
    (void)state;
    memset(&world, 0, sizeof(world));
    log_open(STDERR_FILENO, (enum log_level)(LOG_ERROR + 1), false, NULL);
    n_fds_before = count_fds();
    world.now_ms = 1000000;
    clock_fake(world.now_ms, 0);
    world.loop = loop_new();
    int fd = reload_state_segment_create(&err);
    assert_true(fd >= 0);
    world.state = reload_state_attach(fd, &err);
    assert_non_null(world.state);
    close(fd);
    for (int i = 0; i < N_SLOTS; i++)
        world.slots[i] = RELOAD_READY;
    static struct reload_opts opts;
    opts = (struct reload_opts){.loop = world.loop,
                                .state = world.state,
                                .timeout_ms = TIMEOUT_MS,
                                .n_slots = N_SLOTS,
                                .presence = presence,
                                .send = send_to,
                                .start_check = start_check,
                                .stop_check = stop_check,
                                .on_commit = on_commit,
                                .data = &world};
    world.reload = reload_new(&opts, some_fd(), "first");
    reload_up(world.reload);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    reload_free(world.reload);
    reload_state_detach(world.state);
    loop_turn(world.loop, false);
    loop_free(world.loop);
    clock_fake(0, 0);
    assert_int_equal(count_fds(), n_fds_before); /* every bundle is closed, whatever happened */
    return 0;
}

static void ask(enum reload_kind kind, struct answers *answers)
{
    reload_begin(world.reload, kind, on_answer, answers);
}

static void checked(const char *hash)
{
    struct reload_checked result = {.bundle_fd = some_fd(), .n_routes = 7};
    snprintf(result.hash, sizeof(result.hash), "%s", hash);
    reload_checked(world.reload, &result);
}

static void check_failed(const char *error)
{
    reload_checked(world.reload, &(struct reload_checked){.bundle_fd = -1, .error = error});
}

static uint32_t asked(int slot) /* the number of the last PREPARE */
{
    for (int i = world.n_sent[slot] - 1; i >= 0; i--)
        if (world.sent[slot][i].type == CONTROL_PREPARE)
            return world.sent[slot][i].number;
    return 0;
}

static void vote_all(void)
{
    for (int i = 0; i < N_SLOTS; i++)
        if (world.slots[i] == RELOAD_READY)
            reload_on_vote(world.reload, (unsigned)i, asked(i), NULL);
}

static void reload_to(const char *hash)
{
    struct answers answers = {0};
    ask(RELOAD_FROM_DISK, &answers);
    checked(hash);
    vote_all();
    assert_int_equal(answers.n, 1);
    assert_true(answers.last.is_ok);
    assert_string_equal(answers.hash, hash);
}

static void wait_ms(uint64_t ms)
{
    world.now_ms += ms;
    clock_fake(world.now_ms, 0);
    loop_turn(world.loop, false);
}

/* ---- the way it goes ---- */

static void test_commits_when_all_have_voted(void **state)
{
    struct answers answers = {0};
    struct reload_view view;
    (void)state;
    assert_int_equal(reload_state_committed(world.state), 1);
    ask(RELOAD_FROM_DISK, &answers);
    assert_int_equal(world.n_checks, 1);
    assert_int_equal(world.n_sent[0], 0); /* no worker is touched before the check has passed */
    checked("second");
    for (int i = 0; i < N_SLOTS; i++)
        assert_true(world.sent[i][0].has_fd && world.sent[i][0].number == 2);
    reload_on_vote(world.reload, 0, 2, NULL);
    reload_on_vote(world.reload, 2, 2, NULL);
    assert_int_equal(reload_state_committed(world.state), 1);
    reload_on_vote(world.reload, 1, 2, NULL);
    assert_int_equal(reload_state_committed(world.state), 2);
    assert_int_equal(world.committed, 2);
    assert_int_equal(world.sent[1][1].type, CONTROL_COMMIT);
    assert_true(answers.n == 1 && answers.last.is_ok && answers.last.n_routes == 7 && answers.last.number == 2);
    assert_int_equal(reload_state_read(world.state, &view), OK);
    assert_string_equal(view.hash, "second");
    assert_true(view.n_ok == 1 && view.n_failed == 0 && view.n_routes == 7);
}

static void test_a_failed_check_touches_nobody(void **state)
{
    struct answers answers = {0};
    struct reload_view view;
    (void)state;
    ask(RELOAD_FROM_DISK, &answers);
    check_failed("app.lua:3: no\nstack traceback:");
    assert_true(answers.n == 1 && !answers.last.is_ok && answers.last.number == 1);
    assert_string_equal(answers.error, "app.lua:3: no\nstack traceback:");
    assert_int_equal(world.n_sent[0] + world.n_sent[1] + world.n_sent[2], 0);
    assert_int_equal(reload_state_read(world.state, &view), OK);
    assert_string_equal(view.error, "app.lua:3: no\nstack traceback:");
    assert_true(view.n_failed == 1 && view.is_last_failed);
    reload_to("mended");
    assert_int_equal(reload_state_read(world.state, &view), OK);
    assert_false(view.is_last_failed);
}

static void test_a_check_that_cannot_start(void **state)
{
    struct answers answers = {0};
    (void)state;
    world.check_fails = true;
    ask(RELOAD_FROM_DISK, &answers);
    assert_int_equal(answers.n, 1);
    assert_string_equal(answers.error, "fork: no");
}

/* ---- votes ---- */

static void test_one_refusal_aborts_for_all(void **state)
{
    struct answers answers = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    reload_on_vote(world.reload, 0, 2, NULL);
    reload_on_vote(world.reload, 1, 2, "app.lua:9: only here");
    assert_string_equal(answers.error, "app.lua:9: only here");
    for (int i = 0; i < N_SLOTS; i++)
        assert_true(world.sent[i][1].type == CONTROL_ABORT && world.sent[i][1].number == 2);
    reload_on_vote(world.reload, 2, 2, NULL); /* too late */
    assert_int_equal(reload_state_committed(world.state), 1);
    reload_to("third"); /* and a number is not used twice */
    assert_int_equal(reload_state_committed(world.state), 3);
}

static void test_a_vote_of_an_earlier_attempt_counts_for_nothing(void **state)
{
    struct answers answers = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    reload_on_vote(world.reload, 1, 2, "no");
    ask(RELOAD_FROM_DISK, &answers);
    checked("third");
    for (unsigned i = 0; i < N_SLOTS; i++)
        reload_on_vote(world.reload, i, 2, NULL);
    assert_int_equal(reload_state_committed(world.state), 1);
    vote_all();
    assert_int_equal(reload_state_committed(world.state), 3);
}

static void test_silence_ends_it(void **state)
{
    struct answers answers = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    reload_on_vote(world.reload, 0, 2, NULL);
    reload_on_vote(world.reload, 2, 2, NULL);
    wait_ms(TIMEOUT_MS - 1);
    assert_int_equal(answers.n, 0);
    wait_ms(1);
    assert_int_equal(answers.n, 1);
    assert_non_null(strstr(answers.error, "process 1 "));
    assert_int_equal(world.sent[1][1].type, CONTROL_ABORT);
}

static void test_who_cannot_be_reached_aborts(void **state)
{
    struct answers answers = {0};
    (void)state;
    world.send_status = AGAIN;
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    assert_int_equal(answers.n, 1);
    assert_false(answers.last.is_ok);
}

static void test_the_dead_have_no_vote_and_the_newborn_have(void **state)
{
    struct answers answers = {0};
    (void)state;
    world.slots[2] = RELOAD_ABSENT; /* waits for its restart */
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    reload_on_vote(world.reload, 0, 2, NULL);
    reload_on_vote(world.reload, 1, 2, NULL);
    assert_int_equal(reload_state_committed(world.state), 2); /* slot 2 will start with it */

    world.slots[2] = RELOAD_READY;
    ask(RELOAD_FROM_DISK, &answers);
    checked("third");
    reload_on_vote(world.reload, 0, 3, NULL);
    reload_on_vote(world.reload, 1, 3, NULL);
    world.slots[1] = RELOAD_ABSENT; /* dies after its vote */
    reload_on_gone(world.reload, 1);
    world.slots[1] = RELOAD_STARTING; /* with the committed bundle */
    reload_on_vote(world.reload, 2, 3, NULL);
    assert_int_equal(reload_state_committed(world.state), 2);
    world.slots[1] = RELOAD_READY;
    reload_on_ready(world.reload, 1);
    assert_int_equal(asked(1), 3); /* it joins, and votes again */
    reload_on_vote(world.reload, 1, 3, NULL);
    assert_int_equal(reload_state_committed(world.state), 3);
}

static void test_the_death_of_the_last_one_to_vote_commits(void **state)
{
    struct answers answers = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    reload_on_vote(world.reload, 0, 2, NULL);
    reload_on_vote(world.reload, 1, 2, NULL);
    world.slots[2] = RELOAD_ABSENT;
    reload_on_gone(world.reload, 2);
    assert_int_equal(reload_state_committed(world.state), 2);
}

/* ---- who asks ---- */

static void test_who_asks_meanwhile_gets_the_next_one(void **state)
{
    struct answers first = {0}, later[3] = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &first);
    for (int i = 0; i < 3; i++)
        ask(RELOAD_FROM_DISK, &later[i]);
    checked("second");
    vote_all();
    assert_int_equal(first.n, 1);
    assert_int_equal(later[0].n + later[1].n + later[2].n, 0);
    assert_int_equal(world.n_checks, 2); /* one for the three */
    checked("third");
    vote_all();
    for (int i = 0; i < 3; i++)
        assert_true(later[i].n == 1 && later[i].last.number == 3);
    assert_int_equal(first.n, 1);
}

static void test_a_save_without_a_change_does_nothing(void **state)
{
    struct answers answers = {0};
    (void)state;
    ask(RELOAD_ON_SAVE, &answers);
    checked("first");
    assert_true(answers.n == 1 && answers.last.is_ok && answers.last.is_unchanged);
    assert_int_equal(world.n_sent[0], 0);
    ask(RELOAD_FROM_DISK, &answers); /* asked for by a person it is done */
    checked("first");
    vote_all();
    assert_int_equal(reload_state_committed(world.state), 2);
}

static void test_a_save_that_takes_a_mistake_back_is_told(void **state)
{
    struct answers answers = {0};
    struct reload_view view;
    (void)state;
    ask(RELOAD_ON_SAVE, &answers);
    check_failed("app.lua:1: no");
    ask(RELOAD_ON_SAVE, &answers);
    checked("first");
    vote_all();
    assert_int_equal(reload_state_read(world.state, &view), OK);
    assert_false(view.is_last_failed);
}

static void test_too_many_are_refused(void **state)
{
    static struct answers answers[RELOAD_MAX_ASKERS + 1];
    (void)state;
    memset(answers, 0, sizeof(answers));
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        ask(RELOAD_FROM_DISK, &answers[i]);
    assert_int_equal(answers[RELOAD_MAX_ASKERS].n, 1);
    assert_int_equal(answers[RELOAD_MAX_ASKERS - 1].n, 0);
}

/* ---- going back ---- */

static void test_rolls_back_step_by_step(void **state)
{
    struct answers answers = {0};
    (void)state;
    reload_to("second");
    reload_to("third");
    reload_to("third"); /* the same code again is no step */
    for (int i = 0; i < 2; i++) {
        ask(RELOAD_ROLLBACK, &answers);
        vote_all();
        assert_string_equal(answers.hash, i == 0 ? "second" : "first");
    }
    assert_int_equal(world.n_checks, 3); /* that code has served before */
    ask(RELOAD_ROLLBACK, &answers);
    assert_int_equal(answers.n, 3);
    assert_string_equal(answers.error, "there is no earlier code to return to");
}

static void test_a_rollback_that_fails_can_be_tried_again(void **state)
{
    struct answers answers = {0};
    (void)state;
    reload_to("second");
    ask(RELOAD_ROLLBACK, &answers);
    reload_on_vote(world.reload, 0, asked(0), "no room");
    assert_string_equal(answers.error, "no room");
    assert_string_equal(answers.hash, "second");
    ask(RELOAD_ROLLBACK, &answers);
    vote_all();
    assert_string_equal(answers.hash, "first");
}

static void test_no_rollback_into_a_reload(void **state)
{
    struct answers running = {0}, answers = {0};
    (void)state;
    reload_to("second");
    ask(RELOAD_FROM_DISK, &running);
    ask(RELOAD_ROLLBACK, &answers);
    assert_string_equal(answers.error, "a reload is in progress: roll back when it is over");
}

static void test_keeps_a_bounded_history(void **state)
{
    struct answers answers = {0};
    char hash[16];
    int fds = count_fds();
    (void)state;
    for (int i = 0; i < 30; i++) {
        snprintf(hash, sizeof(hash), "h%d", i);
        reload_to(hash);
    }
    assert_int_equal(count_fds(), fds + RELOAD_HISTORY);
    for (int i = 0; i < RELOAD_HISTORY; i++) {
        ask(RELOAD_ROLLBACK, &answers);
        vote_all();
    }
    assert_string_equal(answers.hash, "h24");
    ask(RELOAD_ROLLBACK, &answers);
    assert_false(answers.last.is_ok);
}

/* ---- the ends ---- */

static void test_a_stop_drops_what_is_under_way(void **state)
{
    struct answers checking = {0}, waiting = {0}, late = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &checking);
    ask(RELOAD_FROM_DISK, &waiting);
    reload_stop(world.reload);
    assert_int_equal(world.n_stopped_checks, 1);
    assert_string_equal(checking.error, "the server is stopping");
    assert_string_equal(waiting.error, "the server is stopping");
    ask(RELOAD_FROM_DISK, &late);
    assert_string_equal(late.error, "the server is stopping");
    assert_int_equal(world.n_checks, 1);
}

static void test_a_stop_while_they_vote(void **state)
{
    struct answers answers = {0};
    (void)state;
    ask(RELOAD_FROM_DISK, &answers);
    checked("second");
    reload_stop(world.reload);
    assert_int_equal(world.sent[0][1].type, CONTROL_ABORT);
    vote_all();
    assert_int_equal(reload_state_committed(world.state), 1);
    assert_int_equal(answers.n, 1);
}

static void ask_again(void *data, const struct reload_result *result)
{
    on_answer(data, result);
    if (((struct answers *)data)->n == 1)
        reload_begin(world.reload, RELOAD_FROM_DISK, on_answer, data);
}

static void test_an_answer_may_ask_again(void **state)
{
    struct answers answers = {0};
    (void)state;
    reload_begin(world.reload, RELOAD_FROM_DISK, ask_again, &answers);
    check_failed("no");
    assert_int_equal(world.n_checks, 2);
    checked("second");
    vote_all();
    assert_true(answers.n == 2 && answers.last.is_ok);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_commits_when_all_have_voted),
        TEST(test_a_failed_check_touches_nobody),
        TEST(test_a_check_that_cannot_start),
        TEST(test_one_refusal_aborts_for_all),
        TEST(test_a_vote_of_an_earlier_attempt_counts_for_nothing),
        TEST(test_silence_ends_it),
        TEST(test_who_cannot_be_reached_aborts),
        TEST(test_the_dead_have_no_vote_and_the_newborn_have),
        TEST(test_the_death_of_the_last_one_to_vote_commits),
        TEST(test_who_asks_meanwhile_gets_the_next_one),
        TEST(test_a_save_without_a_change_does_nothing),
        TEST(test_a_save_that_takes_a_mistake_back_is_told),
        TEST(test_too_many_are_refused),
        TEST(test_rolls_back_step_by_step),
        TEST(test_a_rollback_that_fails_can_be_tried_again),
        TEST(test_no_rollback_into_a_reload),
        TEST(test_keeps_a_bounded_history),
        TEST(test_a_stop_drops_what_is_under_way),
        TEST(test_a_stop_while_they_vote),
        TEST(test_an_answer_may_ask_again),
    };
    loop_free(loop_new()); /* what libuv opens once and keeps is no leak */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
