/* The supervisor with workers of the test's own: spawn_self starts this binary again, and main() plays the worker that
 * CHOWK_TEST_WORKER names. */
#include "server/supervisor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "net/signal.h"
#include "net/timer.h"
#include "server/control.h"
#include "server/respawn.h"
#include "server/worker.h"

/* ---- the worker's side ---- */

static int count_fds(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 3; /* ".", ".." and the directory itself */
}

static bool is_there(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", getenv("CHOWK_TEST_DIR"), name);
    return access(path, F_OK) == 0;
}

static bool was_here(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", getenv("CHOWK_TEST_DIR"), name);
    return mkdir(path, 0700) != 0;
}

static void await(const char *name)
{
    while (!is_there(name))
        usleep(1000);
}

/* What a worker was told, for the test to see: "A0" adopt, "R0" release, "L0" leave, "O0" reopen. */
static void note(char what, unsigned number)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/log", getenv("CHOWK_TEST_DIR"));
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    dprintf(fd, "%s%c%u ", getenv("CHOWK_TEST_ID"), what, number);
    close(fd);
}

static int serve(bool survives)
{
    struct control_message message;
    struct pollfd fd = {.fd = WORKER_CONTROL, .events = POLLIN};
    control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1);
    while (poll(&fd, 1, -1) > 0 && control_receive(WORKER_CONTROL, &message) == OK) {
        if (message.type == CONTROL_DRAIN && !survives)
            return message.value == 7 ? 0 : 1;
        if (message.type == CONTROL_ADOPT || message.type == CONTROL_RELEASE)
            note(message.type == CONTROL_ADOPT ? 'A' : 'R', message.value);
        if (message.type == CONTROL_REOPEN)
            note('O', 0);
        if (message.type == CONTROL_LEAVE) {
            note('L', 0);
            return 0;
        }
    }
    return 0;
}

/* The second process of slot 2 waits with its first word until the test has looked at it. */
static int play_next(const char *part, const char *id)
{
    struct control_message message;
    if (strcmp(id, "2") != 0 || !was_here("died"))
        return serve(false);
    await("looked");
    if (strcmp(part, "next dies") == 0) {
        control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1);
        return 5;
    }
    if (control_receive(WORKER_CONTROL, &message) == OK && message.type == CONTROL_REOPEN)
        note('O', 0);
    return serve(false);
}

static int play(const char *part, const char *id)
{
    if (strncmp(part, "next ", 5) == 0)
        return play_next(part, id);
    if (strcmp(part, "serve") == 0)
        return serve(false);
    if (strcmp(part, "0 starts once") == 0 && (strcmp(id, "0") != 0 || !was_here("died")))
        return serve(false);
    if (strcmp(part, "0 starts once") == 0)
        return pause();
    if (strcmp(part, "count") == 0 && count_fds() != 3 + WORKER_N_FDS)
        return 3;
    if (strcmp(part, "count") == 0)
        return serve(false);
    if (strcmp(part, "fail") == 0)
        control_send(WORKER_CONTROL, CONTROL_FAIL, 0, "app.lua:3: it is broken", -1);
    if (strcmp(part, "die once") == 0 && (strcmp(id, "1") != 0 || was_here("died")))
        return serve(false);
    if (strcmp(part, "die once") == 0 && control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1) == OK) {
        await("up");
        raise(SIGKILL);
    }
    if (strcmp(part, "die always") == 0 && control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1) == OK) {
        await("up");
        return 5;
    }
    if (strcmp(part, "stubborn") == 0)
        return serve(true);
    return 1;
}

/* ---- the master's side ---- */

enum { WORKERS = 3 };

struct rig {
    struct loop *loop;
    struct supervisor *supervisor;
    struct scoreboard *board;
    struct signal_watch *child;
    struct timer later;
    char dir[32];
    int null_fd, listeners[WORKERS];
    struct segments segments;
    int n_up, n_down, n_gone, n_ready, step, i;
    uint32_t pid;
    char why[2048];
    bool (*look)(struct rig *rig); /* each 10 ms once all are up; true: the test is over */
};

static void on_later(struct timer *timer)
{
    struct rig *rig = container_of(timer, struct rig, later);
    if (rig->look(rig))
        supervisor_stop(rig->supervisor, 7);
    else
        timer_arm(rig->loop, &rig->later, loop_now(rig->loop) + 10, on_later);
}

static void on_up(void *data)
{
    struct rig *rig = data;
    rig->n_up++;
    (void)was_here("up");
    if (rig->look)
        on_later(&rig->later);
}

static void on_down(void *data, const char *why)
{
    struct rig *rig = data;
    rig->n_down++;
    snprintf(rig->why, sizeof(rig->why), "%s", why ? why : "");
    loop_stop(rig->loop);
}

static void on_slot(void *data, unsigned slot, enum supervisor_event event, const struct control_message *message)
{
    struct rig *rig = data;
    (void)slot, (void)message;
    rig->n_gone += event == SUPERVISOR_ON_GONE;
    rig->n_ready += event == SUPERVISOR_ON_READY;
}

static void on_child(void *data, int signum)
{
    (void)signum;
    supervisor_reap(((struct rig *)data)->supervisor);
}

static void run(struct rig *rig, const char *part, bool (*look)(struct rig *rig))
{
    struct err err;
    *rig = (struct rig){.loop = loop_new(), .dir = "/tmp/chowk-super-XXXXXX", .look = look};
    assert_non_null(mkdtemp(rig->dir));
    setenv("CHOWK_TEST_DIR", rig->dir, 1);
    setenv("CHOWK_TEST_WORKER", part, 1);
    rig->null_fd = open("/dev/null", O_RDWR); /* not CLOEXEC: must not reach a worker all the same */
    for (int i = 0; i < WORKERS; i++)
        rig->listeners[i] = rig->null_fd;
    for (int i = 0; i < N_SEGMENTS; i++)
        rig->segments.fds[i] = rig->null_fd;
    int board_fd = scoreboard_segment_create(WORKERS, &err);
    rig->board = scoreboard_attach(board_fd, &err);
    close(board_fd);
    rig->child = signal_watch_new(rig->loop, SIGCHLD, on_child, rig);
    struct supervisor_opts opts = {.loop = rig->loop,
                                   .n_workers = WORKERS,
                                   .listeners = rig->listeners,
                                   .config_fd = rig->null_fd,
                                   .segments = &rig->segments,
                                   .board = rig->board,
                                   .stall_ms = 600000,
                                   .start_ms = 600000,
                                   .max_memory = 1000,
                                   .drain_ms = 60000,
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_slot = on_slot,
                                   .data = rig};
    rig->supervisor = supervisor_new(&opts);
    supervisor_set_code(rig->supervisor, rig->null_fd, 1);
    supervisor_start(rig->supervisor);
    loop_run(rig->loop);
}

static void end(struct rig *rig)
{
    char path[64];
    assert_int_equal(rig->n_down, 1);
    supervisor_free(rig->supervisor);
    signal_watch_free(rig->child);
    loop_run(rig->loop);
    loop_free(rig->loop);
    scoreboard_detach(rig->board);
    close(rig->null_fd);
    static const char *const marks[] = {"died", "up", "looked"};
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        snprintf(path, sizeof(path), "%s/%s", rig->dir, marks[i]);
        rmdir(path);
    }
    snprintf(path, sizeof(path), "%s/log", rig->dir);
    unlink(path);
    assert_int_equal(rmdir(rig->dir), 0);
}

/* How often. */
static int was_noted(const struct rig *rig, const char *text)
{
    int n = 0;
    char path[64], log[4096] = "";
    snprintf(path, sizeof(path), "%s/log", rig->dir);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, log, sizeof(log) - 1) < 0)
        log[0] = '\0';
    close(fd);
    for (const char *at = log; (at = strstr(at, text)); at++)
        n++;
    return n;
}

static uint32_t pid_of(const struct rig *rig, unsigned seat)
{
    return rig->board->slots[seat].pid;
}

static bool serves(const struct rig *rig, unsigned slot)
{
    return supervisor_presence(rig->supervisor, slot) == SUPERVISOR_SERVING;
}

/* The tests' workers do not beat. */
static void beat(const struct rig *rig)
{
    for (unsigned i = 0; i < rig->board->n_slots; i++)
        rig->board->slots[i].beat_ms++;
}

static bool at_once(struct rig *rig)
{
    supervisor_stop(rig->supervisor, 7); /* and once more: once is enough */
    return true;
}

static void test_start_and_drain(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "serve", at_once);
    assert_int_equal(rig.n_up, 1);
    assert_string_equal(rig.why, "");
    end(&rig);
}

static void test_workers_get_no_other_descriptor(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "count", at_once);
    assert_int_equal(rig.n_up, 1);
    assert_string_equal(rig.why, "");
    end(&rig);
}

static void test_a_failing_start_says_why_and_ends(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "fail", NULL);
    assert_int_equal(rig.n_up, 0);
    assert_string_equal(rig.why, "app.lua:3: it is broken");
    end(&rig);
    run(&rig, "no such part", NULL);
    assert_non_null(strstr(rig.why, "exited with status 1"));
    end(&rig);
}

static bool until_replaced(struct rig *rig)
{
    beat(rig);
    return rig->n_gone == 1 && rig->n_ready == WORKERS + 1;
}

static void test_a_dead_worker_is_replaced(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "die once", until_replaced);
    assert_string_equal(rig.why, ""); /* all drained: the replacement was there to be stopped */
    end(&rig);
}

/* Ready and dead at once, whatever they are: all crash. Then there is other code, and it is good. */
static bool until_revived(struct rig *rig)
{
    assert_int_equal(rig->n_down, 0);
    if (rig->step == 0 && rig->board->n_failed == WORKERS) {
        setenv("CHOWK_TEST_WORKER", "serve", 1);
        supervisor_set_code(rig->supervisor, rig->null_fd, 2);
        assert_int_equal(rig->board->n_failed, 0);
        rig->step = 1;
    }
    return rig->step == 1 && serves(rig, 0) && serves(rig, 1) && serves(rig, 2);
}

static void test_a_crash_loop_ends_no_service_and_new_code_ends_the_loop(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "die always", until_revived);
    assert_string_equal(rig.why, "");
    end(&rig);
}

static bool until_killed_often(struct rig *rig)
{
    enum { KILLS = RESPAWN_CRASH_LOOP + 1 };
    uint32_t pid = pid_of(rig, 1);
    assert_int_equal(rig->board->n_failed, 0);
    beat(rig);
    if (!serves(rig, 1) || pid == rig->pid)
        return false;
    if (rig->i == KILLS)
        return true;
    rig->i++;
    rig->pid = pid;
    kill((pid_t)pid, SIGKILL);
    return false;
}

static void test_kills_from_outside_are_no_crash_loop(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "serve", until_killed_often);
    assert_string_equal(rig.why, "");
    assert_int_equal(rig.n_gone, RESPAWN_CRASH_LOOP + 1 + WORKERS);
    end(&rig);
}

/* Worker 0 dies and does not come back; who accepts for it dies too. */
static bool until_adopted_twice(struct rig *rig)
{
    beat(rig);
    switch (rig->step) {
    case 0:
        kill((pid_t)pid_of(rig, 0), SIGKILL);
        rig->step++;
        return false;
    case 1:
        if (!was_noted(rig, "A0 "))
            return false;
        assert_int_equal(was_noted(rig, "1A0 "), 1);
        kill((pid_t)pid_of(rig, 1), SIGKILL);
        rig->step++;
        return false;
    default:
        return was_noted(rig, "A0 ") == 2 && serves(rig, 1); /* by 2, or by the next 1 if that was quicker */
    }
}

static void test_a_listener_outlives_who_adopted_it(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "0 starts once", until_adopted_twice);
    assert_string_equal(rig.why, "");
    end(&rig);
}

static bool until_stood_still_and_back(struct rig *rig)
{
    if (rig->step == 0) {
        for (unsigned i = 1; i < WORKERS; i++)
            rig->board->slots[i].beat_ms++;
        rig->step = was_noted(rig, "1A0 ") > 0;
        return false;
    }
    beat(rig);
    return was_noted(rig, "1R0 ") > 0;
}

static void test_a_listener_is_given_back(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "serve", until_stood_still_and_back);
    end(&rig);
}

/* What the master sees of a worker that was told to go, by somebody else, or that has grown too large. */
static bool until_succeeded(struct rig *rig, void (*provoke)(struct scoreboard_slot *seat))
{
    beat(rig);
    if (rig->step == 0) {
        rig->pid = pid_of(rig, 2);
        provoke(&rig->board->slots[2]);
        rig->step = 1;
    }
    if (rig->step == 1 && pid_of(rig, WORKERS)) { /* the first seat beyond */
        assert_true(serves(rig, 2));              /* all the while */
        rig->step = 2;
    }
    assert_true(supervisor_n_alive(rig->supervisor) <= WORKERS + 1);
    return rig->step == 2 && was_noted(rig, "2L0 ") && supervisor_n_alive(rig->supervisor) == WORKERS;
}

static void drain(struct scoreboard_slot *seat)
{
    seat->state = SCOREBOARD_DRAINING;
}

static void grow(struct scoreboard_slot *seat)
{
    seat->rss = 1001;
}

static void run_out(struct scoreboard_slot *seat)
{
    seat->running.n_out_of_memory += 3;
}

static bool until_drained(struct rig *rig)
{
    return until_succeeded(rig, drain);
}

static bool until_grown(struct rig *rig)
{
    return until_succeeded(rig, grow);
}

static bool until_run_out(struct rig *rig)
{
    return until_succeeded(rig, run_out);
}

static void test_who_goes_gets_a_successor_first(void **state)
{
    (void)state;
    struct rig rig;
    bool (*const looks[])(struct rig * rig) = {until_drained, until_grown, until_run_out};
    for (size_t i = 0; i < ARRAY_LEN(looks); i++) {
        run(&rig, "serve", looks[i]);
        assert_string_equal(rig.why, "");
        assert_int_equal(rig.board->n_recycled, i > 0);
        assert_int_equal(rig.board->n_deaths, 0);
        end(&rig);
    }
}

/* Ready and dead before anybody hears of either: it was nobody's successor, and its predecessor serves on. */
static bool until_the_next_dies(struct rig *rig)
{
    siginfo_t info;
    uint32_t serving = pid_of(rig, 2), next = pid_of(rig, WORKERS);
    beat(rig);
    grow(&rig->board->slots[2]);
    if (!next)
        return false;
    (void)was_here("looked");
    assert_int_equal(waitid(P_PID, next, &info, WEXITED | WNOWAIT), 0);
    supervisor_reap(rig->supervisor);
    assert_int_equal(supervisor_n_alive(rig->supervisor), WORKERS);
    assert_int_equal(pid_of(rig, 2), serving);
    assert_true(serves(rig, 2));
    return true;
}

static void test_a_dead_successor_succeeds_nobody(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "next dies", until_the_next_dies);
    assert_string_equal(rig.why, "");
    assert_int_equal(was_noted(&rig, "L0 "), 0);
    assert_int_equal(rig.n_ready, WORKERS);
    end(&rig);
}

static bool until_the_next_has_reopened(struct rig *rig)
{
    beat(rig);
    if (rig->step == 0) {
        grow(&rig->board->slots[2]);
        if (!pid_of(rig, WORKERS))
            return false;
        supervisor_reopen(rig->supervisor);
        (void)was_here("looked");
        rig->step = 1;
    }
    return was_noted(rig, "2L0 ") && supervisor_n_alive(rig->supervisor) == WORKERS;
}

static void test_a_process_that_only_starts_reopens_its_log(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "next reopens", until_the_next_has_reopened);
    assert_int_equal(was_noted(&rig, "2O0 "), 2); /* who leaves, and who comes */
    end(&rig);
}

static bool kill_after_stop(struct rig *rig)
{
    supervisor_stop(rig->supervisor, 7);
    supervisor_kill(rig->supervisor);
    return true;
}

static void test_now_means_now(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "stubborn", kill_after_stop);
    assert_string_equal(rig.why, "");
    end(&rig);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], WORKER_ROLE) == 0)
        return setenv("CHOWK_TEST_ID", argv[2], 1) || play(getenv("CHOWK_TEST_WORKER"), argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_and_drain),
        cmocka_unit_test(test_workers_get_no_other_descriptor),
        cmocka_unit_test(test_a_failing_start_says_why_and_ends),
        cmocka_unit_test(test_a_dead_worker_is_replaced),
        cmocka_unit_test(test_a_crash_loop_ends_no_service_and_new_code_ends_the_loop),
        cmocka_unit_test(test_kills_from_outside_are_no_crash_loop),
        cmocka_unit_test(test_a_listener_outlives_who_adopted_it),
        cmocka_unit_test(test_a_listener_is_given_back),
        cmocka_unit_test(test_who_goes_gets_a_successor_first),
        cmocka_unit_test(test_a_dead_successor_succeeds_nobody),
        cmocka_unit_test(test_a_process_that_only_starts_reopens_its_log),
        cmocka_unit_test(test_now_means_now),
    };
    log_open(open("/dev/null", O_WRONLY), LOG_ERROR, false, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
