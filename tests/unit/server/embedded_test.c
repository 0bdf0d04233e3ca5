/* The embedded servers, really started, as root and not: data survives stop, kill -9 of the owner and kill -9 of the
 * server; the servers die with their owner; a second user joins; failures say why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "data/pg_admin.h"
#include "server/embedded.h"

#define PATIENCE_MS 30000

static char root[32], var_dir[64];
static struct err err;
static const char *const quick[] = {"fsync=off", NULL};

static struct embedded *start_pg(void)
{
    err = (struct err){0};
    return embedded_pg_start(&(struct embedded_opts){.var_dir = var_dir, .settings = quick}, &err);
}

static struct embedded *start_redis(void)
{
    err = (struct err){0};
    return embedded_redis_start(&(struct embedded_opts){.var_dir = var_dir}, &err);
}

static struct embedded *must(struct embedded *server)
{
    if (!server)
        fail_msg("%s", err.message);
    return server;
}

static void exec_sql(const char *url, const char *sql)
{
    struct pg_admin *admin = pg_admin_open(url, &err);
    if (!admin || pg_admin_exec(admin, sql, &(int){0}, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
    pg_admin_close(admin);
}

static void assert_sql(const char *url, const char *sql, const char *expected)
{
    struct arena arena;
    struct slice *values;
    size_t n;
    char got[64] = "";
    arena_create(&arena);
    struct pg_admin *admin = pg_admin_open(url, &err);
    if (!admin || pg_admin_column(admin, sql, NULL, 0, &arena, &values, &n, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
    if (n > 0)
        snprintf(got, sizeof got, "%.*s", SLICE_FMT(values[0]));
    pg_admin_close(admin);
    arena_destroy(&arena);
    assert_string_equal(got, expected);
}

static void assert_redis(const char *url, const char *command, const char *expected)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char got[256];
    assert_memory_equal(url, "unix:///tmp/chowk-", 18);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", url + 7);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(send(fd, command, strlen(command), MSG_NOSIGNAL), strlen(command));
    ssize_t n = recv(fd, got, sizeof got - 1, 0);
    got[n > 0 ? n : 0] = '\0';
    close(fd);
    assert_string_equal(got, expected);
}

static uid_t uid_of(pid_t pid)
{
    char path[48];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    assert_int_equal(stat(path, &st), 0);
    return st.st_uid;
}

/* We are their reaper now. */
static void assert_dies(pid_t pid)
{
    for (uint64_t end = clock_ms() + PATIENCE_MS; clock_ms() < end; usleep(5000)) {
        pid_t got = waitpid(pid, NULL, WNOHANG);
        if (got == pid || (got < 0 && errno == ECHILD && kill(pid, 0) != 0))
            return;
    }
    fail_msg("process %d is still there", (int)pid);
}

static int setup_in(mode_t mode)
{
    log_open(STDERR_FILENO, LOG_ERROR, false, NULL);
    snprintf(root, sizeof root, "/tmp/embedded_test.XXXXXX");
    if (!mkdtemp(root) || chmod(root, mode) != 0)
        return -1;
    snprintf(var_dir, sizeof var_dir, "%s/app/var", root);
    return prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static int setup(void **state)
{
    (void)state;
    return setup_in(0755);
}

static int setup_secret(void **state)
{
    (void)state;
    return setup_in(0700);
}

static int teardown(void **state)
{
    (void)state;
    char line[256];
    snprintf(line, sizeof line, "d=$(readlink '%s/pg'); [ -z \"$d\" ] || rm -rf \"${d%%/pg}\"; rm -rf '%s'", var_dir,
             root);
    return system(line) == 0 && arena_live() == 0 ? 0 : -1;
}

static void serves_and_keeps_data(void **state)
{
    (void)state;
    struct embedded *pg = must(start_pg()), *redis = must(start_redis());
    assert_true(embedded_is_owned(pg) && embedded_is_owned(redis));
    exec_sql(embedded_url(pg), "CREATE TABLE t AS SELECT 42 AS n");
    assert_sql(embedded_url(pg), "SELECT current_user || '/' || current_database()", "chowk/chowk");
    assert_sql(embedded_url(pg), "SELECT rolsuper::text FROM pg_roles WHERE rolname = 'chowk'", "true");
    assert_sql(embedded_url(pg), "SHOW listen_addresses", "");
    assert_redis(embedded_url(redis), "SET k v\r\n", "+OK\r\n");
    assert_redis(embedded_url(redis), "CONFIG GET port\r\n", "*2\r\n$4\r\nport\r\n$1\r\n0\r\n");
    /* Neither root, nor within reach of the terminal's Ctrl-C. */
    pid_t pids[] = {embedded_pid(pg), embedded_pid(redis)};
    for (size_t i = 0; i < 2; i++) {
        assert_int_not_equal(uid_of(pids[i]), 0);
        assert_int_not_equal(getsid(pids[i]), getsid(0));
    }
    embedded_stop(pg);
    embedded_stop(redis);
    for (size_t i = 0; i < 2; i++)
        assert_dies(pids[i]);
    pg = must(start_pg());
    assert_sql(embedded_url(pg), "SELECT n FROM t", "42");
    embedded_stop(pg);
}

static void hides_behind_a_secret_directory(void **state)
{
    (void)state;
    struct stat st;
    char path[80];
    struct embedded *pg = must(start_pg());
    exec_sql(embedded_url(pg), "CREATE TABLE t AS SELECT 1 AS n");
    embedded_stop(pg);
    pg = must(start_pg());
    assert_sql(embedded_url(pg), "SELECT n FROM t", "1");
    embedded_stop(pg);
    snprintf(path, sizeof path, "%s/pg", var_dir);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(S_ISLNK(st.st_mode), geteuid() == 0);
}

/* Starts both and waits to be killed. */
static pid_t fork_owner(pid_t servers[2])
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        struct embedded *pg = start_pg(), *redis = pg ? start_redis() : NULL;
        pid_t pids[2] = {pg ? embedded_pid(pg) : 0, redis ? embedded_pid(redis) : 0};
        if (write(fds[1], pids, sizeof pids) == sizeof pids)
            for (;;)
                pause();
        _exit(1);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], servers, 2 * sizeof servers[0]), 2 * sizeof servers[0]);
    close(fds[0]);
    assert_true(servers[0] > 0 && servers[1] > 0);
    return child;
}

static void dies_with_its_owner(void **state)
{
    (void)state;
    pid_t servers[2], owner = fork_owner(servers);
    struct embedded *guest = must(start_pg()), *guest_redis = must(start_redis());
    assert_false(embedded_is_owned(guest) || embedded_is_owned(guest_redis));
    assert_int_equal(embedded_pid(guest), 0);
    exec_sql(embedded_url(guest), "CREATE TABLE t AS SELECT 7 AS n");
    embedded_stop(guest);
    embedded_stop(guest_redis);
    assert_int_equal(kill(servers[0], 0) + kill(servers[1], 0), 0); /* a guest stops nothing */

    kill(owner, SIGKILL);
    assert_int_equal(waitpid(owner, NULL, 0), owner);
    /* At once, while they are still going down. */
    struct embedded *pg = must(start_pg()), *redis = must(start_redis());
    assert_true(embedded_is_owned(pg) && embedded_is_owned(redis));
    assert_sql(embedded_url(pg), "SELECT n FROM t", "7");
    assert_redis(embedded_url(redis), "PING\r\n", "+PONG\r\n");
    assert_int_not_equal(embedded_pid(pg), servers[0]);
    assert_dies(servers[0]);
    assert_dies(servers[1]);
    embedded_stop(pg);
    embedded_stop(redis);
}

static void dies_though_nobody_comes(void **state)
{
    (void)state;
    pid_t servers[2], owner = fork_owner(servers);
    kill(owner, SIGKILL);
    assert_int_equal(waitpid(owner, NULL, 0), owner);
    assert_dies(servers[0]);
    assert_dies(servers[1]);
    embedded_stop(must(start_pg())); /* and the next one cleans up */
    embedded_stop(must(start_redis()));
}

static void survives_its_own_crash(void **state)
{
    (void)state;
    char line[160];
    struct embedded *pg = must(start_pg());
    exec_sql(embedded_url(pg), "CREATE TABLE t AS SELECT 5 AS n");
    kill(embedded_pid(pg), SIGKILL);
    embedded_stop(pg);
    pg = must(start_pg()); /* its children may still hold its memory */
    assert_sql(embedded_url(pg), "SELECT n FROM t", "5");
    kill(embedded_pid(pg), SIGKILL);
    embedded_stop(pg);
    while (waitpid(-1, NULL, 0) > 0) /* its children have let go */
        ;
    /* The pid in its postmaster.pid belongs to somebody else by now: to this test. */
    snprintf(line, sizeof line, "sed -i '1s/.*/%d/' %s/pg/postmaster.pid", (int)getpid(), var_dir);
    assert_int_equal(system(line), 0);
    pg = must(start_pg());
    assert_sql(embedded_url(pg), "SELECT n FROM t", "5");
    embedded_stop(pg);
}

static void waits_for_a_brief_owner(void **state)
{
    (void)state;
    struct embedded_opts brief = {.var_dir = var_dir, .brief = true};
    struct embedded *first = must(embedded_redis_start(&brief, &err));
    struct embedded *second = must(embedded_redis_start(&brief, &err));
    assert_false(embedded_is_owned(second)); /* one short command beside another */
    embedded_stop(second);
    assert_null(embedded_redis_start(&(struct embedded_opts){.var_dir = var_dir, .ready_ms = 100}, &err));
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    char expected[32];
    snprintf(expected, sizeof expected, "process %d holds", (int)getpid());
    assert_non_null(strstr(err.message, expected));
    embedded_stop(first);
    struct embedded *lasting = must(start_redis());
    assert_true(embedded_is_owned(lasting));
    embedded_stop(lasting);
}

static void says_why_it_does_not_start(void **state)
{
    (void)state;
    char line[160];
    embedded_stop(must(start_pg()));
    const char *const nonsense[] = {"shared_buffers=plenty", NULL};
    assert_null(embedded_pg_start(&(struct embedded_opts){.var_dir = var_dir, .settings = nonsense}, &err));
    assert_non_null(strstr(err.message, "PostgreSQL did not start: FATAL:"));
    assert_non_null(strstr(err.message, "shared_buffers"));
    assert_non_null(strstr(err.message, "/log/pg.log"));
    snprintf(line, sizeof line, "echo 97 > %s/pg/PG_VERSION", var_dir);
    assert_int_equal(system(line), 0);
    assert_null(start_pg());
    assert_non_null(strstr(err.message, "postgresql-97"));
    snprintf(var_dir, sizeof var_dir, "/proc/nowhere");
    assert_null(start_redis());
    assert_non_null(strstr(err.message, "/proc/nowhere"));
    snprintf(var_dir, sizeof var_dir, "%s/app/var", root);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(serves_and_keeps_data),
        cmocka_unit_test_setup_teardown(hides_behind_a_secret_directory, setup_secret, teardown),
        TEST(dies_with_its_owner),
        TEST(dies_though_nobody_comes),
        TEST(survives_its_own_crash),
        TEST(waits_for_a_brief_owner),
        TEST(says_why_it_does_not_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
