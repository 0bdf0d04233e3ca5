/* The command's side of the operator's socket: connect, one line out, lines in until the last. Plain blocking calls
 * with poll for the deadline: a command has nothing else to do. */
#include "server/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "net/addr.h"
#include "server/config_load.h"

enum { MAX_ANSWER = 64 * 1024 * 1024 };

/* ---- reading one object's members ---------------------------------------------------------------------------- */

struct member {
    const char *name;
    int depth;
    bool is_it, is_found;
    struct buf *text;
    double *number;
    bool *is_true;
};

static bool on_key(void *data, struct slice name)
{
    struct member *member = data;
    member->is_it = member->depth == 1 && slice_eq(name, slice_str(member->name));
    return true;
}

static bool on_string(void *data, struct slice value)
{
    struct member *member = data;
    if (member->is_it && member->depth == 1 && member->text) {
        buf_slice(member->text, value);
        member->is_found = true;
    }
    return true;
}

static bool on_number(void *data, double value)
{
    struct member *member = data;
    if (member->is_it && member->depth == 1 && member->number) {
        *member->number = value;
        member->is_found = true;
    }
    return true;
}

static bool on_bool(void *data, bool value)
{
    struct member *member = data;
    if (member->is_it && member->depth == 1 && member->is_true) {
        *member->is_true = value;
        member->is_found = true;
    }
    return true;
}

static bool on_begin(void *data)
{
    ((struct member *)data)->depth++;
    return true;
}

static bool on_end(void *data, size_t n UNUSED)
{
    ((struct member *)data)->depth--;
    return true;
}

static bool find(struct slice json, struct member *member)
{
    static const struct json_events events = {.on_key = on_key,
                                              .on_string = on_string,
                                              .on_number = on_number,
                                              .on_bool = on_bool,
                                              .on_object_begin = on_begin,
                                              .on_object_end = on_end,
                                              .on_array_begin = on_begin,
                                              .on_array_end = on_end};
    struct arena arena;
    arena_create(&arena);
    bool is_object = json.len > 0 && json.ptr[0] == '{';
    bool is_read = is_object && json_read(json, NULL, &events, member, &arena, NULL) == OK;
    arena_destroy(&arena);
    return is_read && member->is_found;
}

bool ops_result_text(struct slice json, const char *name, struct buf *out)
{
    return find(json, &(struct member){.name = name, .text = out});
}

bool ops_result_number(struct slice json, const char *name, double *out)
{
    return find(json, &(struct member){.name = name, .number = out});
}

/* ---- connecting ---------------------------------------------------------------------------------------------- */

/* "belongs to shop": an operator who is refused wants to know as whom to come back. */
static enum status refuse_access(int dir_fd, const char *dir, struct err *err)
{
    struct stat st;
    struct passwd *owner = NULL;
    if (fstatat(dir_fd, OPS_SOCKET, &st, 0) == 0)
        owner = getpwuid(st.st_uid);
    return err_set(err, ERR_REFUSED, "%s/" OPS_SOCKET " belongs to %s: run this command as that user", dir,
                   owner ? owner->pw_name : "another user");
}

static enum status refuse(int dir_fd, const char *dir, int errnum, struct err *err)
{
    if (errnum == ENOENT || errnum == ECONNREFUSED || errnum == ENOTDIR)
        return err_set(err, ERR_UNAVAILABLE, "no chowk serves this directory (nobody answers at %s/" OPS_SOCKET ")",
                       dir);
    if (errnum == EACCES || errnum == EPERM)
        return refuse_access(dir_fd, dir, err);
    return err_errno(err, errnum, "cannot reach %s/" OPS_SOCKET, dir);
}

static int connect_to(const char *dir, struct err *err)
{
    char path[64];
    struct addr addr;
    int fd = -1, dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        (void)refuse(dir_fd, dir, errno, err);
        return -1;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d/" OPS_SOCKET, dir_fd); /* short, however long dir is */
    if (addr_unix(path, &addr, err) == OK) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&addr.sa, addr.len) != 0) {
            (void)refuse(dir_fd, dir, errno, err);
            if (fd >= 0)
                close(fd);
            fd = -1;
        }
    }
    close(dir_fd);
    return fd;
}

/* ---- talking ------------------------------------------------------------------------------------------------- */

static enum status write_request(int fd, const struct ops_request *request, struct err *err)
{
    struct buf line = {0};
    buf_lit(&line, "{\"command\":");
    json_write_string(&line, slice_str(request->command));
    buf_lit(&line, ",\"args\":[");
    for (size_t i = 0; i < request->n_args; i++) {
        if (i > 0)
            buf_byte(&line, ',');
        json_write_string(&line, slice_str(request->args[i]));
    }
    buf_lit(&line, "]}\n");
    enum status status = OK;
    for (size_t sent = 0; status == OK && sent < line.len;) {
        ssize_t n = send(fd, line.ptr + sent, line.len - sent, MSG_NOSIGNAL);
        if (n >= 0)
            sent += (size_t)n;
        else if (errno != EINTR)
            status = err_errno(err, errno, "cannot speak to the master");
    }
    buf_free(&line);
    return status;
}

/* OK: some more bytes. ERR also at the end of the stream. */
static enum status read_some(int fd, uint32_t timeout_ms, struct buf *in, struct err *err)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    int ready;
    do
        ready = poll(&readable, 1, timeout_ms > 0 ? (int)timeout_ms : -1);
    while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return err_set(err, ERR_TIMEOUT, "the master has said nothing for %u ms", timeout_ms);
    ssize_t n = recv(fd, buf_reserve(in, 64 * 1024), 64 * 1024, 0);
    if (n > 0) {
        in->len += (size_t)n;
        return in->len <= MAX_ANSWER ? OK : err_set(err, ERR_INVALID, "the master's answer is too long");
    }
    if (n < 0 && errno != ECONNRESET)
        return err_errno(err, errno, "cannot hear the master");
    return err_set(err, ERR_UNAVAILABLE, "the master ended before it answered");
}

static enum status take_error(struct slice line, struct err *err)
{
    struct buf text = {0}, detail = {0};
    if (!ops_result_text(line, "error", &text))
        buf_lit(&text, "an answer this version does not understand");
    err_set(err, ERR_REFUSED, "%.*s", SLICE_FMT(buf_as_slice(&text)));
    if (ops_result_text(line, "detail", &detail) && err)
        snprintf(err->detail, sizeof(err->detail), "%.*s", SLICE_FMT(buf_as_slice(&detail)));
    buf_free(&text);
    buf_free(&detail);
    return ERR;
}

/* AGAIN: it was no last line. */
static enum status take_line(const struct ops_request *request, struct slice line, struct buf *result, struct err *err)
{
    static const struct slice head = {"{\"ok\":true,\"result\":", 20};
    struct buf text = {0};
    if (slice_has_prefix(line, head) && line.ptr[line.len - 1] == '}') { /* ops_done writes just this */
        buf_append(result, line.ptr + head.len, line.len - head.len - 1);
        return OK;
    }
    if (!ops_result_text(line, "progress", &text))
        return take_error(line, err);
    buf_byte(&text, '\0');
    if (request->on_progress)
        request->on_progress(request->data, text.ptr);
    buf_free(&text);
    return AGAIN;
}

enum status ops_call(const struct ops_request *request, struct buf *result, struct err *err)
{
    int fd = connect_to(request->dir, err);
    if (fd < 0)
        return ERR;
    struct buf in = {0};
    enum status status = write_request(fd, request, err) == OK ? AGAIN : ERR;
    while (status == AGAIN) {
        const char *end = in.len > 0 ? memchr(in.ptr, '\n', in.len) : NULL;
        if (!end) {
            status = read_some(fd, request->timeout_ms, &in, err) == OK ? AGAIN : ERR;
            continue;
        }
        size_t len = (size_t)(end - in.ptr);
        status = take_line(request, slice_of(in.ptr, len), result, err);
        buf_consume(&in, len + 1);
    }
    buf_free(&in);
    close(fd);
    return status;
}

/* ---- where --------------------------------------------------------------------------------------------------- */

static const char *get_env(const char *name)
{
    return getenv(name);
}

char *ops_run_dir(void)
{
    struct config *config = config_new();
    const char *dir = config_keys[CONFIG_RUN_DIR].fallback;
    (void)!config_load_file(config, NULL);
    (void)!config_set_env(config, get_env, NULL);
    if (config_is_set(config, CONFIG_RUN_DIR))
        dir = config_text(config, CONFIG_RUN_DIR);
    char *copy = xstrndup(dir, strlen(dir));
    config_free(config);
    return copy;
}
