/* The workers' slots.
 *
 *   DOWN → STARTING → READY → DOWN …      a death brings a slot back to DOWN, with a timer for the next start
 *                  ↘        ↘ FAILED      a crash loop: nothing starts it again, but new code, or the last worker's
 *                                         recovery: that one is never given up, so that the service outlives anything
 *   any → GONE                            once a stop has begun, a death is final
 *
 * The first start is all or nothing: a worker that fails before all have been ready once fails the start, because a
 * misconfigured server should say so and exit, not crash-loop. Afterwards a death is survived. The reason a worker
 * gives for failing comes as a CONTROL_FAIL message and is reported here, once, not by each worker.
 *
 * A slot may have a second process for a while. One that should go though it serves (recycle.h), or that goes by itself
 * (a TERM of its own), gets a successor first; when that is ready it takes the slot, and the other becomes the leaver,
 * which finishes what it has begun. So nobody misses it, also where it is the only worker.
 *
 * What must hold at any time, whatever happened before, is looked at each tick: who stalls (watchdog.h), who accepts
 * from which listener (adoption.h), who should be replaced. */
#include "server/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/supervisor_priv.h"

#define SUPERVISOR_MAGIC 0x50e4a10eu

enum { KILL_AFTER_MS = 5000 /* beyond the drain a worker allows itself */ };

static void start_slot(struct slot *slot);

static unsigned place_of(const struct slot *slot)
{
    return (unsigned)(slot - slot->supervisor->slots);
}

/* Workers first, then job workers. */
bool slot_is_job_worker(const struct slot *slot)
{
    return place_of(slot) >= slot->supervisor->opts.n_workers;
}

static unsigned count(const struct supervisor *supervisor, enum slot_state state)
{
    unsigned n = 0;
    for (unsigned i = 0; i < supervisor->n_slots; i++)
        n += supervisor->slots[i].state == state;
    return n;
}

unsigned supervisor_n_alive(const struct supervisor *supervisor)
{
    unsigned n = 0;
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        const struct slot *slot = &supervisor->slots[i];
        n += (slot->child != NULL) + (slot->successor != NULL) + (slot->leaver != NULL);
    }
    return n;
}

static void check_down(struct supervisor *supervisor)
{
    if (supervisor->is_down || count(supervisor, SLOT_GONE) < supervisor->n_slots || supervisor_n_alive(supervisor) > 0)
        return;
    supervisor->is_down = true;
    timer_stop(supervisor->opts.loop, &supervisor->kill);
    supervisor->opts.on_down(supervisor->opts.data, supervisor->why[0] ? supervisor->why : NULL);
}

/* The service cannot start: remember the first reason and stop what runs. */
static void fail(struct supervisor *supervisor, const char *why)
{
    if (!supervisor->why[0])
        snprintf(supervisor->why, sizeof(supervisor->why), "%s", why);
    supervisor_stop(supervisor, 0);
}

static void tell(struct slot *slot, enum supervisor_event event, const struct control_message *message)
{
    struct supervisor *supervisor = slot->supervisor;
    if (supervisor->opts.on_slot)
        supervisor->opts.on_slot(supervisor->opts.data, place_of(slot), event, message);
}

static void give_shared(const struct slot *slot)
{
    const struct supervisor_opts *opts = &slot->supervisor->opts;
    for (unsigned i = 0; i < opts->n_extra && opts->is_shared && !slot_is_job_worker(slot); i++)
        (void)child_send(slot->child, CONTROL_ADOPT, opts->n_workers + i, opts->extra[i]);
}

/* The process in the slot is another now, or none. */
static void forget(struct slot *slot)
{
    if (!slot_is_job_worker(slot))
        adoption_forget(slot->supervisor->adoption, place_of(slot));
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

static void become_ready(struct slot *slot)
{
    const struct supervisor *supervisor = slot->supervisor;
    const struct child *child = slot->child;
    slot->state = SLOT_READY;
    slot->child->ready_ms = clock_ms();
    recycle_begin(&slot->recycle, child->seat ? child->seat->running.n_out_of_memory : 0);
    give_shared(slot);
    if (supervisor->share < 100)
        (void)child_send(child, CONTROL_SHARE, supervisor->share, -1);
    tell(slot, SUPERVISOR_ON_READY, NULL);
}

/* Two accept from one listener from here on, until the one that goes has read this. */
static void succeed(struct slot *slot)
{
    slot->leaver = slot->child;
    slot->child = slot->successor;
    slot->successor = NULL;
    (void)child_send(slot->leaver, CONTROL_LEAVE, 0, -1);
    forget(slot);
    tell(slot, SUPERVISOR_ON_GONE, NULL);
    become_ready(slot);
    log_info("worker is replaced", LOG_I(slot->role, slot->id), LOG_I("pid", slot->child->pid),
             LOG_I("leaves", slot->leaver->pid));
}

static void on_ready(struct slot *slot, const struct child *child, uint32_t took_ms)
{
    struct supervisor *supervisor = slot->supervisor;
    if (child == slot->successor && child->generation == supervisor->generation && !supervisor->is_stopping)
        succeed(slot);
    if (child != slot->child || slot->state != SLOT_STARTING)
        return;
    log_debug("worker ready", LOG_I(slot->role, slot->id), LOG_I("pid", child->pid), LOG_I("ms", took_ms));
    become_ready(slot);
    if (supervisor->is_stopping) { /* too late to be ended by a signal that nobody handled yet */
        child_end(slot->child);
        return;
    }
    if (supervisor->is_up) {
        log_info("worker is back", LOG_I(slot->role, slot->id), LOG_I("pid", child->pid));
        return;
    }
    if (count(supervisor, SLOT_READY) < supervisor->n_slots)
        return;
    supervisor->is_up = true;
    supervisor->opts.on_up(supervisor->opts.data);
}

static void on_message(struct child *child, const struct control_message *message)
{
    struct slot *slot = child->data;
    switch (message->type) {
    case CONTROL_READY:
        on_ready(slot, child, message->value);
        return;
    case CONTROL_PREPARED:
    case CONTROL_REFUSED:
        if (child == slot->child) /* nobody waits for the other's vote */
            tell(slot, SUPERVISOR_ON_MESSAGE, message);
        return;
    case CONTROL_FAIL: /* child.c's */
    case CONTROL_BEAT:
    case CONTROL_DRAIN:
    case CONTROL_ADOPT:
    case CONTROL_RELEASE:
    case CONTROL_PREPARE:
    case CONTROL_ABORT:
    case CONTROL_COMMIT:
    case CONTROL_LEAVE:
    case CONTROL_SHARE:
    case CONTROL_REOPEN:
    case CONTROL_MASTERS:
        return; /* ours to send */
    }
    WRONG("control message");
}

/* ---- birth --------------------------------------------------------------------------------------------------- */

/* Its own on the board, or one beyond them while a leaver has it; -1: none is free. */
static int free_seat(const struct slot *slot)
{
    const struct scoreboard *board = slot->supervisor->opts.board;
    int own = (int)place_of(slot);
    if (!board || board->slots[own].state == SCOREBOARD_FREE)
        return own;
    for (unsigned i = slot->supervisor->n_slots; i < board->n_slots; i++)
        if (board->slots[i].state == SCOREBOARD_FREE)
            return (int)i;
    return -1;
}

struct child *slot_spawn(struct slot *slot, struct err *err)
{
    const struct supervisor *supervisor = slot->supervisor;
    const struct supervisor_opts *opts = &supervisor->opts;
    int seat = free_seat(slot);
    if (seat < 0) {
        (void)err_set(err, ERR_UNAVAILABLE, "too many workers are being replaced at once");
        return NULL;
    }
    bool is_jobs = slot_is_job_worker(slot);
    struct child_opts child = {.loop = opts->loop,
                               .is_jobs = is_jobs,
                               .id = slot->id,
                               .n_processes = supervisor->n_slots,
                               .place = place_of(slot),
                               .config_fd = opts->config_fd,
                               .bundle_fd = supervisor->bundle_fd,
                               .listener = is_jobs ? -1 : opts->listeners[slot->id],
                               .generation = supervisor->generation,
                               .segments = opts->segments,
                               .board = opts->board,
                               .board_slot = (unsigned)seat,
                               .on_message = on_message,
                               .data = slot};
    return child_new(&child, err);
}

static void on_restart(struct timer *timer)
{
    start_slot(container_of(timer, struct slot, restart));
}

static void restart_in(struct slot *slot, int delay_ms)
{
    struct loop *loop = slot->supervisor->opts.loop;
    slot->state = SLOT_DOWN;
    timer_arm(loop, &slot->restart, loop_now(loop) + (uint64_t)delay_ms, on_restart);
}

/* ---- death --------------------------------------------------------------------------------------------------- */

void supervisor_count_loops(const struct supervisor *supervisor)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < supervisor->n_slots; i++)
        n += respawn_is_loop(&supervisor->slots[i].respawn);
    if (supervisor->opts.board)
        supervisor->opts.board->n_failed = n;
}

bool slot_is_last(const struct slot *slot)
{
    const struct supervisor *supervisor = slot->supervisor;
    for (unsigned i = 0; i < supervisor->opts.n_workers; i++)
        if (&supervisor->slots[i] != slot && supervisor->slots[i].state != SLOT_FAILED)
            return false;
    return !slot_is_job_worker(slot);
}

void supervisor_revive(struct supervisor *supervisor, const char *why)
{
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        struct slot *slot = &supervisor->slots[i];
        if (!respawn_is_loop(&slot->respawn))
            continue;
        slot->respawn = (struct respawn){0};
        log_info("crash loop: trying again", LOG_I(slot->role, slot->id), LOG_S("why", why));
        if (slot->state == SLOT_FAILED || slot->state == SLOT_DOWN)
            restart_in(slot, 0);
    }
    supervisor_count_loops(supervisor);
}

static void on_crash_loop(struct slot *slot, const char *why)
{
    if (slot_is_last(slot)) {
        log_error("worker crash loop, and no other worker is left: not ready, trying again slowly",
                  LOG_I(slot->role, slot->id), LOG_S("why", why), LOG_I("restart_in_ms", RESPAWN_MAX_MS));
        restart_in(slot, RESPAWN_MAX_MS);
    } else {
        log_error("worker crash loop: it is not started again, and the server is not ready",
                  LOG_I(slot->role, slot->id), LOG_S("why", why));
        slot->state = SLOT_FAILED;
    }
    supervisor_count_loops(slot->supervisor);
}

static void respawn_later(struct slot *slot, const struct child_death *death)
{
    int delay_ms = respawn_on_death(&slot->respawn, death->cause, death->ready_ms);
    if (delay_ms < 0) {
        on_crash_loop(slot, death->why);
        return;
    }
    supervisor_count_loops(slot->supervisor);
    log_write(death->status == 0 ? LOG_INFO : LOG_ERROR, death->status == 0 ? "worker has left" : "worker died",
              LOG_I(slot->role, slot->id), LOG_S("why", death->why), LOG_I("restart_in_ms", delay_ms));
    restart_in(slot, delay_ms);
}

/* The process that had the slot. */
static void on_death(struct slot *slot, const struct child_death *death)
{
    struct supervisor *supervisor = slot->supervisor;
    forget(slot);
    tell(slot, SUPERVISOR_ON_GONE, NULL);
    if (supervisor->is_stopping || !supervisor->is_up) {
        bool was_ready = slot->state == SLOT_READY;
        slot->state = SLOT_GONE;
        if (!supervisor->is_stopping)
            fail(supervisor, death->why);
        else if (was_ready && death->status != 0 && !supervisor->is_killed)
            log_warn("worker did not stop cleanly", LOG_I(slot->role, slot->id), LOG_S("why", death->why));
        check_down(supervisor);
    } else if (slot->successor) {
        log_warn("worker ended before its successor was ready", LOG_I(slot->role, slot->id), LOG_S("why", death->why));
        slot->child = slot->successor;
        slot->successor = NULL;
        slot->state = SLOT_STARTING;
    } else {
        respawn_later(slot, death);
    }
}

static void bury(struct slot *slot, struct child **at, int status)
{
    struct child *child = *at;
    struct child_death death;
    bool had_slot = at == &slot->child, was_successor = at == &slot->successor, was_told = child->is_killed;
    *at = NULL; /* first: its last words may be "ready", and it is nobody's successor any more */
    child_bury(child, status, &death);
    child_free(child);
    if (had_slot) {
        on_death(slot, &death);
        return;
    }
    if (status != 0 && !was_told)
        log_warn(was_successor ? "successor did not start: its predecessor goes on" : "worker did not stop cleanly",
                 LOG_I(slot->role, slot->id), LOG_S("why", death.why));
    check_down(slot->supervisor);
}

void supervisor_reap(struct supervisor *supervisor)
{
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        struct slot *slot = &supervisor->slots[i];
        struct child **const all[] = {&slot->leaver, &slot->successor, &slot->child};
        int status;
        for (size_t c = 0; c < ARRAY_LEN(all); c++)
            if (*all[c] && waitpid((*all[c])->pid, &status, WNOHANG) == (*all[c])->pid)
                bury(slot, all[c], status);
    }
}

static void start_slot(struct slot *slot)
{
    struct err err = {0};
    slot->state = SLOT_STARTING;
    slot->child = slot_spawn(slot, &err);
    if (slot->child)
        return;
    struct child_death death = {.status = W_EXITCODE(1, 0), .cause = RESPAWN_OUTSIDE};
    snprintf(death.why, sizeof(death.why), "%s", err.message);
    on_death(slot, &death);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static void open_slots(struct supervisor *supervisor)
{
    const struct supervisor_opts *opts = &supervisor->opts;
    supervisor->n_slots = opts->n_workers + opts->n_job_workers;
    supervisor->slots = xalloc(supervisor->n_slots * sizeof(struct slot));
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        bool is_jobs = i >= opts->n_workers;
        supervisor->slots[i] = (struct slot){
            .supervisor = supervisor, .id = is_jobs ? i - opts->n_workers : i, .role = is_jobs ? "jobs" : "worker"};
    }
}

struct supervisor *supervisor_new(const struct supervisor_opts *opts)
{
    struct supervisor *supervisor = xalloc(sizeof(*supervisor));
    supervisor->magic = SUPERVISOR_MAGIC;
    supervisor->opts = *opts;
    supervisor->bundle_fd = -1;
    supervisor->share = 100;
    open_slots(supervisor);
    supervisor_tick_start(supervisor);
    return supervisor;
}

void supervisor_free(struct supervisor *supervisor)
{
    CHECK_OBJ(supervisor, SUPERVISOR_MAGIC);
    CHECK(supervisor_n_alive(supervisor) == 0);
    supervisor_tick_stop(supervisor);
    timer_stop(supervisor->opts.loop, &supervisor->kill);
    for (unsigned i = 0; i < supervisor->n_slots; i++)
        timer_stop(supervisor->opts.loop, &supervisor->slots[i].restart);
    free(supervisor->slots);
    supervisor->magic = 0;
    free(supervisor);
}

void supervisor_start(struct supervisor *supervisor)
{
    for (unsigned i = 0; i < supervisor->n_slots && !supervisor->is_stopping; i++)
        start_slot(&supervisor->slots[i]);
}

unsigned supervisor_n_slots(const struct supervisor *supervisor)
{
    return supervisor->n_slots;
}

enum supervisor_presence supervisor_presence(const struct supervisor *supervisor, unsigned slot)
{
    const struct slot *s = &supervisor->slots[slot];
    if (!s->child || !child_hears(s->child))
        return SUPERVISOR_ABSENT;
    return s->state == SLOT_STARTING ? SUPERVISOR_STARTING : SUPERVISOR_SERVING;
}

/* A leaver follows too: what comes over its connections gets the new code as well. */
enum status supervisor_send(struct supervisor *supervisor, unsigned slot, enum control_type type, uint32_t value,
                            int fd)
{
    const struct slot *s = &supervisor->slots[slot];
    if (s->leaver)
        (void)child_send(s->leaver, type, value, fd);
    return s->child ? child_send(s->child, type, value, fd) : ERR;
}

void supervisor_reopen(const struct supervisor *supervisor)
{
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        const struct slot *slot = &supervisor->slots[i];
        const struct child *const all[] = {slot->child, slot->successor, slot->leaver};
        for (size_t c = 0; c < ARRAY_LEN(all); c++)
            if (all[c])
                (void)child_send(all[c], CONTROL_REOPEN, 0, -1);
    }
}

void supervisor_set_share(struct supervisor *supervisor, unsigned percent)
{
    supervisor->share = percent;
    for (unsigned i = 0; i < supervisor->n_slots; i++)
        if (supervisor->slots[i].state == SLOT_READY)
            (void)supervisor_send(supervisor, i, CONTROL_SHARE, percent, -1);
}

void supervisor_set_code(struct supervisor *supervisor, int bundle_fd, uint32_t generation)
{
    supervisor->bundle_fd = bundle_fd;
    supervisor->generation = generation;
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        struct child *successor = supervisor->slots[i].successor;
        if (successor) /* its code is old; the next tick starts another */
            child_end(successor);
    }
    if (supervisor->is_up)
        supervisor_revive(supervisor, "there is other code");
}

static void on_kill(struct timer *timer)
{
    struct supervisor *supervisor = container_of(timer, struct supervisor, kill);
    log_warn("workers did not stop in time: killing them");
    supervisor_kill(supervisor);
}

static void stop_slot(struct slot *slot, enum control_type how, uint32_t lame_duck_ms)
{
    if (slot->successor)
        child_end(slot->successor);
    switch (slot->state) {
    case SLOT_READY:
        if (child_send(slot->child, how, lame_duck_ms, -1) != OK)
            child_end(slot->child);
        return;
    case SLOT_STARTING: /* serves nobody: no need to be gentle */
        child_end(slot->child);
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
    adoption_look(supervisor->adoption); /* first, for who drains adopts no more */
    supervisor->is_stopping = true;
    uint64_t kill_in_ms = (uint64_t)lame_duck_ms + supervisor->opts.drain_ms + KILL_AFTER_MS;
    timer_arm(supervisor->opts.loop, &supervisor->kill, loop_now(supervisor->opts.loop) + kill_in_ms, on_kill);
    for (unsigned i = 0; i < supervisor->n_slots; i++)
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
    for (unsigned i = 0; i < supervisor->n_slots; i++) {
        struct slot *slot = &supervisor->slots[i];
        struct child *const all[] = {slot->child, slot->successor, slot->leaver};
        for (size_t c = 0; c < ARRAY_LEN(all); c++)
            if (all[c])
                child_kill(all[c], NULL);
    }
}
