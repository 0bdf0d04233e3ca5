/* The life of the shared connection: when its link is started, the janitor's tick while it is up, back-off while it is
 * not. It decides about life and death; what the replies mean is redis_queue.c's.
 *
 *   CONNECTING ──up──▸ READY ──lost──▸ CLOSING ──on_down──▸ WAITING ──timer──▸ CONNECTING
 *        └──────────────────── failed ──────────────────────────┘
 *
 * Offline: until the first attempt has ended, everything waits. After a loss, writes fail at once, and reads wait for
 * offline_ms at most: a blip is not seen, an outage is told soon. A connection that was up for less than a second is
 * renewed after a pause, so that a peer who hangs up on us is not hammered.
 *
 * Failover: an answer such as READONLY, or Sentinel naming another primary, marks the connection for renewal: nothing
 * more is sent on it, and it is closed when the last reply is in, or after a short grace. */
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "data/redis_priv.h"

#define BACKOFF_MAX_MS 5000
#define SENTINEL_BACKOFF_MAX_MS 1000 /* a failover takes seconds: do not add as many */
#define STABLE_MS 1000               /* up for so long: a loss is an accident, not a pattern */
#define RENEW_GRACE_MS 500           /* for replies of a server that is no longer the primary */
#define IDLE_PING_MS 30000           /* proxies and NAT forget idle connections */
#define LOG_EVERY 16                 /* failed attempts: about once in 80 s at the longest back-off */

static void on_timer(struct timer *timer);

static void arm(struct redis *redis, uint64_t after_ms)
{
    timer_arm(redis->loop, &redis->conn.timer, loop_now(redis->loop) + after_ms, on_timer);
}

static void break_link(struct redis *redis, const char *why)
{
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: %s", why);
    redis->conn.state = REDIS_CLOSING;
    timer_stop(redis->loop, &redis->conn.timer);
    redis_link_close(&redis->conn.link, &err);
}

static void start(struct redis *redis)
{
    redis->conn.state = REDIS_CONNECTING;
    redis_link_start(&redis->conn.link);
}

/* ---- offline -------------------------------------------------------------------------------------------------- */

static bool is_first_attempt(const struct redis_conn *conn)
{
    return !conn->was_up && conn->failures == 0;
}

bool redis_conn_may_wait(const struct redis *redis, bool reads)
{
    const struct redis_conn *conn = &redis->conn;
    if (redis_conn_can_send(redis) || is_first_attempt(conn))
        return true;
    return reads && redis->n_unsent < redis->offline_max && loop_now(redis->loop) - conn->lost_ms < redis->offline_ms;
}

static void on_offline_timer(struct timer *timer)
{
    struct redis *redis = container_of(timer, struct redis, conn.offline_timer);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct err err = redis->conn.err;
    if (err.code == ERR_NONE)
        err_set(&err, ERR_UNAVAILABLE, "redis: reconnecting");
    if (!is_first_attempt(&redis->conn) && !redis_conn_can_send(redis))
        redis_fail_unsent(redis, &err, false);
}

static void go_offline(struct redis *redis)
{
    redis->conn.lost_ms = loop_now(redis->loop);
    timer_arm(redis->loop, &redis->conn.offline_timer, redis->conn.lost_ms + redis->offline_ms, on_offline_timer);
}

/* ---- the link's events ---------------------------------------------------------------------------------------- */

static void on_up(struct redis_link *link)
{
    struct redis *redis = container_of(link, struct redis, conn.link);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_conn *conn = &redis->conn;
    if (conn->failures > 0)
        log_info("redis is available again", LOG_S("host", link->at.host), LOG_I("attempts", conn->failures));
    conn->state = REDIS_READY;
    conn->was_up = true;
    conn->failures = 0;
    conn->renew_ms = 0;
    timer_stop(redis->loop, &conn->offline_timer);
    arm(redis, redis->stall_ms / 2);
    redis_flush(redis);
}

static void on_reply(struct redis_link *link, const struct redis_value *value)
{
    struct redis *redis = container_of(link, struct redis, conn.link);
    struct err err;
    if (redis_deliver(redis, value, &err) != OK)
        break_link(redis, "sent a reply that nothing asked for");
    else if (redis->conn.renew_ms > 0 && redis_oldest_ms(redis) == 0)
        break_link(redis, "the server is no longer the primary");
}

static void attempt_failed(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    uint64_t wait_ms = redis_backoff_ms(++conn->failures, redis->sentinel ? SENTINEL_BACKOFF_MAX_MS : BACKOFF_MAX_MS);
    if (conn->failures % LOG_EVERY == 1)
        log_warn("redis is unavailable", LOG_S("error", conn->err.message), LOG_I("attempts", conn->failures),
                 LOG_I("retry_ms", (int64_t)wait_ms));
    arm(redis, wait_ms);
    redis_fail_unsent(redis, &conn->err, loop_now(redis->loop) - conn->lost_ms < redis->offline_ms);
}

static void connection_lost(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    bool was_stable = loop_now(redis->loop) - conn->link.up_ms >= STABLE_MS;
    log_warn("redis connection lost", LOG_S("error", conn->err.message));
    if (conn->renew_ms == 0)
        go_offline(redis);
    conn->renew_ms = 0;
    arm(redis, was_stable ? 0 : redis_backoff_ms(1, BACKOFF_MAX_MS));
    redis_fail_in_flight(redis, &conn->err);
    redis_fail_unsent(redis, &conn->err, true);
}

static void on_down(struct redis_link *link, const struct err *err)
{
    struct redis *redis = container_of(link, struct redis, conn.link);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_conn *conn = &redis->conn;
    bool was_connecting = conn->state == REDIS_CONNECTING;
    timer_stop(redis->loop, &conn->timer);
    if (redis->freeing) {
        redis_part_closed(redis);
        return;
    }
    conn->err = *err;
    conn->err.code = ERR_UNAVAILABLE;
    conn->state = REDIS_WAITING;
    if (was_connecting)
        attempt_failed(redis);
    else
        connection_lost(redis);
}

static const struct redis_link_events link_events = {on_up, on_reply, on_down};

/* ---- time ----------------------------------------------------------------------------------------------------- */

/* While READY: is anybody there? A half-open connection answers nothing and reports nothing. */
static void janitor_tick(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    uint64_t now = loop_now(redis->loop), oldest = redis_oldest_ms(redis);
    uint64_t since = oldest > conn->link.data_ms ? oldest : conn->link.data_ms;
    if (conn->renew_ms > 0) {
        break_link(redis, "the server is no longer the primary");
        return;
    }
    if (oldest != 0 && now - since >= redis->stall_ms) {
        char why[64];
        snprintf(why, sizeof why, "no reply for %" PRIu64 " ms", now - since);
        break_link(redis, why);
        return;
    }
    if (oldest == 0 && now - conn->link.data_ms >= IDLE_PING_MS)
        redis_ping(redis);
    arm(redis, redis->stall_ms / 2);
}

static void on_timer(struct timer *timer)
{
    struct redis *redis = container_of(timer, struct redis, conn.timer);
    CHECK_OBJ(redis, REDIS_MAGIC);
    switch (redis->conn.state) {
    case REDIS_READY:
        janitor_tick(redis);
        return;
    case REDIS_WAITING:
        start(redis);
        return;
    case REDIS_CONNECTING: /* the link has its own */
    case REDIS_CLOSING:
        return;
    }
    WRONG("redis_conn: state");
}

/* ---- for the others ------------------------------------------------------------------------------------------- */

void redis_conn_start(struct redis *redis)
{
    redis_link_create(&redis->conn.link, &redis->target, &link_events);
    redis->n_open++;
    go_offline(redis);
    start(redis);
}

void redis_conn_stop(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "redis: shutting down");
    timer_stop(redis->loop, &conn->timer);
    timer_stop(redis->loop, &conn->offline_timer);
    if (conn->link.state == LINK_DOWN)
        redis_part_closed(redis);
    else
        redis_link_close(&conn->link, &err);
}

bool redis_conn_can_send(const struct redis *redis)
{
    return redis->conn.state == REDIS_READY && redis->conn.renew_ms == 0 && redis_link_is_up(&redis->conn.link);
}

size_t redis_conn_pending(const struct redis *redis)
{
    return redis->conn.state == REDIS_READY ? stream_pending(&redis->conn.link.stream) : 0;
}

static void renew(struct redis *redis)
{
    redis->conn.renew_ms = loop_now(redis->loop);
    go_offline(redis);
    arm(redis, redis_oldest_ms(redis) == 0 ? 0 : RENEW_GRACE_MS);
}

/* The address may mean another server now. A replica that was configured by mistake must not make us spin. */
void redis_conn_saw_failover(struct redis *redis)
{
    struct redis_conn *conn = &redis->conn;
    if (conn->state == REDIS_READY && conn->renew_ms == 0 && loop_now(redis->loop) - conn->link.up_ms >= STABLE_MS)
        renew(redis);
}

void redis_conn_moved(struct redis *redis, const struct redis_host *at)
{
    struct redis_conn *conn = &redis->conn;
    bool is_there = conn->link.at.port == at->port && strcmp(conn->link.at.host, at->host) == 0;
    if (conn->state == REDIS_READY && conn->renew_ms == 0 && !is_there)
        renew(redis);
    else if (conn->state == REDIS_WAITING)
        arm(redis, 0);
}
