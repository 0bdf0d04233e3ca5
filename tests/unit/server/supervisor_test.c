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
#include <unistd.h>

#include "base/log.h"
#include "net/signal.h"
#include "net/timer.h"
#include "server/control.h"
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

static bool was_here(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", getenv("CHOWK_TEST_DIR"), name);
    return mkdir(path, 0700) != 0;
}

static int serve(bool survives)
{
    struct control_message message;
    struct pollfd fd = {.fd = WORKER_CONTROL, .events = POLLIN};
    control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1);
    while (poll(&fd, 1, -1) > 0 && control_receive(WORKER_CONTROL, &message) == OK)
        if (message.type == CONTROL_DRAIN && !survives)
            return message.value == 7 ? 0 : 1;
        else if (message.type == CONTROL_ADOPT && was_here("adopted"))
            return 9; /* only once */
    return 0;
}

static int play(const char *part, const char *id)
{
    if (strcmp(part, "serve") == 0)
        return serve(false);
    if (strcmp(part, "count") == 0 && count_fds() != 3 + WORKER_N_FDS)
        return 3;
    if (strcmp(part, "count") == 0)
        return serve(false);
    if (strcmp(part, "fail") == 0)
        control_send(WORKER_CONTROL, CONTROL_FAIL, 0, "app.lua:3: it is broken", -1);
    if (strcmp(part, "die once") == 0 && (strcmp(id, "1") != 0 || was_here("died")))
        return serve(false);
    if (strcmp(part, "die once") == 0 && control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1) == OK &&
        usleep(50000) == 0)
        raise(SIGKILL);
    if (strcmp(part, "die always") == 0 && control_send(WORKER_CONTROL, CONTROL_READY, 1, NULL, -1) == OK &&
        usleep(1000) == 0)
        return 5;
    if (strcmp(part, "stubborn") == 0)
        return serve(true);
    return 1;
}

/* ---- the master's side ---- */

struct rig {
    struct loop *loop;
    struct supervisor *supervisor;
    struct signal_watch *child;
    struct timer later;
    char dir[32];
    int null_fd, listeners[2];
    struct segments segments;
    int n_up, n_down;
    char why[2048];
    void (*on_up)(struct rig *rig);
};

static void on_up(void *data)
{
    struct rig *rig = data;
    rig->n_up++;
    if (rig->on_up)
        rig->on_up(rig);
}

static void on_down(void *data, const char *why)
{
    struct rig *rig = data;
    rig->n_down++;
    snprintf(rig->why, sizeof(rig->why), "%s", why ? why : "");
    loop_stop(rig->loop);
}

static void on_child(void *data, int signum)
{
    (void)signum;
    supervisor_reap(((struct rig *)data)->supervisor);
}

static void run(struct rig *rig, const char *part, void (*then)(struct rig *rig))
{
    *rig = (struct rig){.loop = loop_new(), .dir = "/tmp/chowk-super-XXXXXX", .on_up = then};
    assert_non_null(mkdtemp(rig->dir));
    setenv("CHOWK_TEST_DIR", rig->dir, 1);
    setenv("CHOWK_TEST_WORKER", part, 1);
    rig->null_fd = open("/dev/null", O_RDWR); /* not CLOEXEC: must not reach a worker all the same */
    rig->listeners[0] = rig->listeners[1] = rig->null_fd;
    for (int i = 0; i < N_SEGMENTS; i++)
        rig->segments.fds[i] = rig->null_fd;
    rig->child = signal_watch_new(rig->loop, SIGCHLD, on_child, rig);
    struct supervisor_opts opts = {.loop = rig->loop,
                                   .n_workers = 2,
                                   .listeners = rig->listeners,
                                   .config_fd = rig->null_fd,
                                   .segments = &rig->segments,
                                   .on_up = on_up,
                                   .on_down = on_down,
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
    close(rig->null_fd);
    static const char *const marks[] = {"died", "adopted"};
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        snprintf(path, sizeof(path), "%s/%s", rig->dir, marks[i]);
        rmdir(path);
    }
    assert_int_equal(rmdir(rig->dir), 0);
}

static void stop(struct rig *rig)
{
    supervisor_stop(rig->supervisor, 7);
    supervisor_stop(rig->supervisor, 7); /* once is enough */
}

static void test_start_and_drain(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "serve", stop);
    assert_int_equal(rig.n_up, 1);
    assert_string_equal(rig.why, "");
    end(&rig);
}

static void test_workers_get_no_other_descriptor(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "count", stop);
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

static void look_for_death(struct timer *timer)
{
    struct rig *rig = container_of(timer, struct rig, later);
    char path[64];
    struct stat st;
    snprintf(path, sizeof(path), "%s/died", rig->dir);
    if (stat(path, &st) == 0 && rig->n_up == 1) {
        rig->n_up = 2;
        timer_arm(rig->loop, &rig->later, loop_now(rig->loop) + 300, look_for_death);
    } else if (rig->n_up == 2) {
        supervisor_stop(rig->supervisor, 7);
    } else {
        timer_arm(rig->loop, &rig->later, loop_now(rig->loop) + 10, look_for_death);
    }
}

static void wait_for_death(struct rig *rig)
{
    look_for_death(&rig->later);
}

static void test_a_dead_worker_is_replaced(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "die once", wait_for_death);
    assert_string_equal(rig.why, ""); /* both drained: the replacement was there to be stopped */
    end(&rig);
}

static void test_a_crash_loop_ends(void **state)
{
    (void)state;
    struct rig rig;
    run(&rig, "die always", NULL);
    assert_non_null(strstr(rig.why, "exited with status 5"));
    end(&rig);
}

static void kill_after_stop(struct rig *rig)
{
    supervisor_stop(rig->supervisor, 7);
    supervisor_kill(rig->supervisor);
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
        return play(getenv("CHOWK_TEST_WORKER"), argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_and_drain),
        cmocka_unit_test(test_workers_get_no_other_descriptor),
        cmocka_unit_test(test_a_failing_start_says_why_and_ends),
        cmocka_unit_test(test_a_dead_worker_is_replaced),
        cmocka_unit_test(test_a_crash_loop_ends),
        cmocka_unit_test(test_now_means_now),
    };
    log_open(open("/dev/null", O_WRONLY), LOG_ERROR, false, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
