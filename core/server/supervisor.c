/* The workers' slots.
 *
 *   DOWN → STARTING → READY → DOWN …      a death brings a slot back to DOWN, with a timer for the next start
 *                  ↘        ↘ FAILED      a crash loop: nothing starts it again
 *   any → GONE                            once a stop has begun, a death is final
 *
 * The first start is all or nothing: a worker that fails before all have been ready once fails the start, because a
 * misconfigured server should say so and exit, not crash-loop. Afterwards a death is survived. The reason a worker
 * gives for failing comes as a CONTROL_FAIL message and is reported here, once, not by each worker. */
#include "server/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "net/poll.h"
#include "net/timer.h"
#include "server/control.h"
#include "server/respawn.h"
#include "server/watchdog.h"
#include "server/worker.h"

#define SUPERVISOR_MAGIC 0x50e4a10eu

enum { KILL_AFTER_MS = 5000 }; /* beyond the drain a worker allows itself */

enum slot_state { SLOT_DOWN, SLOT_STARTING, SLOT_READY, SLOT_FAILED, SLOT_GONE };

struct slot {
    struct supervisor *supervisor;
    enum slot_state state;
    unsigned id;      /* of its role, from 0 */
    const char *role; /* "worker", or "jobs": no listener, serves nobody */
    pid_t pid;        /* 0 = no process */
    int control;      /* -1 = closed */
    struct poll *poll;
    struct timer restart;
    struct respawn respawn;
    uint64_t started_ms, last_beat_ms;
    bool is_lent;                   /* a sibling accepts from its listener */
    char why[CONTROL_TEXT_MAX + 1]; /* its last CONTROL_FAIL */
};

struct supervisor {
    unsigned magic;
    struct supervisor_opts opts;
    struct slot *slots;
    struct watchdog *watchdog; /* NULL: there is no board */
    struct timer kill;
    int bundle_fd;       /* supervisor_set_code */
    uint32_t generation; /* of it */
    unsigned share;      /* supervisor_set_share */
    bool is_up, is_stopping, is_killed, is_down;
    char why[CONTROL_TEXT_MAX + 64]; /* the start failed, or the service did; "" = neither */
};

static void start_slot(struct slot *slot);

/* Workers first, then job workers. */
static unsigned n_slots(const struct supervisor *supervisor)
{
    return supervisor->opts.n_workers + supervisor->opts.n_job_workers;
}

static bool is_job_worker(const struct slot *slot)
{
    return slot >= slot->supervisor->slots + slot->supervisor->opts.n_workers;
}

static unsigned count(const struct supervisor *supervisor, enum slot_state state)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_slots(supervisor); i++)
        n += supervisor->slots[i].state == state;
    return n;
}

/* No slot is left that would serve. */
static bool has_failed(const struct supervisor *supervisor)
{
    for (unsigned i = 0; i < supervisor->opts.n_workers; i++)
        if (supervisor->slots[i].state != SLOT_FAILED)
            return false;
    return true;
}

static void check_down(struct supervisor *supervisor)
{
    if (supervisor->is_down || count(supervisor, SLOT_GONE) < n_slots(supervisor))
        return;
    supervisor->is_down = true;
    timer_stop(supervisor->opts.loop, &supervisor->kill);
    supervisor->opts.on_down(supervisor->opts.data, supervisor->why[0] ? supervisor->why : NULL);
}

/* The service cannot go on: remember the first reason and stop what runs. */
static void fail(struct supervisor *supervisor, const char *why)
{
    if (!supervisor->why[0])
        snprintf(supervisor->why, sizeof(supervisor->why), "%s", why);
    supervisor_stop(supervisor, 0);
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

static void tell(struct slot *slot, enum supervisor_event event, const struct control_message *message)
{
    struct supervisor *supervisor = slot->supervisor;
    if (supervisor->opts.on_slot)
        supervisor->opts.on_slot(supervisor->opts.data, (unsigned)(slot - supervisor->slots), event, message);
}

/* Listeners beyond one per worker: each worker takes its share of them, or all if all share one. */
static void give_extra(struct slot *slot)
{
    const struct supervisor_opts *opts = &slot->supervisor->opts;
    for (unsigned i = 0; i < opts->n_extra && !is_job_worker(slot); i++)
        if (opts->is_extra_shared || i % opts->n_workers == slot->id)
            (void)control_send(slot->control, CONTROL_ADOPT, 0, NULL, opts->extra[i]);
}

static void on_ready(struct slot *slot, uint32_t took_ms)
{
    struct supervisor *supervisor = slot->supervisor;
    if (slot->state != SLOT_STARTING)
        return;
    slot->state = SLOT_READY;
    slot->is_lent = false;
    give_extra(slot);
    if (supervisor->share < 100)
        (void)control_send(slot->control, CONTROL_SHARE, supervisor->share, NULL, -1);
    log_debug("worker ready", LOG_I(slot->role, slot->id), LOG_I("pid", slot->pid), LOG_I("ms", took_ms));
    tell(slot, SUPERVISOR_ON_READY, NULL);
    if (supervisor->is_up) {
        log_info("worker is back", LOG_I(slot->role, slot->id), LOG_I("pid", slot->pid));
        return;
    }
    if (count(supervisor, SLOT_READY) < n_slots(supervisor))
        return;
    supervisor->is_up = true;
    supervisor->opts.on_up(supervisor->opts.data);
}

static void close_control(struct slot *slot)
{
    if (slot->control < 0)
        return;
    poll_free(slot->poll);
    close(slot->control);
    slot->control = -1;
    slot->poll = NULL;
}

static void on_message(struct slot *slot, const struct control_message *message)
{
    switch (message->type) {
    case CONTROL_READY:
        on_ready(slot, message->value);
        return;
    case CONTROL_FAIL:
        snprintf(slot->why, sizeof(slot->why), "%s", message->text);
        return;
    case CONTROL_BEAT:
        slot->last_beat_ms = clock_ms();
        return;
    case CONTROL_PREPARED:
    case CONTROL_REFUSED:
        tell(slot, SUPERVISOR_ON_MESSAGE, message);
        return;
    case CONTROL_DRAIN:
    case CONTROL_ADOPT:
    case CONTROL_PREPARE:
    case CONTROL_ABORT:
    case CONTROL_COMMIT:
    case CONTROL_LEAVE:
    case CONTROL_SHARE:
    case CONTROL_MASTERS:
        return; /* ours to send */
    }
    WRONG("control message");
}

/* Everything that is there; the end of it is not the worker's death, which SIGCHLD tells. */
static void drain_control(struct slot *slot)
{
    struct control_message message;
    enum status status = AGAIN;
    while (slot->control >= 0 && (status = control_receive(slot->control, &message)) == OK) {
        if (message.fd >= 0)
            close(message.fd);
        on_message(slot, &message);
    }
    if (status == ERR)
        close_control(slot);
}

static void on_control(void *data, int events UNUSED)
{
    drain_control(data);
}

/* ---- birth --------------------------------------------------------------------------------------------------- */

static void on_restart(struct timer *timer)
{
    start_slot(container_of(timer, struct slot, restart));
}

static struct scoreboard_slot *board_slot(const struct slot *slot)
{
    const struct supervisor *supervisor = slot->supervisor;
    return supervisor->opts.board ? &supervisor->opts.board->slots[slot - supervisor->slots] : NULL;
}

static enum status spawn_worker(struct slot *slot, struct err *err)
{
    const struct supervisor_opts *opts = &slot->supervisor->opts;
    int pair[2];
    if (control_pair(pair, err) != OK)
        return ERR;
    char id[16], n_processes[16], generation[16];
    snprintf(id, sizeof(id), "%u", slot->id);
    snprintf(n_processes, sizeof(n_processes), "%u", n_slots(slot->supervisor));
    snprintf(generation, sizeof(generation), "%u", slot->supervisor->generation);
    const char *argv[] = {"chowk", is_job_worker(slot) ? WORKER_ROLE_JOBS : WORKER_ROLE, id, n_processes, generation,
                          NULL};
    int fds[WORKER_N_FDS] = {pair[1], opts->config_fd, slot->supervisor->bundle_fd}, n_fds = WORKER_N_FDS;
    memcpy(&fds[WORKER_SEGMENTS - SPAWN_FIRST_FD], opts->segments->fds, sizeof(opts->segments->fds));
    if (is_job_worker(slot))
        n_fds--; /* no listener, which is the last */
    else
        fds[WORKER_LISTENER - SPAWN_FIRST_FD] = opts->listeners[slot->id];
    if (board_slot(slot))
        scoreboard_take(board_slot(slot), slot->id);
    pid_t pid = spawn_self(&(struct spawn_opts){.argv = argv, .fds = fds, .n_fds = n_fds}, err);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return ERR;
    }
    slot->pid = pid;
    if (board_slot(slot))
        board_slot(slot)->pid = (uint32_t)pid;
    slot->control = pair[0];
    slot->poll = poll_new(opts->loop, pair[0], on_control, slot);
    poll_set(slot->poll, POLL_READ);
    return OK;
}

static void on_death(struct slot *slot, int status);

static void start_slot(struct slot *slot)
{
    struct err err = {0};
    slot->why[0] = '\0';
    slot->started_ms = slot->last_beat_ms = clock_ms();
    slot->state = SLOT_STARTING;
    if (spawn_worker(slot, &err) == OK)
        return;
    snprintf(slot->why, sizeof(slot->why), "%s", err.message);
    on_death(slot, W_EXITCODE(1, 0));
}

/* ---- death --------------------------------------------------------------------------------------------------- */

static bool has_crash_report(const struct slot *slot)
{
    const struct scoreboard_slot *board = board_slot(slot);
    return board && atomic_load(&board->report.stage) == WHERE_WHOLE && board->report.signum != 0;
}

/* What its own handler left: the request, Lua's position, the C stack. */
static void describe_crash(const struct slot *slot, int status, char *out, size_t size)
{
    const struct scoreboard_slot *board = board_slot(slot);
    struct running_view running = {0};
    struct buf frames = {0};
    bool is_known = running_read(&board->running, &running) == OK && running.since_ms;
    frames_text(&board->report.frames, &frames);
    snprintf(out, size, "%s %u crashed: signal %d (%s), address 0x%llx; %s%s%s, generation %u; %s; %.*s", slot->role,
             slot->id, WTERMSIG(status), strsignal(WTERMSIG(status)), (unsigned long long)board->report.address,
             is_known ? running.route : "no request", is_known ? ", request " : "", is_known ? running.id : "",
             running.generation, board->report.lua[0] ? board->report.lua : "no Lua ran",
             SLICE_FMT(buf_as_slice(&frames)));
    buf_free(&frames);
}

static void count_death(const struct slot *slot, int status)
{
    struct scoreboard *board = slot->supervisor->opts.board;
    if (!board || slot->supervisor->is_stopping || status == 0)
        return;
    board->n_deaths++;
    board->n_crashes += has_crash_report(slot);
}

static void describe_death(const struct slot *slot, int status, char *out, size_t size)
{
    if (slot->why[0])
        snprintf(out, size, "%s", slot->why);
    else if (WIFSIGNALED(status) && has_crash_report(slot))
        describe_crash(slot, status, out, size);
    else if (WIFSIGNALED(status))
        snprintf(out, size, "%s %u was ended by signal %d (%s)", slot->role, slot->id, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "%s %u exited with status %d", slot->role, slot->id, WEXITSTATUS(status));
}

/* T12: what waits at a listener nobody accepts from hangs, so a ready sibling takes it over too. It keeps it: two
 * accepting from one listener is harmless, none is not. */
static void lend_listener(struct slot *slot)
{
    struct supervisor *supervisor = slot->supervisor;
    if (is_job_worker(slot))
        return;
    for (unsigned i = 1; i < supervisor->opts.n_workers && !slot->is_lent; i++) {
        struct slot *sibling = &supervisor->slots[(slot->id + i) % supervisor->opts.n_workers];
        if (sibling->state != SLOT_READY || sibling->control < 0)
            continue;
        slot->is_lent =
            control_send(sibling->control, CONTROL_ADOPT, 0, NULL, supervisor->opts.listeners[slot->id]) == OK;
    }
}

static void respawn_later(struct slot *slot, const char *why)
{
    struct supervisor *supervisor = slot->supervisor;
    int delay_ms = respawn_on_death(&slot->respawn, clock_ms() - slot->started_ms);
    if (delay_ms < 0) {
        slot->state = SLOT_FAILED;
        if (supervisor->opts.board)
            supervisor->opts.board->n_failed++;
        log_error("worker crash loop: it is not started again", LOG_I(slot->role, slot->id), LOG_S("why", why));
        if (has_failed(supervisor))
            fail(supervisor, why);
        else
            lend_listener(slot);
        return;
    }
    log_error("worker died", LOG_I(slot->role, slot->id), LOG_S("why", why), LOG_I("restart_in_ms", delay_ms));
    slot->state = SLOT_DOWN;
    if (delay_ms > 0)
        lend_listener(slot);
    timer_arm(supervisor->opts.loop, &slot->restart, loop_now(supervisor->opts.loop) + (uint64_t)delay_ms, on_restart);
}

static void on_death(struct slot *slot, int status)
{
    struct supervisor *supervisor = slot->supervisor;
    char why[CONTROL_TEXT_MAX + 64];
    drain_control(slot); /* its last words */
    close_control(slot);
    metrics_bury(slot->pid);
    slot->pid = 0;
    tell(slot, SUPERVISOR_ON_GONE, NULL);
    describe_death(slot, status, why, sizeof(why));
    count_death(slot, status);
    if (board_slot(slot))
        scoreboard_release(board_slot(slot));
    if (supervisor->is_stopping || !supervisor->is_up) {
        bool was_ready = slot->state == SLOT_READY;
        slot->state = SLOT_GONE;
        if (!supervisor->is_stopping)
            fail(supervisor, why);
        else if (was_ready && status != 0 && !supervisor->is_killed)
            log_warn("worker did not stop cleanly", LOG_I(slot->role, slot->id), LOG_S("why", why));
        check_down(supervisor);
        return;
    }
    respawn_later(slot, why);
}

/* ---- the watchdog's findings ----------------------------------------------------------------------------------- */

static void on_late(void *data, unsigned i)
{
    struct supervisor *supervisor = data;
    struct slot *slot = &supervisor->slots[i];
    if (slot->state == SLOT_READY && !is_job_worker(slot) && !supervisor->is_stopping)
        lend_listener(slot);
}

static void on_stalled(void *data, unsigned i, const char *why)
{
    struct supervisor *supervisor = data;
    struct slot *slot = &supervisor->slots[i];
    if (slot->pid <= 0)
        return;
    supervisor->opts.board->n_stalls++;
    snprintf(slot->why, sizeof(slot->why), "%s %u: %s", slot->role, slot->id, why);
    kill(slot->pid, SIGKILL);
}

void supervisor_reap(struct supervisor *supervisor)
{
    for (unsigned i = 0; i < n_slots(supervisor); i++) {
        struct slot *slot = &supervisor->slots[i];
        int status;
        if (slot->pid > 0 && waitpid(slot->pid, &status, WNOHANG) == slot->pid)
            on_death(slot, status);
    }
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

struct supervisor *supervisor_new(const struct supervisor_opts *opts)
{
    struct supervisor *supervisor = xalloc(sizeof(*supervisor));
    supervisor->magic = SUPERVISOR_MAGIC;
    supervisor->opts = *opts;
    supervisor->bundle_fd = -1;
    supervisor->share = 100;
    supervisor->slots = xalloc(n_slots(supervisor) * sizeof(struct slot));
    for (unsigned i = 0; i < n_slots(supervisor); i++) {
        bool is_jobs = i >= opts->n_workers;
        supervisor->slots[i] = (struct slot){.supervisor = supervisor,
                                             .id = is_jobs ? i - opts->n_workers : i,
                                             .role = is_jobs ? "jobs" : "worker",
                                             .control = -1};
    }
    if (opts->board)
        supervisor->watchdog = watchdog_new(&(struct watchdog_opts){.loop = opts->loop,
                                                                    .board = opts->board,
                                                                    .n_slots = n_slots(supervisor),
                                                                    .stall_ms = opts->stall_ms,
                                                                    .on_late = on_late,
                                                                    .on_stalled = on_stalled,
                                                                    .data = supervisor});
    return supervisor;
}

void supervisor_free(struct supervisor *supervisor)
{
    CHECK_OBJ(supervisor, SUPERVISOR_MAGIC);
    watchdog_free(supervisor->watchdog);
    timer_stop(supervisor->opts.loop, &supervisor->kill);
    for (unsigned i = 0; i < n_slots(supervisor); i++) {
        CHECK(supervisor->slots[i].pid == 0);
        timer_stop(supervisor->opts.loop, &supervisor->slots[i].restart);
        close_control(&supervisor->slots[i]);
    }
    free(supervisor->slots);
    supervisor->magic = 0;
    free(supervisor);
}

void supervisor_start(struct supervisor *supervisor)
{
    for (unsigned i = 0; i < n_slots(supervisor) && !supervisor->is_stopping; i++)
        start_slot(&supervisor->slots[i]);
}

unsigned supervisor_n_slots(const struct supervisor *supervisor)
{
    return n_slots(supervisor);
}

enum supervisor_presence supervisor_presence(const struct supervisor *supervisor, unsigned slot)
{
    const struct slot *s = &supervisor->slots[slot];
    if (s->pid == 0 || s->control < 0)
        return SUPERVISOR_ABSENT;
    return s->state == SLOT_STARTING ? SUPERVISOR_STARTING : SUPERVISOR_SERVING;
}

enum status supervisor_send(struct supervisor *supervisor, unsigned slot, enum control_type type, uint32_t value,
                            int fd)
{
    const struct slot *s = &supervisor->slots[slot];
    return s->control < 0 ? ERR : control_send(s->control, type, value, NULL, fd);
}

void supervisor_set_share(struct supervisor *supervisor, unsigned percent)
{
    supervisor->share = percent;
    for (unsigned i = 0; i < n_slots(supervisor); i++)
        if (supervisor->slots[i].state == SLOT_READY)
            (void)supervisor_send(supervisor, i, CONTROL_SHARE, percent, -1);
}

void supervisor_set_code(struct supervisor *supervisor, int bundle_fd, uint32_t generation)
{
    supervisor->bundle_fd = bundle_fd;
    supervisor->generation = generation;
}

unsigned supervisor_n_alive(const struct supervisor *supervisor)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_slots(supervisor); i++)
        n += supervisor->slots[i].pid > 0;
    return n;
}

static void on_kill(struct timer *timer)
{
    struct supervisor *supervisor = container_of(timer, struct supervisor, kill);
    log_warn("workers did not stop in time: killing them");
    supervisor_kill(supervisor);
}

static void stop_slot(struct slot *slot, enum control_type how, uint32_t lame_duck_ms)
{
    switch (slot->state) {
    case SLOT_READY:
        if (slot->control < 0 || control_send(slot->control, how, lame_duck_ms, NULL, -1) != OK)
            kill(slot->pid, SIGTERM);
        return;
    case SLOT_STARTING: /* serves nobody: no need to be gentle */
        kill(slot->pid, SIGTERM);
        return;
    case SLOT_DOWN:
    case SLOT_FAILED:
        timer_stop(slot->supervisor->opts.loop, &slot->restart);
        slot->state = SLOT_GONE;
        return;
    case SLOT_GONE:
        return;
    }
    WRONG("slot state");
}

static void stop(struct supervisor *supervisor, enum control_type how, uint32_t lame_duck_ms)
{
    if (supervisor->is_stopping)
        return;
    supervisor->is_stopping = true;
    uint64_t kill_in_ms = (uint64_t)lame_duck_ms + supervisor->opts.drain_ms + KILL_AFTER_MS;
    timer_arm(supervisor->opts.loop, &supervisor->kill, loop_now(supervisor->opts.loop) + kill_in_ms, on_kill);
    for (unsigned i = 0; i < n_slots(supervisor); i++) /* first, for who drains adopts no more */
        if (supervisor->slots[i].state != SLOT_READY)
            lend_listener(&supervisor->slots[i]);
    for (unsigned i = 0; i < n_slots(supervisor); i++)
        stop_slot(&supervisor->slots[i], how, lame_duck_ms);
    check_down(supervisor);
}

void supervisor_stop(struct supervisor *supervisor, uint32_t lame_duck_ms)
{
    stop(supervisor, CONTROL_DRAIN, lame_duck_ms);
}

void supervisor_leave(struct supervisor *supervisor)
{
    stop(supervisor, CONTROL_LEAVE, 0);
}

void supervisor_kill(struct supervisor *supervisor)
{
    supervisor->is_killed = true;
    for (unsigned i = 0; i < n_slots(supervisor); i++)
        if (supervisor->slots[i].pid > 0)
            kill(supervisor->slots[i].pid, SIGKILL);
}
