/* The life of an embedded server: one owner per var directory, found by flock. Who gets the lock starts the server and
 * writes "<owner> <server> <brief>" into the lock file; who does not uses what is there once it answers.
 *
 * After a kill -9 of the owner the kernel frees the lock at once and tells the server to stop, which takes a moment: so
 * the next owner first waits for the server named in the lock file, and ends it if it must. A pid alone proves nothing
 * (it may have been given out anew): a process counts as ours only if its command line names our socket directory. */
#include "server/embedded_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define EMBEDDED_MAGIC 0xe3bedd01u
#define READY_MS 60000
#define STOP_MS 10000
#define KILL_MS 5000
#define MAX_REVIVALS 5 /* within REVIVAL_SPAN_MS: then it is left alone */
#define REVIVAL_SPAN_MS 60000
#define MAX_TRIES 10 /* while a crashed predecessor's children let go of its memory */

struct embedded {
    unsigned magic;
    const struct embedded_kind *kind;
    struct embedded_home home;
    char url[256];
    struct embedded_opts opts;
    int lock_fd; /* -1: not the owner */
    pid_t pid;
    unsigned n_revivals; /* since span_ms */
    uint64_t span_ms;
};

struct holder {
    int owner, server, is_brief;
};

/* ---- the lock file -------------------------------------------------------------------------------------------- */

static struct holder read_holder(int fd)
{
    struct holder holder = {0};
    char text[64];
    ssize_t len = pread(fd, text, sizeof text - 1, 0);
    text[len > 0 ? len : 0] = '\0';
    if (sscanf(text, "%d %d %d", &holder.owner, &holder.server, &holder.is_brief) != 3)
        holder = (struct holder){0};
    return holder;
}

static void write_holder(int fd, pid_t server, bool is_brief)
{
    char text[64];
    int len = snprintf(text, sizeof text, "%d %d %d\n", (int)getpid(), (int)server, is_brief);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)len, 0) != len)
        log_warn("the lock file was not written", LOG_S("error", strerror(errno)));
}

/* ---- stop ----------------------------------------------------------------------------------------------------- */

static void end_process(const struct embedded_kind *kind, pid_t pid, uint32_t patience_ms)
{
    if (embedded_wait(pid, patience_ms, NULL))
        return;
    (void)kill(pid, kind->stop_signal);
    if (embedded_wait(pid, STOP_MS, NULL))
        return;
    log_warn("an embedded server does not stop; ending it by force", LOG_S("server", kind->title), LOG_I("pid", pid));
    (void)kill(pid, kind->kill_signal);
    if (embedded_wait(pid, KILL_MS, NULL))
        return;
    (void)kill(-pid, SIGKILL); /* its session's group: backends too */
    (void)embedded_wait(pid, KILL_MS, NULL);
}

void embedded_stop(struct embedded *server)
{
    if (!server)
        return;
    CHECK_OBJ(server, EMBEDDED_MAGIC);
    if (server->pid > 0)
        end_process(server->kind, server->pid, 0);
    if (server->lock_fd >= 0) {
        embedded_home_remove_socket_dir(&server->home);
        write_holder(server->lock_fd, 0, false);
        close(server->lock_fd);
    }
    server->magic = 0;
    free(server);
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

static enum status wait_ready(struct embedded *server, uint64_t end_ms, long log_offset, struct err *err)
{
    char tail[256];
    for (;; embedded_pause(EMBEDDED_LOOK_MS)) {
        bool has_exited = embedded_has_exited(server->pid, NULL);
        if (!has_exited && server->kind->is_ready(&server->home, true))
            return OK;
        if (!has_exited && clock_ms() < end_ms)
            continue;
        if (has_exited)
            server->pid = 0;
        embedded_log_tail(&server->home, log_offset, tail, sizeof tail);
        return err_set(err, ERR_UNAVAILABLE, "%s %s: %s (%s)", server->kind->title,
                       has_exited ? "did not start" : "is not ready in time", tail, server->home.log_path);
    }
}

static bool is_passing(const struct err *err)
{
    return strstr(err->message, "is still in use") != NULL || strstr(err->message, "in use by another") != NULL;
}

static enum status start_once(struct embedded *server, const struct embedded_opts *opts, uint64_t end_ms,
                              struct err *err)
{
    struct embedded_args args = {0};
    if (server->kind->prepare(&server->home, opts, &args, err) != OK)
        return ERR;
    long log_offset = embedded_log_size(&server->home);
    server->pid = embedded_spawn(&server->home, &args, server->kind->stop_signal, err);
    if (server->pid < 0)
        return ERR;
    write_holder(server->lock_fd, server->pid, opts->brief);
    return wait_ready(server, end_ms, log_offset, err);
}

/* We hold the lock. */
static enum status start_owned(struct embedded *server, const struct embedded_opts *opts, uint64_t end_ms,
                               struct err *err)
{
    struct holder before = read_holder(server->lock_fd);
    if (embedded_is_running(before.server, server->home.socket_dir))
        end_process(server->kind, before.server, 3000);
    write_holder(server->lock_fd, 0, opts->brief);
    embedded_remove_tree(server->home.socket_dir);
    if (embedded_home_make_socket_dir(&server->home, err) != OK)
        return ERR;
    enum status status = start_once(server, opts, end_ms, err);
    for (int i = 1; status != OK && server->pid <= 0 && is_passing(err) && i < MAX_TRIES && clock_ms() < end_ms; i++) {
        embedded_pause(500);
        status = start_once(server, opts, end_ms, err);
    }
    if (status == OK)
        log_info("embedded server started", LOG_S("server", server->kind->title), LOG_I("pid", server->pid));
    return status;
}

/* Owner of the lock, or user of somebody's server: whichever comes first. */
static enum status take_or_join(struct embedded *server, int fd, const struct embedded_opts *opts, uint64_t end_ms,
                                struct err *err)
{
    for (;; embedded_pause(EMBEDDED_LOOK_MS)) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            server->lock_fd = fd;
            return start_owned(server, opts, end_ms, err);
        }
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_errno(err, errno, "%s: flock", server->home.lock_path);
        struct holder holder = read_holder(fd);
        bool may_join = holder.server > 0 && (!holder.is_brief || opts->brief);
        if (may_join && server->kind->is_ready(&server->home, false))
            return OK;
        if (clock_ms() >= end_ms)
            return err_set(err, ERR_UNAVAILABLE, "%s: process %d holds the embedded %s and does not let go",
                           server->home.lock_path, holder.owner, server->kind->title);
    }
}

static struct embedded *start(const struct embedded_kind *kind, const struct embedded_opts *opts, struct err *err)
{
    struct embedded *server = xalloc(sizeof *server);
    *server = (struct embedded){.magic = EMBEDDED_MAGIC, .kind = kind, .opts = *opts, .lock_fd = -1};
    uint64_t end_ms = clock_ms() + (opts->ready_ms ? opts->ready_ms : READY_MS);
    if (embedded_home_open(&server->home, kind, opts->var_dir, err) != OK)
        goto fail;
    int fd = open(server->home.lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        (void)err_errno(err, errno, "%s", server->home.lock_path);
        goto fail;
    }
    kind->url(&server->home, server->url, sizeof server->url);
    enum status status = take_or_join(server, fd, opts, end_ms, err);
    if (server->lock_fd < 0)
        close(fd);
    if (status == OK)
        return server;
fail:
    embedded_stop(server);
    return NULL;
}

/* A server that dies at once, every time, must not keep its owner busy for ever. */
static bool may_revive(struct embedded *server)
{
    if (clock_ms() - server->span_ms > REVIVAL_SPAN_MS) {
        server->span_ms = clock_ms();
        server->n_revivals = 0;
    }
    return server->n_revivals++ < MAX_REVIVALS;
}

bool embedded_revive(struct embedded *server)
{
    if (!server || server->lock_fd < 0 || server->pid <= 0 || !embedded_has_exited(server->pid, NULL))
        return false;
    CHECK_OBJ(server, EMBEDDED_MAGIC);
    struct err err = {0};
    server->pid = 0;
    if (!may_revive(server)) {
        log_error("an embedded server keeps ending: it stays down", LOG_S("server", server->kind->title),
                  LOG_S("output", server->home.log_path));
        return false;
    }
    log_error("an embedded server has ended; starting it again", LOG_S("server", server->kind->title),
              LOG_S("output", server->home.log_path));
    if (start_owned(server, &server->opts, clock_ms() + READY_MS, &err) == OK)
        return true;
    log_error("it does not start", LOG_S("error", err.message));
    return false;
}

struct embedded *embedded_pg_start(const struct embedded_opts *opts, struct err *err)
{
    return start(&embedded_pg, opts, err);
}

struct embedded *embedded_redis_start(const struct embedded_opts *opts, struct err *err)
{
    return start(&embedded_redis, opts, err);
}

const char *embedded_url(const struct embedded *server)
{
    CHECK_OBJ(server, EMBEDDED_MAGIC);
    return server->url;
}

bool embedded_is_owned(const struct embedded *server)
{
    CHECK_OBJ(server, EMBEDDED_MAGIC);
    return server->lock_fd >= 0;
}

pid_t embedded_pid(const struct embedded *server)
{
    CHECK_OBJ(server, EMBEDDED_MAGIC);
    return server->pid;
}
