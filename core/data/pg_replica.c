/* Health and lag of replicas.
 *
 * Every quarter of the allowed lag (at most each second) the primary is asked for its WAL position and each replica for
 * how far it has replayed. A replica is used while its last answer shows everything older than the allowed lag
 * (pg_lag.h). Replay times are not trusted for that: pg_last_xact_replay_timestamp() stands still when nothing is
 * written, and says nothing when the replica has lost its primary.
 *
 * Only when the primary itself does not answer is a replica taken at its own word: it has replayed all it received, or
 * replayed something that young. Better old data than none, and there is nothing newer to be had. */
#include "data/pg_replica.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "data/pg_lag.h"
#include "net/timer.h"

#define PG_REPLICAS_MAGIC 0x9061a908u

enum { CHECK_MIN_MS = 25, CHECK_MAX_MS = 1000, CHECK_DEADLINE_MS = 2000 };

struct replica {
    struct pg_replicas *all;
    struct pg *pg;
    struct pg_op *op; /* a check under way */
    uint64_t seen_ms; /* it shows all that was committed before */
    bool is_replica;  /* its last check answered, and it was in recovery */
    bool is_fine_by_itself;
    bool was_used;
    unsigned number; /* as in pg.replica_urls, from 1; its URL has a password */
};

struct pg_replicas {
    unsigned magic;
    struct loop *loop;
    struct pg *primary;
    struct pg_op *op; /* asking the primary */
    uint64_t asked_ms;
    struct timer timer;
    uint32_t max_lag_ms, check_ms;
    struct pg_lag lag;
    unsigned next; /* in turn */
    size_t n_replicas;
    struct replica replicas[];
};

/* ---- checks -------------------------------------------------------------------------------------------------- */

static void on_primary_position(void *data, const struct pg_result *result, const struct err *err)
{
    struct pg_replicas *all;
    uint64_t lsn;
    CAST_OBJ(all, data, PG_REPLICAS_MAGIC);
    all->op = NULL;
    if (!err && pg_lsn_parse(pg_result_value(result, 0, 0), &lsn))
        pg_lag_add(&all->lag, all->asked_ms, lsn);
}

static bool is_usable(const struct replica *replica)
{
    const struct pg_replicas *all = replica->all;
    if (!replica->is_replica || !pg_is_up(replica->pg))
        return false;
    if (loop_now(all->loop) - replica->seen_ms <= all->max_lag_ms)
        return true;
    return !pg_is_up(all->primary) && replica->is_fine_by_itself;
}

/* Logged where it is found out, once per change. */
static void note_change(struct replica *replica, const char *why)
{
    bool is_used = is_usable(replica);
    if (is_used == replica->was_used)
        return;
    replica->was_used = is_used;
    if (is_used)
        log_info("replica in use", LOG_I("replica", replica->number));
    else
        log_warn("replica not used", LOG_I("replica", replica->number), LOG_S("why", why));
}

static void on_replica_position(void *data, const struct pg_result *result, const struct err *err)
{
    struct replica *replica = data;
    uint64_t lsn;
    replica->op = NULL;
    replica->is_replica = !err && pg_result_value(result, 0, 0).ptr[0] == 't';
    if (replica->is_replica && pg_lsn_parse(pg_result_value(result, 0, 1), &lsn)) {
        uint64_t seen_ms = pg_lag_seen(&replica->all->lag, lsn);
        if (seen_ms > replica->seen_ms)
            replica->seen_ms = seen_ms;
        replica->is_fine_by_itself = pg_result_value(result, 0, 2).ptr[0] == 't';
    }
    note_change(replica, err ? err->message : replica->is_replica ? "it lags behind" : "it is no replica any more");
}

static struct pg_op *ask(struct pg *pg, struct pg_call *call, struct loop *loop)
{
    call->deadline_ms = loop_now(loop) + CHECK_DEADLINE_MS;
    return pg_query(pg, call);
}

static void ask_replica(struct replica *replica)
{
    char max_lag[16];
    snprintf(max_lag, sizeof(max_lag), "%u", replica->all->max_lag_ms);
    struct pg_param param = {max_lag};
    struct pg_call call = {
        .sql = SLICE("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), "
                     "coalesce(pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn(), false) OR "
                     "coalesce(clock_timestamp() - pg_last_xact_replay_timestamp() < $1 * interval '1 ms', false)"),
        .params = &param,
        .n_params = 1,
        .done = on_replica_position,
        .data = replica};
    replica->op = ask(replica->pg, &call, replica->all->loop);
}

static void on_check(struct timer *timer)
{
    struct pg_replicas *all = container_of(timer, struct pg_replicas, timer);
    uint64_t now_ms = loop_now(all->loop);
    timer_arm(all->loop, timer, now_ms + all->check_ms, on_check);
    if (!all->op) {
        all->asked_ms = now_ms;
        struct pg_call call = {.sql = SLICE("SELECT pg_current_wal_lsn()"), .done = on_primary_position, .data = all};
        all->op = ask(all->primary, &call, all->loop);
    }
    for (size_t i = 0; i < all->n_replicas; i++) {
        if (!all->replicas[i].op)
            ask_replica(&all->replicas[i]);
        note_change(&all->replicas[i], "it does not answer");
    }
}

/* ---- use ----------------------------------------------------------------------------------------------------- */

struct pg *pg_replicas_pick(struct pg_replicas *all)
{
    CHECK_OBJ(all, PG_REPLICAS_MAGIC);
    for (size_t i = 0; i < all->n_replicas; i++) {
        const struct replica *replica = &all->replicas[all->next++ % all->n_replicas];
        if (is_usable(replica))
            return replica->pg;
    }
    return all->primary;
}

static uint32_t check_interval(uint32_t max_lag_ms)
{
    uint32_t ms = max_lag_ms / 4;
    return ms < CHECK_MIN_MS ? CHECK_MIN_MS : ms > CHECK_MAX_MS ? CHECK_MAX_MS : ms;
}

struct pg_replicas *pg_replicas_new(const struct pg_replicas_opts *opts, struct err *err)
{
    struct pg_replicas *all = xalloc(sizeof(*all) + opts->n_urls * sizeof(all->replicas[0]));
    all->magic = PG_REPLICAS_MAGIC;
    all->loop = opts->loop;
    all->primary = opts->primary;
    all->max_lag_ms = opts->max_lag_ms;
    all->check_ms = check_interval(opts->max_lag_ms);
    for (size_t i = 0; i < opts->n_urls; i++) {
        struct pg_opts pg = {.loop = opts->loop,
                             .names = opts->names,
                             .url = opts->urls[i],
                             .is_read_only = true,
                             .transaction_pooling = opts->transaction_pooling,
                             .read_connections = opts->connections / 2,
                             .tx_connections = opts->connections - opts->connections / 2};
        struct replica *replica = &all->replicas[i];
        *replica = (struct replica){.all = all, .pg = pg_new(&pg, err), .number = (unsigned)i + 1};
        if (!replica->pg) {
            pg_replicas_free(all);
            return NULL;
        }
        all->n_replicas++;
    }
    timer_arm(all->loop, &all->timer, loop_now(all->loop), on_check);
    return all;
}

void pg_replicas_free(struct pg_replicas *all)
{
    if (!all)
        return;
    CHECK_OBJ(all, PG_REPLICAS_MAGIC);
    timer_stop(all->loop, &all->timer);
    if (all->op)
        pg_op_cancel(all->op);
    for (size_t i = 0; i < all->n_replicas; i++) {
        if (all->replicas[i].op)
            pg_op_cancel(all->replicas[i].op);
        pg_free(all->replicas[i].pg);
    }
    all->magic = 0;
    free(all);
}
