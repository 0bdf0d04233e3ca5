/* The operator's socket: a real one in a directory of the test's own, clients by hand and, in a child, by ops_call. */
#include "server/ops.h"

#include "../net/net_help.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/arena.h"

struct fixture {
    struct loop *loop;
    struct ops *ops;
    struct ops_call *kept; /* answered by the test */
    char dir[512];
};

static void on_echo(void *data, struct ops_call *call)
{
    (void)data;
    struct buf json = {0};
    buf_printf(&json, "{\"first\":\"%s\",\"now\":%d}", ops_arg(call, 0) ? ops_arg(call, 0) : "",
               ops_has_arg(call, "--now"));
    ops_progress(call, "working %d", 1);
    ops_progress(call, "working %d", 2);
    ops_done(call, buf_as_slice(&json));
    buf_free(&json);
}

static void on_fail(void *data, struct ops_call *call)
{
    (void)data;
    struct err err = {0};
    err_set(&err, ERR_INVALID, "app.lua:3: \"broken\"");
    snprintf(err.detail, sizeof(err.detail), "stack\ntraceback");
    ops_fail(call, &err);
}

static void on_keep(void *data, struct ops_call *call)
{
    ((struct fixture *)data)->kept = call;
}

static int setup(void **state)
{
    struct fixture *fixture = xalloc(sizeof(*fixture));
    snprintf(fixture->dir, sizeof(fixture->dir), "/tmp/chowk-ops.XXXXXX");
    assert_non_null(mkdtemp(fixture->dir));
    /* Longer than a socket address holds. */
    for (int i = 0; i < 4; i++) {
        strcat(fixture->dir, "/a-directory-with-a-rather-long-name-");
        assert_int_equal(mkdir(fixture->dir, 0700), 0);
    }
    fixture->loop = loop_new();
    int fd = ops_listen(fixture->dir, NULL);
    assert_true(fd >= 0);
    fixture->ops = ops_new(fixture->loop, fd);
    ops_start(fixture->ops);
    ops_register(fixture->ops, "echo", 0, on_echo, fixture);
    ops_register(fixture->ops, "fail", 0, on_fail, fixture);
    ops_register(fixture->ops, "keep", 0, on_keep, fixture);
    ops_register(fixture->ops, "hurry", 50, on_keep, fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    ops_unlink(fixture->dir);
    ops_free(fixture->ops);
    while (loop_turn(fixture->loop, false))
        ;
    loop_free(fixture->loop);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(rmdir(fixture->dir), 0); /* also: nothing was left behind */
        *strrchr(fixture->dir, '/') = '\0';
    }
    free(fixture);
    return arena_live() == 0 ? 0 : -1;
}

static int dial(const struct fixture *fixture)
{
    char path[64];
    struct addr addr;
    int dir = open(fixture->dir, O_PATH | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d/" OPS_SOCKET, dir);
    assert_int_equal(addr_unix(path, &addr, NULL), OK);
    int fd = connect_to(&addr);
    close(dir);
    return fd;
}

/* Takes what is there; true at the end. */
static bool has_ended(int fd, char *out, size_t size, size_t *len)
{
    ssize_t n;
    while ((n = read(fd, out + *len, size - 1 - *len)) > 0)
        *len += (size_t)n;
    out[*len] = '\0';
    return n == 0 || errno != EAGAIN;
}

/* Speaks `request` and turns the loop until the answer's end. */
static void talk(struct fixture *fixture, const char *request, char *answer, size_t size)
{
    int fd = dial(fixture);
    size_t len = 0;
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    RUN_UNTIL(fixture->loop, has_ended(fd, answer, size, &len));
    close(fd);
}

static void test_socket_is_the_owners(void **state)
{
    struct fixture *fixture = *state;
    char path[600];
    struct stat st;
    snprintf(path, sizeof(path), "%s/" OPS_SOCKET, fixture->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_stale_socket_is_replaced(void **state)
{
    struct fixture *fixture = *state;
    char answer[256];
    ops_free(fixture->ops); /* the path stays */
    int fd = ops_listen(fixture->dir, NULL);
    assert_true(fd >= 0);
    fixture->ops = ops_new(fixture->loop, fd);
    ops_start(fixture->ops);
    ops_register(fixture->ops, "fail", 0, on_fail, fixture);
    talk(fixture, "{\"command\":\"fail\"}\n", answer, sizeof(answer));
    assert_string_equal(answer,
                        "{\"ok\":false,\"error\":\"app.lua:3: \\\"broken\\\"\",\"detail\":\"stack\\ntraceback\"}\n");
}

static void test_answers(void **state)
{
    char answer[512];
    talk(*state, "{\"command\":\"echo\",\"args\":[\"a b\",\"--now\"]}\n", answer, sizeof(answer));
    assert_string_equal(answer, "{\"progress\":\"working 1\"}\n{\"progress\":\"working 2\"}\n"
                                "{\"ok\":true,\"result\":{\"first\":\"a b\",\"now\":1}}\n");
}

static void test_refuses(void **state)
{
    static const char *const nonsense[] = {
        "\n",
        "GET / HTTP/1.1\r\n",
        "{}\n",
        "[]\n",
        "{\"command\":1}\n",
        "{\"command\":\"echo\",\"args\":\"x\"}\n",
        "{\"command\":\"echo\",\"args\":[[\"x\"]]}\n",
        "{\"command\":\"echo\",\"more\":\"x\"}\n",
        "{\"command\":\"echo\",\"args\":[\"nul \\u0000\"]}\n",
    };
    char answer[512];
    for (size_t i = 0; i < ARRAY_LEN(nonsense); i++) {
        talk(*state, nonsense[i], answer, sizeof(answer));
        if (!strstr(answer, "no request of the form"))
            fail_msg("%s → %s", nonsense[i], answer);
    }
    talk(*state, "{\"command\":\"dance\"}\n", answer, sizeof(answer));
    assert_string_equal(answer, "{\"ok\":false,\"error\":\"this chowk has no command \\\"dance\\\"\"}\n");
}

static void test_too_long(void **state)
{
    char answer[256];
    char *request = xalloc(OPS_MAX_REQUEST + 2);
    memset(request, 'x', OPS_MAX_REQUEST + 1);
    talk(*state, request, answer, sizeof(answer));
    assert_non_null(strstr(answer, "too long"));
    free(request);
}

static void test_client_goes_away(void **state)
{
    struct fixture *fixture = *state;
    int fd = dial(fixture);
    assert_int_equal(write(fd, "{\"command\":\"keep\"}\n", 19), 19);
    RUN_UNTIL(fixture->loop, fixture->kept);
    close(fd);
    for (int i = 0; i < 5; i++)
        loop_turn(fixture->loop, false);
    ops_progress(fixture->kept, "is anybody there?");
    loop_turn(fixture->loop, false);
    ops_progress(fixture->kept, "nobody");
    ops_done(fixture->kept, SLICE("1"));
}

static void test_late_answer(void **state)
{
    struct fixture *fixture = *state;
    char answer[256];
    talk(fixture, "{\"command\":\"hurry\"}\n", answer, sizeof(answer));
    assert_non_null(strstr(answer, "hurry: the master has not finished it in time"));
    ops_done(fixture->kept, SLICE("1"));
}

static void test_open_calls_at_the_end(void **state)
{
    struct fixture *fixture = *state;
    int fds[2] = {dial(fixture), dial(fixture)};
    char answer[256] = "";
    assert_int_equal(write(fds[0], "{\"command\":\"keep\"}\n", 19), 19);
    RUN_UNTIL(fixture->loop, fixture->kept);
    ops_free(fixture->ops);
    assert_true(recv(fds[0], answer, sizeof(answer) - 1, 0) > 0);
    assert_string_equal(answer, "{\"ok\":false,\"error\":\"the master has stopped\"}\n");
    assert_true(recv(fds[1], answer, sizeof(answer), 0) <= 0);
    close(fds[0]);
    close(fds[1]);
    int fd = ops_listen(fixture->dir, NULL);
    fixture->ops = ops_new(fixture->loop, fd);
    ops_start(fixture->ops);
}

/* ---- the command's side ---- */

static void print_line(void *data, const char *text)
{
    (void)data;
    dprintf(STDOUT_FILENO, "progress: %s\n", text);
}

/* In a child, for it blocks; what it says comes through a pipe. */
static int call(struct fixture *fixture, struct ops_request *request, char *out, size_t size)
{
    int pipe_fds[2], status;
    size_t len = 0;
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct err err = {0};
        struct buf result = {0};
        dup2(pipe_fds[1], STDOUT_FILENO);
        close(pipe_fds[1]);
        request->on_progress = print_line;
        enum status rc = ops_call(request, &result, &err);
        if (rc == OK)
            dprintf(STDOUT_FILENO, "%.*s\n", SLICE_FMT(buf_as_slice(&result)));
        else
            dprintf(STDOUT_FILENO, "%s|%s|%s\n", err_code_name(err.code), err.message, err.detail);
        buf_free(&result);
        _exit(rc == OK ? 0 : 1);
    }
    close(pipe_fds[1]);
    RUN_UNTIL(fixture->loop, has_ended(pipe_fds[0], out, size, &len));
    close(pipe_fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
}

/* RUN_UNTIL waits for events, of which a pipe of the test's is none: this timer is. */
struct ticker {
    struct loop *loop;
    struct timer timer;
};

static void on_tick(struct timer *timer)
{
    struct ticker *ticker = container_of(timer, struct ticker, timer);
    timer_arm(ticker->loop, timer, loop_now(ticker->loop) + 5, on_tick);
}

static void test_ops_call(void **state)
{
    struct fixture *fixture = *state;
    struct ticker ticker = {.loop = fixture->loop};
    char out[1024];
    on_tick(&ticker.timer);
    assert_int_equal(call(fixture, &(struct ops_request){.dir = fixture->dir, .command = "fail"}, out, sizeof(out)), 1);
    assert_string_equal(out, "refused|app.lua:3: \"broken\"|stack\ntraceback\n");
    assert_int_equal(call(fixture, &(struct ops_request){.dir = fixture->dir, .command = "echo"}, out, sizeof(out)), 0);
    assert_string_equal(out, "progress: working 1\nprogress: working 2\n{\"first\":\"\",\"now\":0}\n");
    struct ops_request silent = {.dir = fixture->dir, .command = "keep", .timeout_ms = 100};
    assert_int_equal(call(fixture, &silent, out, sizeof(out)), 1);
    assert_string_equal(out, "timeout|the master has said nothing for 100 ms|\n");
    ops_done(fixture->kept, SLICE("1"));
    timer_stop(fixture->loop, &ticker.timer);
}

static void test_nobody_there(void **state)
{
    (void)state;
    struct err err = {0};
    struct buf result = {0};
    assert_int_equal(ops_call(&(struct ops_request){.dir = "/tmp", .command = "ping"}, &result, &err), ERR);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_string_equal(err.message, "no chowk serves this directory (nobody answers at /tmp/chowk.sock)");
}

static void test_members(void **state)
{
    (void)state;
    struct buf text = {0};
    double number = 0;
    struct slice json = SLICE("{\"a\":{\"pid\":1},\"b\":[2],\"pid\":42,\"name\":\"x\"}");
    assert_true(ops_result_number(json, "pid", &number));
    assert_true(number == 42);
    assert_true(ops_result_text(json, "name", &text));
    assert_memory_equal(text.ptr, "x", 1);
    assert_false(ops_result_text(json, "pid", &text));
    assert_false(ops_result_number(SLICE("null"), "pid", &number));
    buf_free(&text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_socket_is_the_owners),
        TEST(test_stale_socket_is_replaced),
        TEST(test_answers),
        TEST(test_refuses),
        TEST(test_too_long),
        TEST(test_client_goes_away),
        TEST(test_late_answer),
        TEST(test_open_calls_at_the_end),
        TEST(test_ops_call),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_members),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
