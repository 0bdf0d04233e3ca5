/* The one connection of a worker to Redis: look-up, connect, handshake (AUTH, SELECT, CLIENT SETNAME, PING), the
 * janitor's tick while it is up, back-off while it is not. It moves bytes and decides about life and death; what the
 * replies mean is redis.c's.
 *
 *   CONNECTING ──PING answered──▸ READY ──lost──▸ CLOSING ──on_close──▸ WAITING ──timer──▸ CONNECTING
 *        └──────── failed: CLOSING, or WAITING at once when no socket was open ──┘
 *
 * One timer serves all states: the attempt's bound, the janitor's tick, the wait. Commands wait through the first
 * attempt and through the reconnection after a loss; once an attempt has failed they fail at once until one succeeds.
 * A connection that was up for less than a second is renewed after a pause, so that a peer who hangs up on us is not
 * hammered. PING is part of the handshake because a server that loads its data accepts AUTH and SELECT. */
#include "data/redis_priv.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/crypto.h"
#include "base/log.h"

#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define STABLE_MS 1000     /* up for so long: a loss is an accident, not a pattern */
#define IDLE_PING_MS 30000 /* proxies and NAT forget idle connections */
#define LOG_EVERY 16       /* failed attempts: about once in 80 s at the longest back-off */

enum step { STEP_AUTH, STEP_SELECT, STEP_SETNAME, STEP_PING };
static const char *const step_names[] = {"AUTH", "SELECT", "CLIENT SETNAME", "PING"};

static void on_timer(struct timer *timer);
static void connect_next(struct redis *redis);

static void arm(struct redis *redis, uint64_t after_ms)
{
    timer_arm(redis->loop, &redis->conn.timer, loop_now(redis->loop) + after_ms, on_timer);
}

/* ---- the end of an attempt, or of a connection ---------------------------------------------------------------- */

static uint64_t backoff_ms(unsigned failures)
{
    uint64_t wait = BACKOFF_MIN_MS;
    for (unsigned i = 1; i < failures && wait < BACKOFF_MAX_MS; i++)
        wait *= 2;
    wait = wait < BACKOFF_MAX_MS ? wait : BACKOFF_MAX_MS;
    uint32_t random;
    crypto_random(&random, sizeof random);
    return wait / 2 + random % (wait / 2 + 1); /* workers must not come back in step */
}

static void attempt_failed(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    conn->state = REDIS_WAITING;
    uint64_t wait_ms = backoff_ms(++conn->failures);
    if (conn->failures % LOG_EVERY == 1)
        log_warn("redis is unavailable", LOG_S("error", conn->err.message), LOG_I("attempts", conn->failures),
                 LOG_I("retry_ms", (int64_t)wait_ms));
    arm(redis, wait_ms);
    redis_fail_unsent(redis, &conn->err);
}

static void connection_lost(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    bool was_stable = loop_now(redis->loop) - conn->ready_ms >= STABLE_MS;
    conn->state = REDIS_WAITING;
    log_warn("redis connection lost", LOG_S("error", conn->err.message));
    arm(redis, was_stable ? 0 : BACKOFF_MIN_MS);
    redis_fail_in_flight(redis, &conn->err);
}

void redis_conn_broke(struct redis *redis, const struct err *err)
{
    struct redis_conn *conn = &redis->conn;
    if (conn->state == REDIS_CLOSING)
        return;
    conn->err = *err;
    conn->err.code = ERR_UNAVAILABLE;
    timer_stop(redis->loop, &conn->timer);
    conn->handshaking = conn->handshaking || conn->state == REDIS_CONNECTING;
    conn->state = REDIS_CLOSING;
    stream_close(&conn->stream);
}

static void on_close(struct stream *stream, const struct err *err)
{
    struct redis *redis = container_of(stream, struct redis, conn.stream);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_conn *conn = &redis->conn;
    bool was_connecting = conn->state == REDIS_CONNECTING || conn->handshaking;
    conn->stream_started = false;
    conn->handshaking = conn->renew = false;
    redis_parser_free(conn->parser);
    conn->parser = NULL;
    if (redis->freeing) {
        redis_destroy(redis);
        return;
    }
    if (conn->state != REDIS_CLOSING) {
        conn->err = (struct err){0};
        err_set(&conn->err, ERR_UNAVAILABLE, "%s", err ? err->message : "closed");
        err_prefix(&conn->err, "redis");
    }
    if (was_connecting && conn->next_addr < conn->n_addrs && conn->state == REDIS_CONNECTING)
        connect_next(redis);
    else if (was_connecting)
        attempt_failed(redis);
    else
        connection_lost(redis);
}

/* ---- handshake ------------------------------------------------------------------------------------------------ */

static void add_step(struct redis *redis, struct buf *out, enum step step, const struct slice *argv, size_t argc)
{
    redis_format(out, argv, argc);
    redis->conn.steps[redis->conn.n_steps++] = (uint8_t)step;
}

static void on_connect(struct stream *stream)
{
    struct redis *redis = container_of(stream, struct redis, conn.stream);
    CHECK_OBJ(redis, REDIS_MAGIC);
    const struct redis_url *url = &redis->url;
    struct buf out = {0};
    char db[16];
    snprintf(db, sizeof db, "%d", url->db);
    redis->conn.n_steps = redis->conn.step = 0;
    redis->conn.handshaking = true;
    struct slice auth[] = {SLICE("AUTH"), slice_str(url->user), slice_str(url->password)};
    if (url->user[0])
        add_step(redis, &out, STEP_AUTH, auth, 3);
    else if (url->password[0])
        add_step(redis, &out, STEP_AUTH, (struct slice[]){auth[0], auth[2]}, 2);
    if (url->db != 0)
        add_step(redis, &out, STEP_SELECT, (struct slice[]){SLICE("SELECT"), slice_str(db)}, 2);
    add_step(redis, &out, STEP_SETNAME, (struct slice[]){SLICE("CLIENT"), SLICE("SETNAME"), SLICE("chowk")}, 3);
    add_step(redis, &out, STEP_PING, (struct slice[]){SLICE("PING")}, 1);
    stream_read(stream, true);
    (void)stream_write(stream, buf_as_slice(&out)); /* a failure arrives as on_close */
    buf_free(&out);
}

static void became_ready(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    conn->state = REDIS_READY;
    conn->handshaking = false;
    conn->ready_ms = conn->data_ms = loop_now(redis->loop);
    if (conn->failures > 0)
        log_info("redis is available again", LOG_I("attempts", conn->failures));
    conn->failures = 0;
    arm(redis, redis->stall_ms / 2);
    redis_flush(redis);
}

static void on_handshake_reply(struct redis *redis, const struct redis_value *value)
{
    struct redis_conn *conn = &redis->conn;
    enum step step = conn->steps[conn->step++];
    if (value->type == REDIS_ERROR && step != STEP_SETNAME) { /* the name is a courtesy an ACL may forbid */
        struct err err = {0};
        err_set(&err, ERR_UNAVAILABLE, "redis: %s: %.*s", step_names[step], SLICE_FMT(value->str));
        redis_conn_broke(redis, &err);
    } else if (conn->step == conn->n_steps) {
        became_ready(redis);
    }
}

/* ---- bytes ---------------------------------------------------------------------------------------------------- */

static enum status take_replies(struct redis *redis, struct slice bytes, struct err *err)
{
    struct redis_conn *conn = &redis->conn;
    const struct redis_value *value;
    if (redis_parser_feed(conn->parser, bytes, err) != OK)
        return ERR;
    for (;;) {
        enum status status = redis_parser_next(conn->parser, &value, err);
        if (status != OK)
            return status;
        if (conn->handshaking)
            on_handshake_reply(redis, value);
        else if (redis_deliver(redis, value, err) != OK)
            return ERR;
        redis_parser_reset(conn->parser);
        if (conn->state == REDIS_CLOSING)
            return OK;
    }
}

static void on_data(struct stream *stream, struct slice bytes)
{
    struct redis *redis = container_of(stream, struct redis, conn.stream);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_conn *conn = &redis->conn;
    struct err err = {0};
    if (conn->state == REDIS_CLOSING)
        return;
    conn->data_ms = loop_now(redis->loop);
    if (take_replies(redis, bytes, &err) == ERR)
        redis_conn_broke(redis, &err);
    else if (conn->renew && redis_oldest_ms(redis) == 0) {
        err_set(&err, ERR_UNAVAILABLE, "redis: the server is no longer the primary");
        redis_conn_broke(redis, &err);
    }
}

static void on_eof(struct stream *stream)
{
    struct redis *redis = container_of(stream, struct redis, conn.stream);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: the server closed the connection");
    redis_conn_broke(redis, &err);
}

static void on_drain(struct stream *stream)
{
    (void)stream; /* what was kept counts against the queue's bound by redis_conn_pending */
}

/* ---- connecting ----------------------------------------------------------------------------------------------- */

static const struct stream_events events = {on_data, on_eof, on_connect, on_drain, on_close};

static void connect_next(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    conn->parser = redis_parser_new();
    conn->stream_started = true;
    stream_connect(&conn->stream, redis->loop, &conn->addrs[conn->next_addr++], &events);
}

static void on_names(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err)
{
    struct redis *redis;
    CAST_OBJ(redis, data, REDIS_MAGIC);
    struct redis_conn *conn = &redis->conn;
    conn->query = NULL;
    if (err || n_addrs == 0) {
        conn->err = (struct err){0};
        err_set(&conn->err, ERR_UNAVAILABLE, "redis: %s", err ? err->message : "the name has no address");
        attempt_failed(redis);
        return;
    }
    conn->n_addrs = n_addrs < NAMES_MAX_ADDRS ? n_addrs : NAMES_MAX_ADDRS;
    memcpy(conn->addrs, addrs, conn->n_addrs * sizeof addrs[0]);
    connect_next(redis);
}

void redis_conn_start(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    CHECK(!conn->stream_started && !conn->query);
    conn->state = REDIS_CONNECTING;
    conn->n_addrs = conn->next_addr = 0;
    arm(redis, redis->connect_ms);
    if (redis->url.path[0]) {
        CHECK(addr_unix(redis->url.path, &conn->addrs[0], NULL) == OK); /* redis_url_parse bounds the path */
        conn->n_addrs = 1;
        connect_next(redis);
        return;
    }
    conn->query = names_resolve(redis->names, redis->url.host, redis->url.port, on_names, redis);
}

static void attempt_timed_out(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: no connection within %" PRIu32 " ms%s", redis->connect_ms,
            conn->query ? " (the name was not resolved)" : "");
    if (!conn->query) {
        redis_conn_broke(redis, &err);
        return;
    }
    names_cancel(conn->query);
    conn->query = NULL;
    conn->err = err;
    attempt_failed(redis);
}

/* While READY: is anybody there? A half-open connection answers nothing and reports nothing. */
static void janitor_tick(struct redis *redis)
{
    uint64_t now = loop_now(redis->loop), oldest = redis_oldest_ms(redis);
    uint64_t since = oldest > redis->conn.data_ms ? oldest : redis->conn.data_ms;
    if (oldest != 0 && now - since >= redis->stall_ms) {
        struct err err = {0};
        err_set(&err, ERR_UNAVAILABLE, "redis: no reply for %" PRIu64 " ms", now - since);
        redis_conn_broke(redis, &err);
        return;
    }
    if (oldest == 0 && now - redis->conn.data_ms >= IDLE_PING_MS)
        redis_ping(redis);
    arm(redis, redis->stall_ms / 2);
}

static void on_timer(struct timer *timer)
{
    struct redis *redis = container_of(timer, struct redis, conn.timer);
    CHECK_OBJ(redis, REDIS_MAGIC);
    switch (redis->conn.state) {
    case REDIS_CONNECTING:
        attempt_timed_out(redis);
        return;
    case REDIS_READY:
        janitor_tick(redis);
        return;
    case REDIS_CLOSING:
        return;
    case REDIS_WAITING:
        redis_conn_start(redis);
        return;
    }
    WRONG("redis_conn: state");
}

/* ---- for redis.c ---------------------------------------------------------------------------------------------- */

void redis_conn_stop(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    timer_stop(redis->loop, &conn->timer);
    if (conn->query)
        names_cancel(conn->query);
    if (conn->stream_started)
        stream_close(&conn->stream);
    else
        redis_destroy(redis);
}

bool redis_conn_can_send(const struct redis *redis)
{
    return redis->conn.state == REDIS_READY && !redis->conn.renew && stream_is_open(&redis->conn.stream);
}

size_t redis_conn_pending(const struct redis *redis)
{
    return redis->conn.state == REDIS_READY ? stream_pending(&redis->conn.stream) : 0;
}

/* The address may mean another server now. A replica that was configured by mistake must not make us spin. */
void redis_conn_saw_failover(struct redis *redis)
{
    if (loop_now(redis->loop) - redis->conn.ready_ms >= STABLE_MS)
        redis->conn.renew = true;
}
