/* The master's side of the operator's socket. A client is in one of these states, and only forward:
 *
 *   READING → RUNNING → LEAVING      its line arrives, its command runs, its answer leaves
 *        ↘________↘____↗             too long, too slow, nonsense; or it went away
 *
 * A client that went away while its command runs stays as a husk (is_gone), because the command's function holds it as
 * its ops_call until it answers. Sizes, times and the number of clients have bounds: the operator's mistakes, such as
 * a script that connects and waits, must not cost the master anything. */
#include "server/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "net/listener.h"
#include "net/stream.h"
#include "net/timer.h"

#define OPS_MAGIC 0x0b50c000u
#define CALL_MAGIC 0x0b5ca110u

enum { BACKLOG = 64, READ_MS = 5000, LEAVE_MS = 10000, MAX_PENDING = 64 * 1024 };

enum call_state { CALL_READING, CALL_RUNNING, CALL_LEAVING };

struct command {
    const char *name;
    uint32_t timeout_ms;
    ops_fn fn;
    void *data;
};

struct ops_call {
    unsigned magic;
    struct ops *ops;
    struct list node; /* in ops->calls */
    enum call_state state;
    struct stream stream;
    struct timer deadline;
    struct buf line; /* the request */
    struct arena arena;
    struct slice command;
    char *args[OPS_MAX_ARGS]; /* in the arena */
    size_t n_args;
    int depth; /* while the request is parsed */
    bool is_command, is_args;
    bool is_gone;     /* its stream has closed */
    bool is_answered; /* nobody else holds it */
};

struct ops {
    unsigned magic;
    struct loop *loop;
    int fd;
    struct listener *listener; /* NULL: does not serve */
    struct list calls;
    size_t n_calls;
    struct command commands[OPS_MAX_COMMANDS];
    size_t n_commands;
};

/* ---- a call's end -------------------------------------------------------------------------------------------- */

static void free_call(struct ops_call *call)
{
    struct ops *ops = call->ops;
    CHECK_OBJ(call, CALL_MAGIC);
    timer_stop(ops->loop, &call->deadline);
    list_remove(&call->node);
    ops->n_calls--;
    if (ops->listener)
        listener_pause(ops->listener, ops->n_calls >= OPS_MAX_CLIENTS);
    buf_free(&call->line);
    arena_destroy(&call->arena);
    call->magic = 0;
    loop_reclaim(ops->loop, call);
}

static void on_too_long(struct timer *timer)
{
    stream_close(&container_of(timer, struct ops_call, deadline)->stream);
}

/* Writes a last line and sees it off. */
static void leave(struct ops_call *call, struct slice line)
{
    call->state = CALL_LEAVING;
    if (call->is_gone)
        return;
    timer_arm(call->ops->loop, &call->deadline, loop_now(call->ops->loop) + LEAVE_MS, on_too_long);
    if (stream_write(&call->stream, line) == OK)
        stream_close(&call->stream);
}

static void leave_with_error(struct ops_call *call, const struct err *err)
{
    struct buf line = {0};
    buf_lit(&line, "{\"ok\":false,\"error\":");
    json_write_string(&line, slice_str(err->message));
    if (err->detail[0]) {
        buf_lit(&line, ",\"detail\":");
        json_write_string(&line, slice_str(err->detail));
    }
    buf_lit(&line, "}\n");
    leave(call, buf_as_slice(&line));
    buf_free(&line);
}

static void refuse(struct ops_call *call, enum err_code code, const char *why)
{
    struct err err = {0};
    err_set(&err, code, "%s", why);
    call->is_answered = true;
    leave_with_error(call, &err);
}

/* The function has answered: what is left is to send it, if anybody still listens. */
static bool take_answer(struct ops_call *call)
{
    CHECK_OBJ(call, CALL_MAGIC);
    CHECK(!call->is_answered);
    call->is_answered = true;
    if (call->is_gone)
        free_call(call);
    else if (call->state == CALL_RUNNING)
        return true;
    return false;
}

void ops_done(struct ops_call *call, struct slice json)
{
    if (!take_answer(call))
        return;
    struct buf line = {0};
    buf_lit(&line, "{\"ok\":true,\"result\":");
    buf_slice(&line, json.len > 0 ? json : SLICE("null"));
    buf_lit(&line, "}\n");
    leave(call, buf_as_slice(&line));
    buf_free(&line);
}

void ops_fail(struct ops_call *call, const struct err *err)
{
    if (take_answer(call))
        leave_with_error(call, err);
}

void ops_progress(struct ops_call *call, const char *fmt, ...)
{
    char text[1024];
    struct buf line = {0};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (call->is_gone || call->state != CALL_RUNNING || stream_pending(&call->stream) > MAX_PENDING)
        return; /* one who does not read misses some */
    buf_lit(&line, "{\"progress\":");
    json_write_string(&line, slice_str(text));
    buf_lit(&line, "}\n");
    (void)stream_write(&call->stream, buf_as_slice(&line)); /* broken: on_close says so */
    buf_free(&line);
}

bool ops_has_arg(const struct ops_call *call, const char *arg)
{
    for (size_t i = 0; i < call->n_args; i++)
        if (strcmp(call->args[i], arg) == 0)
            return true;
    return false;
}

const char *ops_arg(const struct ops_call *call, size_t i)
{
    return i < call->n_args ? call->args[i] : NULL;
}

/* ---- a call's beginning -------------------------------------------------------------------------------------- */

static bool on_nothing(void *data UNUSED)
{
    return false;
}

static bool on_bool(void *data UNUSED, bool value UNUSED)
{
    return false;
}

static bool on_number(void *data UNUSED, double value UNUSED)
{
    return false;
}

static bool on_string(void *data, struct slice value)
{
    struct ops_call *call = data;
    struct slice copy = arena_copy(&call->arena, value);
    if (memchr(value.ptr, '\0', value.len))
        return false;
    if (call->depth == 1 && call->is_command)
        call->command = copy;
    else if (call->depth == 2 && call->is_args && call->n_args < OPS_MAX_ARGS)
        call->args[call->n_args++] = arena_printf(&call->arena, "%s", copy.ptr);
    else
        return false;
    return true;
}

static bool on_key(void *data, struct slice name)
{
    struct ops_call *call = data;
    call->is_command = slice_eq(name, SLICE("command"));
    call->is_args = slice_eq(name, SLICE("args"));
    return call->is_command || call->is_args;
}

static bool on_object(void *data)
{
    struct ops_call *call = data;
    return ++call->depth == 1;
}

static bool on_array(void *data)
{
    struct ops_call *call = data;
    return ++call->depth == 2;
}

static bool on_end(void *data, size_t n UNUSED)
{
    struct ops_call *call = data;
    call->depth--;
    return true;
}

static bool parse(struct ops_call *call, struct slice line)
{
    static const struct json_events events = {.on_null = on_nothing,
                                              .on_bool = on_bool,
                                              .on_number = on_number,
                                              .on_string = on_string,
                                              .on_key = on_key,
                                              .on_object_begin = on_object,
                                              .on_object_end = on_end,
                                              .on_array_begin = on_array,
                                              .on_array_end = on_end};
    return json_read(line, &(struct json_limits){.max_depth = 2}, &events, call, &call->arena, NULL) == OK &&
           call->command.len > 0;
}

static const struct command *find_command(const struct ops *ops, struct slice name)
{
    for (size_t i = 0; i < ops->n_commands; i++)
        if (slice_eq(slice_str(ops->commands[i].name), name))
            return &ops->commands[i];
    return NULL;
}

static void on_late(struct timer *timer)
{
    struct ops_call *call = container_of(timer, struct ops_call, deadline);
    struct err err = {0};
    err_set(&err, ERR_TIMEOUT, "%.*s: the master has not finished it in time; it may still do so",
            SLICE_FMT(call->command));
    leave_with_error(call, &err);
}

static void run(struct ops_call *call, struct slice line)
{
    char why[128];
    if (!parse(call, line)) {
        refuse(call, ERR_INVALID, "no request of the form {\"command\":\"…\",\"args\":[\"…\"]}");
        return;
    }
    const struct command *command = find_command(call->ops, call->command);
    if (!command) {
        size_t len = call->command.len < 64 ? call->command.len : 64;
        snprintf(why, sizeof(why), "this chowk has no command \"%.*s\"", (int)len, call->command.ptr);
        refuse(call, ERR_REFUSED, why);
        return;
    }
    call->state = CALL_RUNNING;
    timer_stop(call->ops->loop, &call->deadline);
    if (command->timeout_ms > 0)
        timer_arm(call->ops->loop, &call->deadline, loop_now(call->ops->loop) + command->timeout_ms, on_late);
    command->fn(command->data, call);
}

/* ---- stream -------------------------------------------------------------------------------------------------- */

static void on_data(struct stream *stream, struct slice bytes)
{
    struct ops_call *call = container_of(stream, struct ops_call, stream);
    if (call->state != CALL_READING)
        return;
    buf_slice(&call->line, bytes);
    const char *end = memchr(call->line.ptr, '\n', call->line.len);
    if (end)
        run(call, slice_of(call->line.ptr, (size_t)(end - call->line.ptr)));
    else if (call->line.len > OPS_MAX_REQUEST)
        refuse(call, ERR_REFUSED, "the request is too long");
}

static void on_eof(struct stream *stream)
{
    struct ops_call *call = container_of(stream, struct ops_call, stream);
    if (call->state == CALL_READING)
        stream_close(stream);
}

static void on_connect(struct stream *stream UNUSED)
{
    WRONG("an accepted stream connects");
}

static void on_drain(struct stream *stream)
{
    if (container_of(stream, struct ops_call, stream)->state == CALL_LEAVING)
        stream_close(stream);
}

static void on_close(struct stream *stream, const struct err *err UNUSED)
{
    struct ops_call *call = container_of(stream, struct ops_call, stream);
    call->is_gone = true;
    timer_stop(call->ops->loop, &call->deadline);
    if (call->state == CALL_READING || call->is_answered)
        free_call(call);
}

static void on_accept(void *data, int fd, const struct addr *peer UNUSED)
{
    static const struct stream_events events = {on_data, on_eof, on_connect, on_drain, on_close};
    struct ops *ops;
    CAST_OBJ(ops, data, OPS_MAGIC);
    struct ops_call *call = xalloc(sizeof(*call));
    *call = (struct ops_call){.magic = CALL_MAGIC, .ops = ops};
    arena_create(&call->arena);
    list_push(&ops->calls, &call->node);
    ops->n_calls++;
    listener_pause(ops->listener, ops->n_calls >= OPS_MAX_CLIENTS);
    stream_open(&call->stream, ops->loop, fd, &events);
    stream_read(&call->stream, true);
    timer_arm(ops->loop, &call->deadline, loop_now(ops->loop) + READ_MS, on_too_long);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

/* By way of the directory's descriptor a path of any length fits the 107 bytes of a socket address. */
int ops_listen(const char *dir, struct err *err)
{
    char path[64];
    struct addr addr;
    int fd = -1, dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        err_errno(err, errno, "run.dir: cannot open %s", dir);
        return -1;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d/" OPS_SOCKET, dir_fd);
    if (addr_unix(path, &addr, err) != OK)
        goto done;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* The mode is set before there is a name to reach it by. */
    if (fd < 0 || fchmod(fd, 0600) != 0 || (unlinkat(dir_fd, OPS_SOCKET, 0) != 0 && errno != ENOENT) ||
        bind(fd, (struct sockaddr *)&addr.sa, addr.len) != 0 || listen(fd, BACKLOG) != 0) {
        err_errno(err, errno, "run.dir: cannot serve %s/" OPS_SOCKET, dir);
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
done:
    close(dir_fd);
    return fd;
}

struct ops *ops_new(struct loop *loop, int fd)
{
    struct ops *ops = xalloc(sizeof(*ops));
    *ops = (struct ops){.magic = OPS_MAGIC, .loop = loop, .fd = fd};
    list_init(&ops->calls);
    return ops;
}

void ops_start(struct ops *ops)
{
    CHECK_OBJ(ops, OPS_MAGIC);
    if (!ops->listener)
        ops->listener = listener_new(ops->loop, ops->fd, on_accept, ops);
}

int ops_fd(const struct ops *ops)
{
    return ops->fd;
}

void ops_register(struct ops *ops, const char *name, uint32_t timeout_ms, ops_fn fn, void *data)
{
    CHECK_OBJ(ops, OPS_MAGIC);
    CHECK(ops->n_commands < OPS_MAX_COMMANDS);
    ops->commands[ops->n_commands++] = (struct command){name, timeout_ms, fn, data};
}

void ops_stop(struct ops *ops)
{
    if (ops->listener)
        listener_free(ops->listener);
    ops->listener = NULL;
}

void ops_free(struct ops *ops)
{
    if (!ops)
        return;
    CHECK_OBJ(ops, OPS_MAGIC);
    ops_stop(ops);
    list_each (node, &ops->calls) {
        struct ops_call *call = container_of(node, struct ops_call, node);
        bool was_gone = call->is_gone;
        if (call->state == CALL_RUNNING)
            refuse(call, ERR_UNAVAILABLE, "the master has stopped");
        if (was_gone)
            free_call(call);
        else
            stream_close(&call->stream);
    }
    while (!list_is_empty(&ops->calls))
        (void)loop_turn(ops->loop, false); /* on_close frees them */
    close(ops->fd);
    ops->magic = 0;
    free(ops);
}

void ops_unlink(const char *dir)
{
    int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return;
    (void)unlinkat(dir_fd, OPS_SOCKET, 0);
    close(dir_fd);
}
