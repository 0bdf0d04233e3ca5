/* How many connections there are: opening on demand, back-off, closing what fell silent or is not needed.
 *
 * Every lane grows on demand up to its bound; shared lanes keep one connection always. Attempts to connect are spaced
 * by one back-off for the whole pool. When an attempt has failed and nothing is open, calls fail at once instead of
 * waiting for their deadline. When the server is full and a lane has nothing, a lane that has several gives one up for
 * it. What was not needed for a minute is closed, but for one of each lane.
 *
 * Never here: which call gets which connection (pg_pool.c). */
#include "base/clock.h"
#include "base/log.h"
#include "data/pg_priv.h"

enum {
    READ_GROW_AT = 16, /* in flight on the least loaded before another is opened */
    WRITE_GROW_AT = 2
};

static unsigned lane_n_connecting(const struct pg_lane *lane)
{
    unsigned n = 0;
    for (unsigned i = 0; i < lane->n_conns; i++)
        n += lane->conns[i].state == PG_SESSION_RESOLVING || lane->conns[i].state == PG_SESSION_CONNECTING;
    return n;
}

static void conn_open_one(struct pg_lane *lane)
{
    for (unsigned i = 0; i < lane->n_conns; i++)
        if (lane->conns[i].state == PG_SESSION_CLOSED) {
            pg_session_open(&lane->conns[i]);
            return;
        }
}

static bool wants_another(const struct pg *pg, enum pg_lane_id id)
{
    const struct pg_lane *lane = &pg->lanes[id];
    unsigned n_open = 0, n_closed = 0, least = UINT32_MAX, n_connecting = lane_n_connecting(lane);
    for (unsigned i = 0; i < lane->n_conns; i++) {
        const struct pg_session *conn = &lane->conns[i];
        n_closed += conn->state == PG_SESSION_CLOSED;
        if (!pg_session_is_open(conn) || conn->is_retiring)
            continue;
        n_open++;
        least = conn->n_ops < least ? conn->n_ops : least;
    }
    if (n_closed == 0 || (n_open + n_connecting > 0 && n_open + n_connecting >= lane->n_conns * pg->percent / 100))
        return false;
    if (id == PG_LANE_LISTEN)
        return n_open + n_connecting == 0 && pg_listen_is_wanted(pg);
    if (id == PG_LANE_EXCLUSIVE) {
        unsigned n_queued = 0;
        for (const struct list *node = lane->queue.next; node != &lane->queue && n_queued < lane->n_conns;)
            n_queued++, node = node->next;
        bool is_only_lane = pg->is_unnamed && n_open + n_connecting == 0;
        return is_only_lane || (list_is_empty(&pg->idle) && n_queued > n_connecting);
    }
    if (n_connecting)
        return false;
    return n_open == 0 || least >= (id == PG_LANE_READ ? READ_GROW_AT : WRITE_GROW_AT);
}

static unsigned lane_n_open(const struct pg_lane *lane)
{
    unsigned n = 0;
    for (unsigned i = 0; i < lane->n_conns; i++)
        n += pg_session_is_open(&lane->conns[i]) && !lane->conns[i].is_retiring;
    return n;
}

static bool is_starving(const struct pg *pg, enum pg_lane_id id)
{
    return lane_n_open(&pg->lanes[id]) == 0 && lane_n_connecting(&pg->lanes[id]) == 0 && wants_another(pg, id);
}

/* The server takes no more connections, and this lane has none: the lane that has most gives up its least loaded. */
static void make_room(struct pg *pg, enum pg_lane_id id)
{
    enum { PATIENCE_MS = 200, RETRY_MS = 50 };
    struct pg_lane *richest = NULL;
    unsigned most = 1;
    if (loop_now(pg->loop) < pg->room_ms || !is_starving(pg, id))
        return;
    for (int i = 0; i < PG_N_LANES; i++) {
        unsigned n = lane_n_open(&pg->lanes[i]);
        richest = n > most ? &pg->lanes[i] : richest;
        most = n > most ? n : most;
    }
    struct pg_session *conn = NULL;
    if (richest && richest != &pg->lanes[PG_LANE_EXCLUSIVE])
        conn = pg_pool_least_loaded(richest);
    else if (richest && !list_is_empty(&pg->idle))
        conn = container_of(pg->idle.prev, struct pg_session, node);
    if (!conn)
        return;
    if (conn->n_ops == 0)
        pg_session_doom(conn, ERR_CANCELLED, "another lane has no connection");
    conn->is_retiring = conn->n_ops != 0;
    pg->room_ms = loop_now(pg->loop) + PATIENCE_MS;
    pg->retry_ms = loop_now(pg->loop) + RETRY_MS;
    pg->n_failures = 1;
}

/* Where connections are scarce, who has none comes first. */
static bool may_grow(const struct pg *pg, enum pg_lane_id id)
{
    if (loop_now(pg->loop) < pg->retry_ms || !wants_another(pg, id))
        return false;
    bool has_starving = false;
    for (enum pg_lane_id other = 0; pg->n_failures && other < PG_N_LANES; other++)
        has_starving |= is_starving(pg, other);
    return !has_starving || is_starving(pg, id);
}

void pg_grow_flush(struct pg *pg)
{
    if (pg->is_destroying)
        return;
    for (enum pg_lane_id id = 0; pg->n_failures && id < PG_N_LANES; id++)
        make_room(pg, id);
    for (enum pg_lane_id id = 0; id < PG_N_LANES; id++)
        while (may_grow(pg, id))
            conn_open_one(&pg->lanes[id]);
}

void pg_set_share(struct pg *pg, unsigned percent)
{
    pg->percent = percent;
    pg_mark_dirty(pg); /* who waits may have a connection now */
}

void pg_grow_on_connected(struct pg_session *conn)
{
    struct pg *pg = conn->pg;
    if (pg->is_down || !pg->was_up)
        log_info("PostgreSQL connected", LOG_S("server", PQparameterStatus(conn->pq, "server_version")));
    pg->is_down = false;
    pg->was_up = true;
    pg->n_failures = 0;
    pg->retry_ms = 0;
    if (conn->lane == PG_LANE_EXCLUSIVE)
        pg_pool_rest(conn);
    else if (conn->lane == PG_LANE_LISTEN)
        pg_listen_on_connected(conn);
    pg_mark_dirty(pg);
}

void pg_grow_on_connect_failed(struct pg_session *conn, const struct err *err)
{
    struct pg *pg = conn->pg;
    if (pg->is_destroying)
        return;
    uint64_t delay_ms = 50u << (pg->n_failures < 7 ? pg->n_failures : 7);
    if (delay_ms > PG_BACKOFF_MAX_MS)
        delay_ms = PG_BACKOFF_MAX_MS;
    delay_ms = delay_ms / 2 + clock_us() % (delay_ms + 1); /* jitter: workers must not come back in step */
    pg->n_failures++;
    pg->retry_ms = loop_now(pg->loop) + delay_ms;
    pg->last_err = *err;
    pg->last_err.code = ERR_UNAVAILABLE;
    err_prefix(&pg->last_err, "PostgreSQL");
    pg_arm_janitor(pg);
    bool is_hopeless = pg_pool_n_open(pg) == 0;
    for (int i = 0; i < PG_N_LANES; i++)
        is_hopeless = is_hopeless && lane_n_connecting(&pg->lanes[i]) == 0;
    if (!is_hopeless)
        return;
    if (!pg->is_down)
        log_error("PostgreSQL cannot be reached", LOG_S("why", err->message), LOG_I("retry_ms", (int64_t)delay_ms));
    pg->is_down = true; /* nothing is open and nothing is coming: whoever waits is told now */
    pg_pool_fail_waiting(pg, &pg->last_err);
    pg_listen_on_lost(pg);
}

/* One connection fell silent: idle ones that said nothing since then are on the same dead wire for all we know, and an
 * idle one is worth nothing against the request that would find out. */
static void close_unheard(struct pg *pg, uint64_t since_ms)
{
    for (unsigned i = 0; i < pg->n_sessions; i++) {
        struct pg_session *conn = &pg->sessions[i];
        if (conn->state == PG_SESSION_READY && conn->n_ops == 0 && conn->heard_ms <= since_ms)
            pg_session_doom(conn, ERR_CANCELLED, "silent since another connection fell silent");
    }
}

static void conn_close_if_due(struct pg_session *conn, uint64_t now_ms)
{
    struct err err;
    bool is_stalled = pg_session_is_shared(conn) && conn->steps_len && now_ms > conn->heard_ms + PG_STALL_MS;
    if (conn->state == PG_SESSION_CLOSED || (!is_stalled && (!conn->due_ms || conn->due_ms > now_ms)))
        return;
    if (conn->state < PG_SESSION_READY)
        err_set(&err, ERR_UNAVAILABLE, "no connection within the connect timeout");
    else
        err_set(&err, ERR_UNAVAILABLE, "the server did not answer in time");
    bool was_open = conn->state >= PG_SESSION_READY;
    uint64_t heard_ms = conn->heard_ms;
    pg_session_lose(conn, &err);
    if (was_open)
        close_unheard(conn->pg, heard_ms);
}

/* The lanes keep one each, and those that wait for work keep theirs. */
static bool can_spare(const struct pg_session *conn)
{
    return conn->state == PG_SESSION_READY && !conn->is_doomed && conn->n_ops == 0 &&
           lane_n_open(&conn->pg->lanes[conn->lane]) > 1;
}

bool pg_grow_can_spare(const struct pg *pg)
{
    for (unsigned i = 0; i < pg->n_sessions; i++)
        if (can_spare(&pg->sessions[i]))
            return true;
    return false;
}

void pg_grow_tick(struct pg *pg, uint64_t now_ms)
{
    for (unsigned i = 0; i < pg->n_sessions; i++)
        conn_close_if_due(&pg->sessions[i], now_ms);
    for (unsigned i = 0; i < pg->n_sessions; i++)
        if (now_ms > pg->sessions[i].heard_ms + pg->idle_ms && can_spare(&pg->sessions[i]))
            pg_session_doom(&pg->sessions[i], ERR_CANCELLED, "it was idle");
    pg_grow_flush(pg);
}

bool pg_grow_is_pending(const struct pg *pg)
{
    bool is_pending = pg->is_down || pg->n_failures;
    for (unsigned i = 0; i < pg->n_sessions; i++)
        is_pending |= pg->sessions[i].due_ms != 0;
    return is_pending;
}
