#include "server/child.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "net/poll.h"
#include "server/worker.h"

#define CHILD_MAGIC 0xc411d001u

/* ---- birth --------------------------------------------------------------------------------------------------- */

static void close_control(struct child *child)
{
    if (child->control < 0)
        return;
    poll_free(child->poll);
    close(child->control);
    child->control = -1;
    child->poll = NULL;
}

/* Everything that is there; the end of it is not the process's death, which SIGCHLD tells. */
static void hear(struct child *child)
{
    struct control_message message;
    enum status status = AGAIN;
    while (child->control >= 0 && (status = control_receive(child->control, &message)) == OK) {
        if (message.fd >= 0)
            close(message.fd);
        if (message.type == CONTROL_FAIL)
            snprintf(child->why, sizeof(child->why), "%s", message.text);
        else
            child->on_message(child, &message);
    }
    if (status == ERR)
        close_control(child);
}

static void on_control(void *data, int events UNUSED)
{
    struct child *child;
    CAST_OBJ(child, data, CHILD_MAGIC);
    hear(child);
}

static pid_t spawn(const struct child_opts *opts, int control, struct err *err)
{
    char id[16], n_processes[16], generation[16], board_slot[16];
    snprintf(id, sizeof(id), "%u", opts->id);
    snprintf(n_processes, sizeof(n_processes), "%u", opts->n_processes);
    snprintf(generation, sizeof(generation), "%u", opts->generation);
    snprintf(board_slot, sizeof(board_slot), "%u", opts->board_slot);
    const char *argv[] = {
        "chowk", opts->is_jobs ? WORKER_ROLE_JOBS : WORKER_ROLE, id, n_processes, generation, board_slot, NULL};
    int fds[WORKER_N_FDS] = {control, opts->config_fd, opts->bundle_fd};
    memcpy(&fds[WORKER_SEGMENTS - SPAWN_FIRST_FD], opts->segments->fds, sizeof(opts->segments->fds));
    fds[WORKER_LISTENER - SPAWN_FIRST_FD] = opts->listener; /* the last */
    return spawn_self(
        &(struct spawn_opts){.argv = argv, .fds = fds, .n_fds = opts->is_jobs ? WORKER_N_FDS - 1 : WORKER_N_FDS}, err);
}

static void take_seat(struct child *child, const struct child_opts *opts)
{
    child->board = opts->board;
    child->board_slot = opts->board_slot;
    child->seat = opts->board ? &opts->board->slots[opts->board_slot] : NULL;
    if (child->seat)
        scoreboard_take(child->seat, opts->place);
}

static void leave_seat(struct child *child)
{
    if (child->seat)
        scoreboard_release(child->seat);
    child->seat = NULL;
}

struct child *child_new(const struct child_opts *opts, struct err *err)
{
    int pair[2];
    if (control_pair(pair, err) != OK)
        return NULL;
    struct child *child = xalloc(sizeof(*child));
    child->magic = CHILD_MAGIC;
    child->role = opts->is_jobs ? "jobs" : "worker";
    child->id = opts->id;
    child->generation = opts->generation;
    child->on_message = opts->on_message;
    child->data = opts->data;
    child->control = pair[0];
    take_seat(child, opts);
    child->pid = spawn(opts, pair[1], err);
    close(pair[1]);
    child->poll = poll_new(opts->loop, child->control, on_control, child);
    if (child->pid < 0) {
        leave_seat(child);
        close_control(child);
        child->pid = 0;
        child_free(child);
        return NULL;
    }
    poll_set(child->poll, POLL_READ);
    if (child->seat)
        child->seat->pid = (uint32_t)child->pid;
    return child;
}

/* ---- death --------------------------------------------------------------------------------------------------- */

static bool has_crash_report(const struct child *child)
{
    return child->seat && atomic_load(&child->seat->report.stage) == WHERE_WHOLE && child->seat->report.signum != 0;
}

static bool is_running(const struct child *child, struct running_view *running)
{
    return child->seat && running_read(&child->seat->running, running) == OK && running->since_ms;
}

/* What its own handler left: the request, Lua's position, the C stack. */
static void describe_crash(const struct child *child, int signum, char *out, size_t size)
{
    const struct where_report *report = &child->seat->report;
    struct running_view running = {0};
    struct buf frames = {0};
    bool is_known = is_running(child, &running);
    frames_text(&report->frames, &frames);
    snprintf(out, size, "%s %u crashed: signal %d (%s), address 0x%llx; %s%s%s, generation %u; %s; %.*s", child->role,
             child->id, signum, strsignal(signum), (unsigned long long)report->address,
             is_known ? running.route : "no request", is_known && running.id[0] ? ", request " : "",
             is_known ? running.id : "", running.generation, report->lua[0] ? report->lua : "no Lua ran",
             SLICE_FMT(buf_as_slice(&frames)));
    buf_free(&frames);
}

static void describe(const struct child *child, int status, char *out, size_t size)
{
    if (child->why[0])
        snprintf(out, size, "%s", child->why);
    else if (WIFSIGNALED(status) && has_crash_report(child))
        describe_crash(child, WTERMSIG(status), out, size);
    else if (WIFSIGNALED(status))
        snprintf(out, size, "%s %u was ended by signal %d (%s)", child->role, child->id, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "%s %u exited with status %d", child->role, child->id, WEXITSTATUS(status));
}

/* A process that ends by itself with 0 was asked to. */
static enum respawn_cause cause_of(const struct child *child, int status)
{
    struct running_view running = {0};
    bool is_sent = WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGTERM);
    if (status == 0 || (is_sent && !child->is_killed))
        return RESPAWN_OUTSIDE;
    return child->ready_ms && is_running(child, &running) && running.id[0] ? RESPAWN_REQUEST : RESPAWN_ITSELF;
}

/* A loop that stands still serves nobody: what counts ends with its last beat. */
static uint64_t ready_for(const struct child *child)
{
    uint64_t until_ms = child->seat ? child->seat->beat_ms : clock_ms();
    return !child->ready_ms ? 0 : until_ms > child->ready_ms ? until_ms - child->ready_ms : 1;
}

void child_bury(struct child *child, int status, struct child_death *death)
{
    CHECK_OBJ(child, CHILD_MAGIC);
    hear(child); /* its last words */
    close_control(child);
    death->status = status;
    death->cause = cause_of(child, status);
    death->ready_ms = ready_for(child);
    describe(child, status, death->why, sizeof(death->why));
    if (child->board && status != 0) {
        child->board->n_deaths++;
        child->board->n_crashes += has_crash_report(child);
    }
    leave_seat(child);
    metrics_bury(child->pid);
    child->pid = 0;
}

void child_free(struct child *child)
{
    CHECK_OBJ(child, CHILD_MAGIC);
    CHECK(child->pid == 0);
    child->magic = 0;
    free(child);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

void child_kill(struct child *child, const char *why)
{
    child->is_killed = true;
    if (why)
        snprintf(child->why, sizeof(child->why), "%s %u: %s", child->role, child->id, why);
    kill(child->pid, SIGKILL);
}

void child_end(struct child *child)
{
    child->is_killed = true;
    kill(child->pid, SIGTERM);
}

bool child_hears(const struct child *child)
{
    return child->control >= 0;
}

bool child_is_draining(const struct child *child)
{
    return child->seat && child->seat->state == SCOREBOARD_DRAINING;
}

enum status child_send(const struct child *child, enum control_type type, uint32_t value, int fd)
{
    return child->control < 0 ? ERR : control_send(child->control, type, value, NULL, fd);
}
