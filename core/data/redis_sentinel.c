/* Two links: `ask` is opened for each look-up and closed after it; `watch` (redis_watch below) stays and listens. All
 * look-ups that come while one is under way share its answer. A sentinel that does not answer in ASK_MS is passed
 * over. The list of sentinels is what the last one to answer knows, and the configured ones behind them: they are never
 * forgotten, since a sentinel that was cut off for long may know nobody. */
#include "data/redis_sentinel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/list.h"
#include "base/log.h"

#define SENTINEL_MAGIC 0x4ed15020u
#define FIND_MAGIC 0x4ed15021u
#define MAX_HOSTS (2 * REDIS_URL_MAX_SENTINELS)
#define ASK_MS 500          /* to connect and enter, and again to answer */
#define WATCH_PING_MS 15000 /* a watch that has been silent for two of these is dead */
#define WATCH_RETRY_MS 1000

struct redis_find {
    unsigned magic;
    struct list node;
    redis_find_fn fn;
    void *data;
};

struct redis_sentinel {
    unsigned magic;
    struct redis_sentinel_opts opts;
    struct redis_host hosts[MAX_HOSTS]; /* the one that answered last comes first */
    size_t n_hosts;
    struct list finds;
    struct loop_task start_task;

    struct redis_target ask_target, watch_target;
    struct redis_link ask, watch;
    struct timer ask_timer, watch_timer;
    size_t at;          /* hosts[at] is being asked */
    bool is_asking;     /* a round is under way */
    unsigned n_replies; /* of the one being asked */
    bool has_answer, is_unknown;
    struct redis_host answer, primary; /* of this round; the last one told (host "": none yet) */
    char last_error[256];
    size_t watch_at;
    bool freeing;
};

static void ask_next(struct redis_sentinel *sentinel);

/* ---- the end of a round --------------------------------------------------------------------------------------- */

static void tell_primary(struct redis_sentinel *sentinel, const struct redis_host *at)
{
    struct redis_host before = sentinel->primary;
    sentinel->primary = *at;
    if (before.host[0] == '\0' || (strcmp(before.host, at->host) == 0 && before.port == at->port))
        return;
    log_warn("redis: the primary has moved", LOG_S("name", sentinel->opts.url->primary), LOG_S("from", before.host),
             LOG_I("from_port", before.port), LOG_S("to", at->host), LOG_I("to_port", at->port));
    sentinel->opts.on_moved(sentinel->opts.data, at);
}

static void round_over(struct redis_sentinel *sentinel)
{
    struct err err = {0};
    const struct redis_host *at = sentinel->has_answer ? &sentinel->answer : NULL;
    struct list round;
    sentinel->is_asking = false;
    if (sentinel->is_unknown)
        err_set(&err, ERR_UNAVAILABLE, "redis: name unknown: no sentinel knows a primary \"%s\"",
                sentinel->opts.url->primary);
    else
        err_set(&err, ERR_UNAVAILABLE, "redis: sentinels unreachable: none of %zu answered; the last: %s",
                sentinel->n_hosts, sentinel->last_error);
    list_init(&round);
    for (struct list *node; (node = list_pop(&sentinel->finds)) != NULL;)
        list_push(&round, node);
    if (at)
        tell_primary(sentinel, at);
    for (struct list *node; (node = list_pop(&round)) != NULL;) {
        struct redis_find *find = container_of(node, struct redis_find, node);
        find->fn(find->data, at, at ? NULL : &err);
        find->magic = 0;
        free(find);
    }
}

/* ---- the list ------------------------------------------------------------------------------------------------- */

static bool is_same(const struct redis_host *a, const struct redis_host *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

static void add_host(struct redis_sentinel *sentinel, const struct redis_host *host)
{
    for (size_t i = 0; i < sentinel->n_hosts; i++)
        if (is_same(&sentinel->hosts[i], host))
            return;
    if (sentinel->n_hosts < MAX_HOSTS)
        sentinel->hosts[sentinel->n_hosts++] = *host;
}

static bool read_host(struct slice host, struct slice port, struct redis_host *out)
{
    int64_t number;
    if (host.len == 0 || host.len >= sizeof out->host || !slice_to_int(port, 1, 65535, &number))
        return false;
    memcpy(out->host, host.ptr, host.len);
    out->host[host.len] = '\0';
    out->port = (int)number;
    return true;
}

/* One sentinel as another describes it: field, value, field, value, … */
static bool read_description(const struct redis_value *fields, struct redis_host *out)
{
    struct slice host = {0}, port = {0};
    for (size_t i = 0; i + 1 < fields->n_items; i += 2) {
        if (slice_eq(fields->items[i].str, SLICE("ip")))
            host = fields->items[i + 1].str;
        else if (slice_eq(fields->items[i].str, SLICE("port")))
            port = fields->items[i + 1].str;
    }
    return read_host(host, port, out);
}

/* hosts[at] has answered: it comes first, then whom it knows, then who was configured. */
static void refresh_list(struct redis_sentinel *sentinel, const struct redis_value *known)
{
    const struct redis_url *url = sentinel->opts.url;
    struct redis_host host = sentinel->hosts[sentinel->at];
    sentinel->n_hosts = 0;
    add_host(sentinel, &host);
    for (size_t i = 0; i < known->n_items; i++)
        if (sentinel->n_hosts < MAX_HOSTS - REDIS_URL_MAX_SENTINELS && read_description(&known->items[i], &host))
            add_host(sentinel, &host);
    for (size_t i = 0; i < url->n_sentinels; i++)
        add_host(sentinel, &url->sentinels[i]);
    sentinel->at = 0;
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static void on_ask_timer(struct timer *timer)
{
    struct redis_sentinel *sentinel = container_of(timer, struct redis_sentinel, ask_timer);
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: no answer within %d ms", ASK_MS);
    redis_link_close(&sentinel->ask, &err);
}

static void on_ask_up(struct redis_link *link)
{
    struct redis_sentinel *sentinel = container_of(link, struct redis_sentinel, ask);
    struct slice name = slice_str(sentinel->opts.url->primary);
    struct buf out = {0};
    sentinel->n_replies = 0;
    redis_format(&out, (struct slice[]){SLICE("SENTINEL"), SLICE("get-master-addr-by-name"), name}, 3);
    redis_format(&out, (struct slice[]){SLICE("SENTINEL"), SLICE("sentinels"), name}, 3);
    redis_link_write(link, buf_as_slice(&out));
    buf_free(&out);
    struct loop *loop = sentinel->opts.loop;
    timer_arm(loop, &sentinel->ask_timer, loop_now(loop) + ASK_MS, on_ask_timer);
}

static void on_address(struct redis_sentinel *sentinel, const struct redis_value *value)
{
    if (value->type == REDIS_ARRAY && value->n_items == 2)
        sentinel->has_answer = read_host(value->items[0].str, value->items[1].str, &sentinel->answer);
    else if (value->type == REDIS_NIL)
        sentinel->is_unknown = true;
    else if (value->type == REDIS_ERROR)
        snprintf(sentinel->last_error, sizeof sentinel->last_error, "%.*s", SLICE_FMT(value->str));
}

static void on_ask_reply(struct redis_link *link, const struct redis_value *value)
{
    struct redis_sentinel *sentinel = container_of(link, struct redis_sentinel, ask);
    struct err err = {0};
    if (++sentinel->n_replies == 1) {
        on_address(sentinel, value);
        if (sentinel->has_answer)
            return;
    } else if (value->type == REDIS_ARRAY) {
        refresh_list(sentinel, value);
    }
    err_set(&err, ERR_UNAVAILABLE, "%s", sentinel->is_unknown ? "name unknown" : sentinel->last_error);
    redis_link_close(link, &err); /* on_ask_down sees whether there is an answer */
}

static void on_ask_down(struct redis_link *link, const struct err *err)
{
    struct redis_sentinel *sentinel = container_of(link, struct redis_sentinel, ask);
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    timer_stop(sentinel->opts.loop, &sentinel->ask_timer);
    if (sentinel->freeing) {
        redis_sentinel_free(sentinel);
        return;
    }
    if (sentinel->has_answer) {
        round_over(sentinel);
        return;
    }
    if (err->message[0])
        snprintf(sentinel->last_error, sizeof sentinel->last_error, "%.255s", err->message);
    sentinel->at++;
    ask_next(sentinel);
}

static const struct redis_link_events ask_events = {on_ask_up, on_ask_reply, on_ask_down};

static void ask_next(struct redis_sentinel *sentinel)
{
    if (sentinel->at >= sentinel->n_hosts) {
        round_over(sentinel);
        return;
    }
    sentinel->ask_target.at = sentinel->hosts[sentinel->at];
    redis_link_start(&sentinel->ask);
}

static void on_start_task(struct loop_task *task)
{
    struct redis_sentinel *sentinel = container_of(task, struct redis_sentinel, start_task);
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    if (sentinel->is_asking || list_is_empty(&sentinel->finds))
        return;
    sentinel->is_asking = true;
    sentinel->has_answer = sentinel->is_unknown = false;
    sentinel->at = 0;
    ask_next(sentinel);
}

struct redis_find *redis_sentinel_find(struct redis_sentinel *sentinel, redis_find_fn fn, void *data)
{
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    struct redis_find *find = xalloc(sizeof *find);
    *find = (struct redis_find){.magic = FIND_MAGIC, .fn = fn, .data = data};
    list_push(&sentinel->finds, &find->node);
    loop_defer(sentinel->opts.loop, &sentinel->start_task, on_start_task);
    return find;
}

void redis_find_cancel(struct redis_find *find)
{
    CHECK_OBJ(find, FIND_MAGIC);
    list_remove(&find->node);
    find->magic = 0;
    free(find);
}

/* ---- watching ------------------------------------------------------------------------------------------------- */

static void on_watch_timer(struct timer *timer)
{
    struct redis_sentinel *sentinel = container_of(timer, struct redis_sentinel, watch_timer);
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    struct redis_link *link = &sentinel->watch;
    uint64_t now = loop_now(sentinel->opts.loop);
    struct err err = {0};
    if (link->state == LINK_DOWN) {
        sentinel->watch_at %= sentinel->n_hosts;
        sentinel->watch_target.at = sentinel->hosts[sentinel->watch_at];
        redis_link_start(link);
        return;
    }
    if (now - link->data_ms >= 2 * WATCH_PING_MS) {
        err_set(&err, ERR_UNAVAILABLE, "redis: a sentinel has gone silent");
        redis_link_close(link, &err);
        return;
    }
    redis_link_command(link, (struct slice[]){SLICE("PING")}, 1);
    timer_arm(sentinel->opts.loop, timer, now + WATCH_PING_MS, on_watch_timer);
}

static void on_watch_up(struct redis_link *link)
{
    struct redis_sentinel *sentinel = container_of(link, struct redis_sentinel, watch);
    struct loop *loop = sentinel->opts.loop;
    redis_link_command(link, (struct slice[]){SLICE("SUBSCRIBE"), SLICE("+switch-master")}, 2);
    timer_arm(loop, &sentinel->watch_timer, loop_now(loop) + WATCH_PING_MS, on_watch_timer);
}

/* "name old-host old-port new-host new-port" */
static void on_watch_reply(struct redis_link *link, const struct redis_value *value)
{
    struct redis_sentinel *sentinel = container_of(link, struct redis_sentinel, watch);
    struct slice words[5], text;
    size_t n = 0;
    struct redis_host at;
    if (value->type != REDIS_ARRAY || value->n_items != 3 || !slice_eq(value->items[0].str, SLICE("message")))
        return;
    text = value->items[2].str;
    for (size_t from = 0, i = 0; i <= text.len && n < 5; i++) {
        if (i == text.len || text.ptr[i] == ' ') {
            words[n++] = slice_of(text.ptr + from, i - from);
            from = i + 1;
        }
    }
    if (n == 5 && slice_eq(words[0], slice_str(sentinel->opts.url->primary)) && read_host(words[3], words[4], &at))
        tell_primary(sentinel, &at);
}

static void on_watch_down(struct redis_link *link, const struct err *err)
{
    struct redis_sentinel *sentinel = container_of(link, struct redis_sentinel, watch);
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    struct loop *loop = sentinel->opts.loop;
    (void)err; /* only a hint is lost; the look-ups report unreachable sentinels */
    if (sentinel->freeing) {
        redis_sentinel_free(sentinel);
        return;
    }
    sentinel->watch_at++;
    timer_arm(loop, &sentinel->watch_timer, loop_now(loop) + WATCH_RETRY_MS, on_watch_timer);
}

static const struct redis_link_events watch_events = {on_watch_up, on_watch_reply, on_watch_down};

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct redis_sentinel *redis_sentinel_new(const struct redis_sentinel_opts *opts)
{
    struct redis_sentinel *sentinel = xalloc(sizeof *sentinel);
    sentinel->magic = SENTINEL_MAGIC;
    sentinel->opts = *opts;
    list_init(&sentinel->finds);
    for (size_t i = 0; i < opts->url->n_sentinels; i++)
        add_host(sentinel, &opts->url->sentinels[i]);
    sentinel->ask_target = (struct redis_target){.loop = opts->loop,
                                                 .names = opts->names,
                                                 .tls = opts->tls,
                                                 .login = &opts->url->sentinel_login,
                                                 .connect_ms = ASK_MS};
    sentinel->watch_target = sentinel->ask_target;
    redis_link_create(&sentinel->ask, &sentinel->ask_target, &ask_events);
    redis_link_create(&sentinel->watch, &sentinel->watch_target, &watch_events);
    timer_arm(opts->loop, &sentinel->watch_timer, loop_now(opts->loop), on_watch_timer);
    return sentinel;
}

/* Comes back here when a link has closed, until both have. */
void redis_sentinel_free(struct redis_sentinel *sentinel)
{
    CHECK_OBJ(sentinel, SENTINEL_MAGIC);
    CHECK(list_is_empty(&sentinel->finds));
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "redis: shutting down");
    sentinel->freeing = true;
    loop_defer_cancel(&sentinel->start_task);
    timer_stop(sentinel->opts.loop, &sentinel->ask_timer);
    timer_stop(sentinel->opts.loop, &sentinel->watch_timer);
    redis_link_close(&sentinel->ask, &err);
    redis_link_close(&sentinel->watch, &err);
    if (sentinel->ask.state != LINK_DOWN || sentinel->watch.state != LINK_DOWN)
        return;
    sentinel->magic = 0;
    sentinel->opts.on_freed(sentinel->opts.data);
    loop_reclaim(sentinel->opts.loop, sentinel);
}
