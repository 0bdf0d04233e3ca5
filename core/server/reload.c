/* See reload.h.
 *
 *   STARTING → IDLE → CHECKING → VOTING → IDLE …    a rollback starts with VOTING: its bundle has served before
 *
 * Only `enter` changes the state. Numbers are never used twice, so a vote or an abort that comes late says which
 * attempt it means. The commit itself is one store, in reload_state_commit; all before it can be dropped, all after it
 * is news about it. A process that starts while others vote runs the committed bundle and votes when it is ready; one
 * that dies has no vote, because what replaces it will run whatever is committed by then. */
#include "server/reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/timer.h"

#define RELOAD_MAGIC 0x4e10ad02u

enum state { STARTING, IDLE, CHECKING, VOTING };

struct code {
    int fd; /* -1: none */
    char hash[RELOAD_HASH];
    unsigned n_routes;
};

struct asker {
    struct list node;
    enum reload_kind kind;
    reload_fn done;
    void *data;
};

struct voter {
    bool is_asked, has_voted;
};

struct reload {
    unsigned magic;
    struct reload_opts opts;
    enum state state;
    bool is_rollback, is_on_save /* all who asked */, is_stopped;
    uint32_t number, last_number; /* committed; last used */
    struct code committed, next, history[RELOAD_HISTORY];
    size_t n_history;
    struct list askers, waiting; /* of what runs now; of the next one */
    size_t n_askers;             /* of both */
    struct voter *voters;
    struct timer timer;
    uint64_t started_ms;
};

static void start(struct reload *reload);

static void enter(struct reload *reload, enum state state)
{
    timer_stop(reload->opts.loop, &reload->timer);
    reload->state = state;
}

static void drop(struct code *code)
{
    if (code->fd >= 0)
        close(code->fd);
    code->fd = -1;
}

/* A rollback's is still in the history. */
static void drop_next(struct reload *reload)
{
    if (reload->is_rollback)
        reload->next.fd = -1;
    drop(&reload->next);
}

/* ---- the answer ----------------------------------------------------------------------------------------------- */

static void tell(struct reload *reload, struct list *askers, const struct reload_result *result)
{
    struct list *node;
    while ((node = list_pop(askers))) {
        struct asker *asker = container_of(node, struct asker, node);
        reload->n_askers--;
        asker->done(asker->data, result);
        free(asker);
    }
}

static struct reload_result result_of(const struct reload *reload)
{
    return (struct reload_result){
        .number = reload->number, .hash = reload->committed.hash, .took_ms = clock_ms() - reload->started_ms};
}

static void say_busy(const struct reload *reload, bool is_busy)
{
    if (reload->opts.on_busy)
        reload->opts.on_busy(reload->opts.data, is_busy);
}

/* Those who asked are told in a turn of their own list: a `done` may ask again. */
static void end(struct reload *reload, const struct reload_result *result)
{
    struct list told;
    list_init(&told);
    struct list *node;
    while ((node = list_pop(&reload->askers)))
        list_push(&told, node);
    enter(reload, IDLE);
    tell(reload, &told, result);
    if (reload->state != IDLE || reload->is_stopped)
        return;
    if (list_is_empty(&reload->waiting))
        say_busy(reload, false);
    else
        start(reload);
}

static void fail(struct reload *reload, const char *error)
{
    struct reload_result result = result_of(reload);
    result.error = error;
    drop_next(reload);
    reload_state_fail(reload->opts.state, error);
    log_error("reload failed: the code that serves stays", LOG_S("hash", reload->committed.hash),
              LOG_S("error", error));
    end(reload, &result);
}

/* ---- votes ---------------------------------------------------------------------------------------------------- */

static void send_all(struct reload *reload, enum control_type type, uint32_t number)
{
    for (unsigned i = 0; i < reload->opts.n_slots; i++)
        if (reload->opts.presence(reload->opts.data, i) == RELOAD_READY)
            (void)reload->opts.send(reload->opts.data, i, type, number, -1);
}

static void abort_vote(struct reload *reload, const char *error)
{
    send_all(reload, CONTROL_ABORT, reload->last_number);
    fail(reload, error);
}

static void remember(struct reload *reload)
{
    if (reload->is_rollback || strcmp(reload->committed.hash, reload->next.hash) == 0) {
        drop(&reload->committed);
        return;
    }
    if (reload->n_history == RELOAD_HISTORY) {
        drop(&reload->history[0]);
        memmove(&reload->history[0], &reload->history[1], (RELOAD_HISTORY - 1) * sizeof(reload->history[0]));
        reload->n_history--;
    }
    reload->history[reload->n_history++] = reload->committed;
}

static void commit(struct reload *reload)
{
    reload->number = reload->last_number;
    if (reload->is_rollback)
        reload->n_history--; /* it moves to `next`, which has it */
    struct code before = reload->committed;
    remember(reload);
    reload->committed = reload->next;
    reload->next.fd = -1;
    reload->opts.on_commit(reload->opts.data, reload->committed.fd, reload->number);
    reload_state_commit(reload->opts.state, reload->number, reload->committed.hash, reload->committed.n_routes);
    send_all(reload, CONTROL_COMMIT, reload->number);
    struct reload_result result = result_of(reload);
    result.is_ok = true;
    result.n_routes = reload->committed.n_routes;
    log_info(reload->is_rollback ? "rolled back" : "reloaded", LOG_I("generation", reload->number),
             LOG_S("hash", reload->committed.hash), LOG_S("was", before.hash),
             LOG_I("routes", reload->committed.n_routes), LOG_I("ms", (int64_t)result.took_ms));
    end(reload, &result);
}

static void count_votes(struct reload *reload)
{
    for (unsigned i = 0; i < reload->opts.n_slots; i++)
        if (reload->opts.presence(reload->opts.data, i) != RELOAD_ABSENT && !reload->voters[i].has_voted)
            return;
    commit(reload);
}

static enum status ask(struct reload *reload, unsigned slot)
{
    struct voter *voter = &reload->voters[slot];
    if (voter->is_asked || reload->opts.presence(reload->opts.data, slot) != RELOAD_READY)
        return OK;
    voter->is_asked = true;
    return reload->opts.send(reload->opts.data, slot, CONTROL_PREPARE, reload->last_number, reload->next.fd);
}

static void on_timeout(struct timer *timer)
{
    struct reload *reload = container_of(timer, struct reload, timer);
    char error[200], who[64] = "";
    for (unsigned i = 0; i < reload->opts.n_slots; i++)
        if (reload->opts.presence(reload->opts.data, i) != RELOAD_ABSENT && !reload->voters[i].has_voted)
            snprintf(who + strlen(who), sizeof(who) - strlen(who), "%s%u", who[0] ? ", " : "", i);
    snprintf(error, sizeof(error),
             "the new code was not loaded in time by process %s (reload.timeout; it may wait for old requests to end)",
             who);
    abort_vote(reload, error);
}

static void start_vote(struct reload *reload)
{
    struct loop *loop = reload->opts.loop;
    enter(reload, VOTING);
    reload->last_number++;
    memset(reload->voters, 0, reload->opts.n_slots * sizeof(reload->voters[0]));
    timer_arm(loop, &reload->timer, loop_now(loop) + reload->opts.timeout_ms, on_timeout);
    for (unsigned i = 0; i < reload->opts.n_slots; i++)
        if (ask(reload, i) != OK) {
            abort_vote(reload, "a worker process cannot be reached: try again");
            return;
        }
    count_votes(reload);
}

void reload_on_ready(struct reload *reload, unsigned slot)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    if (reload->state == VOTING && ask(reload, slot) != OK)
        abort_vote(reload, "a worker process cannot be reached: try again");
}

void reload_on_gone(struct reload *reload, unsigned slot)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    reload->voters[slot] = (struct voter){0};
    if (reload->state == VOTING)
        count_votes(reload);
}

void reload_on_vote(struct reload *reload, unsigned slot, uint32_t number, const char *refusal)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    if (reload->state != VOTING || number != reload->last_number)
        return;
    if (refusal) {
        abort_vote(reload, refusal);
        return;
    }
    reload->voters[slot].has_voted = true;
    count_votes(reload);
}

/* ---- from the request on -------------------------------------------------------------------------------------- */

static bool has_failed_last(const struct reload *reload)
{
    struct reload_view view;
    return reload_state_read(reload->opts.state, &view) == OK && view.is_last_failed;
}

void reload_checked(struct reload *reload, const struct reload_checked *result)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    if (reload->state != CHECKING) {
        if (result->bundle_fd >= 0)
            close(result->bundle_fd);
        return;
    }
    if (result->bundle_fd < 0) {
        fail(reload, result->error);
        return;
    }
    reload->next = (struct code){.fd = result->bundle_fd, .n_routes = result->n_routes};
    snprintf(reload->next.hash, sizeof(reload->next.hash), "%s", result->hash);
    if (reload->is_on_save && strcmp(reload->next.hash, reload->committed.hash) == 0 && !has_failed_last(reload)) {
        struct reload_result unchanged = result_of(reload);
        unchanged.is_ok = unchanged.is_unchanged = true;
        drop(&reload->next);
        end(reload, &unchanged);
        return;
    }
    start_vote(reload);
}

static void start_rollback(struct reload *reload)
{
    reload->next = reload->history[reload->n_history - 1];
    start_vote(reload);
}

/* All who wait are served by it. */
static void start(struct reload *reload)
{
    struct err err = {0};
    struct list *node;
    enum reload_kind kind = RELOAD_ON_SAVE;
    while ((node = list_pop(&reload->waiting))) {
        struct asker *asker = container_of(node, struct asker, node);
        kind = asker->kind == RELOAD_ON_SAVE ? kind : asker->kind;
        list_push(&reload->askers, node);
    }
    say_busy(reload, true);
    reload->started_ms = clock_ms();
    reload->is_rollback = kind == RELOAD_ROLLBACK; /* alone: it is refused while another runs */
    reload->is_on_save = kind == RELOAD_ON_SAVE;
    if (reload->is_rollback) {
        start_rollback(reload);
        return;
    }
    enter(reload, CHECKING);
    if (reload->opts.start_check(reload->opts.data, &err) != OK)
        fail(reload, err.message);
}

static const char *refusal(const struct reload *reload, enum reload_kind kind)
{
    if (reload->is_stopped)
        return "the server is stopping";
    if (reload->n_askers == RELOAD_MAX_ASKERS)
        return "too many reloads are asked for: one is in progress";
    if (kind != RELOAD_ROLLBACK)
        return NULL;
    if (reload->n_history == 0)
        return "there is no earlier code to return to";
    return reload->state != IDLE ? "a reload is in progress: roll back when it is over" : NULL;
}

void reload_begin(struct reload *reload, enum reload_kind kind, reload_fn done, void *data)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    const char *why = refusal(reload, kind);
    if (why) {
        struct reload_result result = {.number = reload->number, .hash = reload->committed.hash, .error = why};
        done(data, &result);
        return;
    }
    struct asker *asker = xalloc(sizeof(*asker));
    *asker = (struct asker){.kind = kind, .done = done, .data = data};
    list_push(&reload->waiting, &asker->node);
    reload->n_askers++;
    if (reload->state == IDLE)
        start(reload);
}

void reload_up(struct reload *reload)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    CHECK(reload->state == STARTING);
    enter(reload, IDLE);
    if (!list_is_empty(&reload->waiting))
        start(reload);
}

bool reload_is_idle(const struct reload *reload)
{
    return reload->state == IDLE;
}

void reload_hold(struct reload *reload)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    CHECK(reload->state == IDLE);
    enter(reload, STARTING);
}

void reload_stop(struct reload *reload)
{
    CHECK_OBJ(reload, RELOAD_MAGIC);
    if (reload->is_stopped)
        return;
    reload->is_stopped = true;
    if (reload->state == CHECKING)
        reload->opts.stop_check(reload->opts.data);
    if (reload->state == VOTING)
        send_all(reload, CONTROL_ABORT, reload->last_number);
    drop_next(reload);
    struct reload_result result = result_of(reload);
    result.error = "the server is stopping";
    end(reload, &result);
    tell(reload, &reload->waiting, &result);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct reload *reload_new(const struct reload_opts *opts, int bundle_fd, const char *hash)
{
    struct reload *reload = xalloc(sizeof(*reload));
    *reload = (struct reload){.magic = RELOAD_MAGIC,
                              .opts = *opts,
                              .number = 1,
                              .last_number = 1,
                              .committed = {.fd = bundle_fd},
                              .next = {.fd = -1}};
    snprintf(reload->committed.hash, sizeof(reload->committed.hash), "%s", hash);
    list_init(&reload->askers);
    list_init(&reload->waiting);
    reload->voters = xalloc((opts->n_slots + 1) * sizeof(reload->voters[0]));
    reload_state_commit(opts->state, 1, hash, 0);
    return reload;
}

void reload_free(struct reload *reload)
{
    if (!reload)
        return;
    CHECK_OBJ(reload, RELOAD_MAGIC);
    reload_stop(reload);
    timer_stop(reload->opts.loop, &reload->timer);
    drop(&reload->committed);
    for (size_t i = 0; i < reload->n_history; i++)
        drop(&reload->history[i]);
    free(reload->voters);
    reload->magic = 0;
    free(reload);
}
