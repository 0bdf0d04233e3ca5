/* Finding, connecting and entering, for every connection to Redis or Sentinel there is.
 *
 *   DOWN ─start─▸ FINDING ─▸ RESOLVING ─▸ CONNECTING ─▸ ENTERING ─▸ UP ─▸ CLOSING ─on_down─▸ DOWN
 *
 * FINDING only with Sentinel, RESOLVING only over TCP; any of them may go straight to CLOSING. Each address of a name
 * is tried in turn within the attempt's time. PING ends the handshake because a server that loads its data accepts
 * AUTH and SELECT; ROLE is asked when Sentinel named the server, since its word may be old (FACTS 7.1). */
#include "data/redis_link.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/crypto.h"
#include "data/redis_sentinel.h"

#define BACKOFF_MIN_MS 100
#define PIECE_BYTES 2048

enum step { STEP_AUTH, STEP_SELECT, STEP_SETNAME, STEP_ROLE, STEP_PING };
static const char *const step_names[] = {"AUTH", "SELECT", "CLIENT SETNAME", "ROLE", "PING"};

static void connect_next(struct redis_link *link);

uint64_t redis_backoff_ms(unsigned failures, uint64_t max_ms)
{
    uint64_t wait = BACKOFF_MIN_MS;
    for (unsigned i = 1; i < failures && wait < max_ms; i++)
        wait *= 2;
    wait = wait < max_ms ? wait : max_ms;
    uint32_t random;
    crypto_random(&random, sizeof random);
    return wait / 2 + random % (wait / 2 + 1);
}

/* ---- the end -------------------------------------------------------------------------------------------------- */

static void go_down(struct redis_link *link)
{
    timer_stop(link->target->loop, &link->timer);
    redis_parser_free(link->parser);
    link->parser = NULL;
    link->state = LINK_DOWN;
    struct err err = link->err; /* the owner may start or free the link */
    link->events->on_down(link, &err);
}

static void on_down_task(struct loop_task *task)
{
    struct redis_link *link = container_of(task, struct redis_link, down_task);
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    go_down(link);
}

void redis_link_close(struct redis_link *link, const struct err *err)
{
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    if (link->state == LINK_DOWN || link->state == LINK_CLOSING)
        return;
    link->err = *err;
    timer_stop(link->target->loop, &link->timer);
    if (link->find)
        redis_find_cancel(link->find);
    if (link->query)
        names_cancel(link->query);
    link->find = NULL;
    link->query = NULL;
    link->state = LINK_CLOSING;
    if (link->stream_started)
        stream_close(&link->stream); /* on_close comes, also when the stream was breaking by itself */
    else
        loop_defer(link->target->loop, &link->down_task, on_down_task);
}

static void fail(struct redis_link *link, const char *message)
{
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: %s", message);
    redis_link_close(link, &err);
}

/* Of several addresses, each has its say: the last one's "connection refused" may hide what the first one's was. */
static void add_error(struct redis_link *link, const char *message)
{
    struct err before = link->err;
    link->err = (struct err){0};
    err_set(&link->err, ERR_UNAVAILABLE, "%s%s%s", before.code ? before.message : "redis: ", before.code ? "; " : "",
            message);
}

static void on_close(struct stream *stream, const struct err *err)
{
    struct redis_link *link = container_of(stream, struct redis_link, stream);
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    link->stream_started = false;
    if (link->state != LINK_CLOSING) {
        add_error(link, err ? err->message : "closed");
        bool is_attempt = link->state == LINK_CONNECTING || link->state == LINK_ENTERING;
        if (is_attempt && link->next_addr < link->n_addrs) {
            connect_next(link);
            return;
        }
    }
    go_down(link);
}

static void on_timer(struct timer *timer)
{
    struct redis_link *link = container_of(timer, struct redis_link, timer);
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: no connection within %" PRIu32 " ms%s", link->target->connect_ms,
            link->query ? " (the name was not resolved)" : "");
    redis_link_close(link, &err);
}

/* ---- handshake ------------------------------------------------------------------------------------------------ */

static void add_step(struct redis_link *link, struct buf *out, enum step step, const struct slice *argv, size_t argc)
{
    redis_format(out, argv, argc);
    link->steps[link->n_steps++] = (uint8_t)step;
}

static void on_connect(struct stream *stream)
{
    struct redis_link *link = container_of(stream, struct redis_link, stream);
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    const struct redis_target *target = link->target;
    struct buf out = {0};
    char db[16];
    snprintf(db, sizeof db, "%d", target->db);
    link->n_steps = link->step = 0;
    link->state = LINK_ENTERING;
    const struct redis_login *login = target->login;
    struct slice auth[] = {SLICE("AUTH"), slice_of(login->user, strnlen(login->user, sizeof login->user)),
                           slice_of(login->password, strnlen(login->password, sizeof login->password))};
    if (auth[1].len > 0)
        add_step(link, &out, STEP_AUTH, auth, 3);
    else if (auth[2].len > 0)
        add_step(link, &out, STEP_AUTH, (struct slice[]){auth[0], auth[2]}, 2);
    if (target->db != 0)
        add_step(link, &out, STEP_SELECT, (struct slice[]){SLICE("SELECT"), slice_str(db)}, 2);
    add_step(link, &out, STEP_SETNAME, (struct slice[]){SLICE("CLIENT"), SLICE("SETNAME"), SLICE("chowk")}, 3);
    if (target->sentinel)
        add_step(link, &out, STEP_ROLE, (struct slice[]){SLICE("ROLE")}, 1);
    add_step(link, &out, STEP_PING, (struct slice[]){SLICE("PING")}, 1);
    stream_read(stream, true);
    (void)stream_write(stream, buf_as_slice(&out)); /* a failure arrives as on_close */
    buf_free(&out);
}

static bool is_primary(const struct redis_value *value)
{
    return value->type == REDIS_ARRAY && value->n_items > 0 && slice_eq(value->items[0].str, SLICE("master"));
}

static void on_handshake_reply(struct redis_link *link, const struct redis_value *value)
{
    enum step step = link->steps[link->step++];
    struct err err = {0};
    if (value->type == REDIS_ERROR && step != STEP_SETNAME) { /* the name is a courtesy an ACL may forbid */
        err_set(&err, ERR_UNAVAILABLE, "redis: %s: %.*s", step_names[step], SLICE_FMT(value->str));
        redis_link_close(link, &err);
    } else if (step == STEP_ROLE && !is_primary(value)) {
        err_set(&err, ERR_UNAVAILABLE, "redis: %s:%d is not the primary, though the sentinels say so", link->at.host,
                link->at.port);
        redis_link_close(link, &err);
    } else if (link->step == link->n_steps) {
        timer_stop(link->target->loop, &link->timer);
        link->state = LINK_UP;
        link->err = (struct err){0};
        link->up_ms = loop_now(link->target->loop);
        link->events->on_up(link);
    }
}

/* ---- bytes ---------------------------------------------------------------------------------------------------- */

static enum status take_whole(struct redis_link *link, struct err *err)
{
    const struct redis_value *value;
    for (;;) {
        enum status status = redis_parser_next(link->parser, &value, err);
        if (status != OK)
            return status;
        if (link->state == LINK_ENTERING)
            on_handshake_reply(link, value);
        else
            link->events->on_reply(link, value);
        redis_parser_reset(link->parser);
        if (link->state == LINK_CLOSING)
            return OK;
    }
}

/* In pieces: hiredis moves the rest of what it was fed to the front after every reply of 1 KiB, so a batch of replies
 * that is fed whole is moved as often as it has replies. */
static enum status take_replies(struct redis_link *link, struct slice bytes, struct err *err)
{
    enum status status = AGAIN;
    while (status == AGAIN && bytes.len > 0) {
        size_t len = bytes.len < PIECE_BYTES ? bytes.len : PIECE_BYTES;
        if (redis_parser_feed(link->parser, slice_of(bytes.ptr, len), err) != OK)
            return ERR;
        status = take_whole(link, err);
        bytes = slice_of(bytes.ptr + len, bytes.len - len);
    }
    return status;
}

static void on_data(struct stream *stream, struct slice bytes)
{
    struct redis_link *link = container_of(stream, struct redis_link, stream);
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    struct err err = {0};
    if (link->state == LINK_CLOSING)
        return;
    link->data_ms = loop_now(link->target->loop);
    if (take_replies(link, bytes, &err) == ERR)
        redis_link_close(link, &err);
}

static void on_eof(struct stream *stream)
{
    struct redis_link *link = container_of(stream, struct redis_link, stream);
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    fail(link, "the server closed the connection");
}

static void on_drain(struct stream *stream)
{
    (void)stream; /* what was kept counts against the owner's bound by stream_pending */
}

void redis_link_write(struct redis_link *link, struct slice bytes)
{
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    if (redis_link_is_up(link))
        (void)stream_write(&link->stream, bytes); /* a stream that breaks here tells on_close */
}

void redis_link_command(struct redis_link *link, const struct slice *argv, size_t argc)
{
    struct buf out = {0};
    redis_format(&out, argv, argc);
    redis_link_write(link, buf_as_slice(&out));
    buf_free(&out);
}

/* ---- connecting ----------------------------------------------------------------------------------------------- */

static const struct stream_events stream_events = {on_data, on_eof, on_connect, on_drain, on_close};

static void connect_next(struct redis_link *link)
{
    const struct redis_target *target = link->target;
    redis_parser_free(link->parser);
    link->parser = redis_parser_new();
    link->state = LINK_CONNECTING;
    link->stream_started = true;
    stream_connect(&link->stream, target->loop, &link->addrs[link->next_addr++], &stream_events);
    stream_keep_alive(&link->stream);
    if (target->tls && stream_is_open(&link->stream))
        stream_start_tls(&link->stream, target->tls, link->at.host);
}

static void on_names(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err)
{
    struct redis_link *link;
    CAST_OBJ(link, data, REDIS_LINK_MAGIC);
    link->query = NULL;
    if (err || n_addrs == 0) {
        fail(link, err ? err->message : "the name has no address");
        return;
    }
    link->n_addrs = n_addrs < NAMES_MAX_ADDRS ? n_addrs : NAMES_MAX_ADDRS;
    memcpy(link->addrs, addrs, link->n_addrs * sizeof addrs[0]);
    connect_next(link);
}

static void resolve(struct redis_link *link)
{
    const struct redis_target *target = link->target;
    timer_arm(target->loop, &link->timer, loop_now(target->loop) + target->connect_ms, on_timer);
    if (target->path) {
        CHECK(addr_unix(target->path, &link->addrs[0], NULL) == OK); /* redis_url_parse bounds the path */
        link->n_addrs = 1;
        connect_next(link);
        return;
    }
    link->state = LINK_RESOLVING;
    link->query = names_resolve(target->names, link->at.host, link->at.port, on_names, link);
}

static void on_found(void *data, const struct redis_host *at, const struct err *err)
{
    struct redis_link *link;
    CAST_OBJ(link, data, REDIS_LINK_MAGIC);
    link->find = NULL;
    if (err) {
        redis_link_close(link, err);
        return;
    }
    link->at = *at;
    resolve(link);
}

void redis_link_create(struct redis_link *link, const struct redis_target *target,
                       const struct redis_link_events *events)
{
    *link = (struct redis_link){.magic = REDIS_LINK_MAGIC, .target = target, .events = events};
}

void redis_link_start(struct redis_link *link)
{
    CHECK_OBJ(link, REDIS_LINK_MAGIC);
    CHECK(link->state == LINK_DOWN && !link->stream_started);
    link->n_addrs = link->next_addr = 0;
    link->err = (struct err){0};
    if (link->target->sentinel) {
        link->state = LINK_FINDING;
        link->find = redis_sentinel_find(link->target->sentinel, on_found, link);
        return;
    }
    link->at = link->target->at;
    resolve(link);
}
