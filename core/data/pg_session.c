/* One connection, from a name to a pipeline that is ready, and to its end. libpq makes it, then we use its socket.
 *
 *   CLOSED → RESOLVING → CONNECTING → READY ⇄ BUSY → RELEASING → READY   (BUSY and RELEASING: exclusive ones)
 *   any of them → CLOSED, by pg_session_lose
 *
 * Names are resolved by net/names and handed to libpq as hostaddr, because libpq's own look-up blocks. No
 * function here blocks; what libpq still does on the loop at connect time is its password hash (about 5 ms
 * with SCRAM). Session settings travel in the start-up packet, so that a connection is ready at once; DateStyle
 * and TimeZone come from libpq's environment variables, which a pooler accepts where it refuses `options`.
 *
 * A connection that broke in the middle of a turn is only marked (pg_session_doom) and closed by the turn hook:
 * nobody finds it gone under his feet. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "data/pg_priv.h"
#include "net/tls.h"

void pg_session_create(struct pg_session *conn, struct pg *pg, enum pg_lane_id lane)
{
    conn->magic = PG_SESSION_MAGIC;
    conn->pg = pg;
    conn->lane = lane;
    list_init(&conn->node);
    list_init(&conn->out);
    list_init(&conn->inflight);
}

void pg_session_destroy(struct pg_session *conn)
{
    CHECK(conn->state == PG_SESSION_CLOSED && list_is_empty(&conn->inflight) && list_is_empty(&conn->out));
    free(conn->steps);
    buf_free(&conn->in_bytes);
    buf_free(&conn->out_bytes);
    buf_free(&conn->hosts);
    buf_free(&conn->hostaddrs);
    buf_free(&conn->ports);
    conn->magic = 0;
}

bool pg_session_is_open(const struct pg_session *conn)
{
    return conn->state >= PG_SESSION_READY && !conn->is_doomed;
}

void pg_session_check_socket(struct pg_session *conn)
{
    if (!conn->poll || PQsocket(conn->pq) >= 0)
        return;
    poll_free(conn->poll);
    conn->poll = NULL;
}

void pg_session_doom(struct pg_session *conn, enum err_code code, const char *fmt, ...)
{
    pg_session_check_socket(conn);
    if (conn->is_doomed || conn->state == PG_SESSION_CLOSED)
        return;
    char message[sizeof(((struct err *)0)->message)];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    message[strcspn(message, "\n")] = '\0'; /* libpq writes paragraphs; the first line says it */
    conn->err = xalloc(sizeof(*conn->err));
    err_set(conn->err, code, "%s", message);
    conn->is_doomed = true;
    list_remove(&conn->node); /* idle: nobody gets it now */
    pg_mark_dirty(conn->pg);
}

/* ---- its end ----------------------------------------------------------------------------------------------- */

static void conn_clear(struct pg_session *conn)
{
    if (conn->poll)
        poll_free(conn->poll);
    conn->poll = NULL;
    if (conn->query)
        names_cancel(conn->query);
    conn->query = NULL;
    PQfinish(conn->pq);
    conn->pq = NULL;
    if (conn->cancel_op)
        pg_op_cancel(conn->cancel_op);
    conn->cancel_op = NULL;
    list_remove(&conn->node);
    conn->steps_head = conn->steps_len = 0;
    conn->due_ms = 0;
    conn->ssl = NULL;
    conn->n_written = conn->n_skip = 0;
    buf_clear(&conn->in_bytes);
    buf_clear(&conn->out_bytes);
    pg_answer_clear(conn);
    conn->is_deaf = conn->is_group_open = conn->is_doomed = conn->is_tainted = conn->is_cancelled = false;
    conn->is_retiring = false;
    free(conn->err);
    conn->err = NULL;
    memset(conn->prepared, 0, sizeof(conn->prepared));
    for (size_t i = 0; i < ARRAY_LEN(conn->columns); i++)
        pg_columns_unref(conn->columns[i]);
    memset(conn->columns, 0, sizeof(conn->columns));
    conn->has_own_prepared = false;
    conn->state = PG_SESSION_CLOSED;
}

void pg_session_lose(struct pg_session *conn, const struct err *err)
{
    CHECK_OBJ(conn, PG_SESSION_MAGIC);
    if (conn->state == PG_SESSION_CLOSED)
        return;
    struct err why = *err; /* it may be conn->err */
    bool was_open = conn->state >= PG_SESSION_READY;
    /* A host that stays silent would be the first of every attempt, and no other one's turn would come. */
    bool is_silent = conn->state == PG_SESSION_CONNECTING && loop_now(conn->pg->loop) >= conn->due_ms;
    if (is_silent && conn->rotation == conn->pg->rotation)
        conn->pg->rotation++;
    if (conn->lane == PG_LANE_LISTEN)
        pg_listen_on_lost(conn->pg);
    conn_clear(conn);
    if (!was_open) {
        pg_grow_on_connect_failed(conn, &why);
        return;
    }
    if (why.code == ERR_CANCELLED) { /* closed by us: tainted, or everything is */
        log_debug("PostgreSQL connection closed", LOG_S("why", why.message));
    } else {
        log_warn("PostgreSQL connection lost", LOG_S("why", why.message), LOG_I("in_flight", conn->n_ops));
        conn->pg->n_reconnects++;
    }
    pg_mark_dirty(conn->pg);
    if (conn->copy)
        pg_copy_on_lost(conn->copy, &why);
    pg_settle_lost(conn, &why);
}

/* ---- ready ------------------------------------------------------------------------------------------------- */

static void on_notice(void *data, const char *message)
{
    (void)data;
    log_debug("PostgreSQL notice", LOG_S("text", message));
}

static void on_io(void *data, int events)
{
    struct pg_session *conn;
    CAST_OBJ(conn, data, PG_SESSION_MAGIC);
    if (conn->is_doomed)
        return;
    if (conn->copy) {
        pg_copy_on_io(conn->copy, events);
        return;
    }
    if (events & POLL_READ)
        pg_answer_read(conn);
    if ((events & POLL_WRITE) && !conn->is_doomed)
        pg_io_flush(conn);
}

/* Types are read as text under these two; a pooler or a role's own settings may have changed them. */
static bool has_our_settings(struct pg_session *conn)
{
    const char *style = PQparameterStatus(conn->pq, "DateStyle"), *zone = PQparameterStatus(conn->pq, "TimeZone");
    return style && strncmp(style, "ISO", 3) == 0 && zone && (strcmp(zone, "UTC") == 0 || strcmp(zone, "Etc/UTC") == 0);
}

static void on_ready(struct pg_session *conn)
{
    struct err err;
    if (!has_our_settings(conn)) {
        err_set(&err, ERR_UNAVAILABLE, "the server did not take DateStyle = ISO and TimeZone = UTC at start-up");
        pg_session_lose(conn, &err);
        return;
    }
    PQsetNoticeProcessor(conn->pq, on_notice, NULL);
    CHECK(PQsetnonblocking(conn->pq, 1) == 0);
    conn->ssl = PQsslStruct(conn->pq, "OpenSSL");
    if (conn->ssl)
        tls_session_adopt(conn->ssl);
    conn->tx_status = PG_TX_IDLE;
    conn->poll = poll_new(conn->pg->loop, PQsocket(conn->pq), on_io, conn);
    poll_set(conn->poll, POLL_READ);
    conn->state = PG_SESSION_READY;
    conn->due_ms = 0;
    conn->heard_ms = loop_now(conn->pg->loop);
    pg_grow_on_connected(conn);
}

/* ---- connecting ---------------------------------------------------------------------------------------------- */

static void on_connect_io(void *data, int events);

static void connect_failed(struct pg_session *conn)
{
    struct err err;
    char text[sizeof(err.message)];
    snprintf(text, sizeof(text), "%s", conn->pq ? PQerrorMessage(conn->pq) : "out of memory");
    size_t len = strlen(text);
    while (len > 0 && text[len - 1] == '\n')
        text[--len] = '\0';
    for (char *line = strchr(text, '\n'); line; line = strchr(line, '\n'))
        *line = ';'; /* one line for each host that was tried */
    err_set(&err, ERR_UNAVAILABLE, "%s", text);
    pg_session_lose(conn, &err);
}

/* libpq may close its socket and open another between two calls, so the poll is made anew for each wait. */
static void connect_step(struct pg_session *conn, PostgresPollingStatusType wants)
{
    if (wants == PGRES_POLLING_OK) {
        on_ready(conn);
        return;
    }
    if (wants != PGRES_POLLING_READING && wants != PGRES_POLLING_WRITING) {
        connect_failed(conn);
        return;
    }
    conn->poll = poll_new(conn->pg->loop, PQsocket(conn->pq), on_connect_io, conn);
    poll_set(conn->poll, wants == PGRES_POLLING_READING ? POLL_READ : POLL_WRITE);
}

static void on_connect_io(void *data, int events)
{
    struct pg_session *conn;
    (void)events;
    CAST_OBJ(conn, data, PG_SESSION_MAGIC);
    poll_free(conn->poll);
    conn->poll = NULL;
    connect_step(conn, PQconnectPoll(conn->pq));
}

static const char *conninfo_get(const struct pg *pg, const char *keyword)
{
    for (const PQconninfoOption *o = pg->conninfo; o->keyword; o++)
        if (strcmp(o->keyword, keyword) == 0)
            return o->val && o->val[0] ? o->val : NULL;
    return NULL;
}

/* Settings by lane. A pooler refuses `options`, so there are none there (T5). */
static const char *lane_options(const struct pg_session *conn)
{
#define COMMON                                                                                                         \
    "-c extra_float_digits=1 -c IntervalStyle=postgres -c bytea_output=hex -c standard_conforming_strings=on "
#define ISOLATION "-c default_transaction_isolation=read\\ committed "
#define SHARED "-c statement_timeout=100 -c lock_timeout=20 " ISOLATION
    static const char *const options[] = {
        [PG_LANE_READ] = COMMON SHARED "-c default_transaction_read_only=on",
        [PG_LANE_WRITE] = COMMON SHARED,
        [PG_LANE_EXCLUSIVE] =
            COMMON ISOLATION "-c default_transaction_read_only=off -c client_connection_check_interval=1000",
        [PG_LANE_LISTEN] = COMMON,
    };
#undef COMMON
#undef ISOLATION
#undef SHARED
    return options[conn->lane];
}

/* Silence on a wire is noticed by the kernel in 25 s when idle, 10 s when bytes are unacknowledged; the URL may differ.
 */
static void add_keepalives(const struct pg *pg, const char **keywords, const char **values, int *n)
{
    static const char *const pairs[][2] = {{"keepalives_idle", "10"},
                                           {"keepalives_interval", "5"},
                                           {"keepalives_count", "3"},
                                           {"tcp_user_timeout", "10000"}};
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        if (conninfo_get(pg, pairs[i][0]))
            continue;
        keywords[*n] = pairs[i][0];
        values[(*n)++] = pairs[i][1];
    }
}

/* Our reads make their sessions read-only, which is not what the operator asks about: he means the server. */
static const char *session_attrs(const struct pg_session *conn, const char *attrs)
{
    if (conn->lane == PG_LANE_READ && strcmp(attrs, "read-write") == 0)
        return "primary";
    if (conn->lane == PG_LANE_READ && strcmp(attrs, "read-only") == 0)
        return "standby";
    return attrs;
}

/* "a,b,c" by one → "b,c,a" */
static void rotate_list(struct buf *list, unsigned n)
{
    for (; n > 0; n--) {
        char *comma = memchr(list->ptr, ',', list->len);
        size_t n_first = (size_t)(comma - list->ptr);
        buf_reserve(list, n_first + 1);
        buf_byte(list, ',');
        buf_append(list, list->ptr, n_first);
        buf_consume(list, n_first + 1);
    }
}

/* Ends the lists of targets. */
static void finish_targets(struct pg_session *conn)
{
    struct buf *const lists[] = {&conn->hosts, &conn->hostaddrs, &conn->ports};
    unsigned n_targets = 1;
    for (size_t i = 0; i < conn->ports.len; i++)
        n_targets += conn->ports.ptr[i] == ',';
    conn->rotation = conn->pg->rotation;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        rotate_list(lists[i], conn->rotation % n_targets);
        buf_byte(lists[i], '\0');
    }
}

static void connect_start(struct pg_session *conn)
{
    enum { MAX_KEYWORDS = 64 };
    const char *keywords[MAX_KEYWORDS], *values[MAX_KEYWORDS];
    int n = 0;
    static const char *const ours[] = {"host", "hostaddr", "port", "options", "client_encoding", "gssencmode", NULL};
    for (const PQconninfoOption *o = conn->pg->conninfo; o->keyword && n < MAX_KEYWORDS - 12; o++) {
        bool is_ours = false;
        for (int i = 0; ours[i]; i++)
            is_ours |= strcmp(o->keyword, ours[i]) == 0;
        if (is_ours || !o->val)
            continue;
        keywords[n] = o->keyword;
        values[n++] = strcmp(o->keyword, "target_session_attrs") == 0 ? session_attrs(conn, o->val) : o->val;
    }
    char options[512];
    const char *theirs = conninfo_get(conn->pg, "options");
    snprintf(options, sizeof(options), "%s%s%s", theirs ? theirs : "", theirs ? " " : "",
             conn->pg->is_unnamed ? "" : lane_options(conn));
    finish_targets(conn);
    add_keepalives(conn->pg, keywords, values, &n);
    const char *pairs[][2] = {
        {"host", conn->hosts.ptr},   {"hostaddr", conn->hostaddrs.ptr},      {"port", conn->ports.ptr},
        {"client_encoding", "UTF8"}, {"fallback_application_name", "chowk"}, {"options", options},
        {"gssencmode", "disable"}}; /* its wire would be libpq's alone: TLS is for that */
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        keywords[n] = pairs[i][0];
        values[n++] = pairs[i][1];
    }
    keywords[n] = values[n] = NULL;
    conn->state = PG_SESSION_CONNECTING;
    conn->pq = PQconnectStartParams(keywords, values, 0);
    if (!conn->pq || PQstatus(conn->pq) == CONNECTION_BAD)
        connect_failed(conn);
    else
        connect_step(conn, PGRES_POLLING_WRITING);
}

/* ---- resolving ----------------------------------------------------------------------------------------------- */

static struct slice list_item(const char *list, unsigned index) /* of a comma-separated list; {NULL,0} past its end */
{
    for (; list; index--) {
        const char *comma = strchr(list, ',');
        if (index == 0)
            return slice_of(list, comma ? (size_t)(comma - list) : strlen(list));
        list = comma ? comma + 1 : NULL;
    }
    return (struct slice){NULL, 0};
}

static void add_target(struct pg_session *conn, struct slice host, struct slice hostaddr)
{
    const char *ports = conninfo_get(conn->pg, "port");
    struct slice port = list_item(ports, conn->n_resolved);
    if (!port.ptr)
        port = list_item(ports, 0);
    if (conn->hosts.len || conn->hostaddrs.len || conn->ports.len) {
        buf_byte(&conn->hosts, ',');
        buf_byte(&conn->hostaddrs, ',');
        buf_byte(&conn->ports, ',');
    }
    buf_slice(&conn->hosts, host);
    buf_slice(&conn->hostaddrs, hostaddr);
    buf_slice(&conn->ports, port.len ? port : SLICE("5432"));
}

static void resolve_next(struct pg_session *conn);

static void on_resolved(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err)
{
    struct pg_session *conn;
    CAST_OBJ(conn, data, PG_SESSION_MAGIC);
    conn->query = NULL;
    const char *hosts = conninfo_get(conn->pg, "host");
    struct slice host = list_item(hosts ? hosts : getenv("PGHOST"), conn->n_resolved);
    for (size_t i = 0; !err && i < n_addrs; i++) {
        char text[ADDR_TEXT_MAX];
        addr_ip(&addrs[i], text);
        add_target(conn, host, slice_str(text));
    }
    conn->n_resolved++;
    if (err && !conn->hosts.len && !list_item(hosts, conn->n_resolved).ptr)
        pg_session_lose(conn, err);
    else
        resolve_next(conn);
}

/* Each host in turn: a Unix socket or a given address needs no look-up. */
static void resolve_next(struct pg_session *conn)
{
    const char *hosts = conninfo_get(conn->pg, "host"), *hostaddrs = conninfo_get(conn->pg, "hostaddr");
    if (!hosts && !hostaddrs)
        hosts = getenv("PGHOST");
    for (;; conn->n_resolved++) {
        struct slice host = list_item(hosts, conn->n_resolved), addr = list_item(hostaddrs, conn->n_resolved);
        if (!host.ptr && !addr.ptr && (hosts || hostaddrs || conn->n_resolved))
            break;
        if (addr.len || !host.len || host.ptr[0] == '/' || host.ptr[0] == '@') {
            add_target(conn, host, addr);
            continue;
        }
        char name[256];
        snprintf(name, sizeof(name), "%.*s", SLICE_FMT(host));
        conn->query = names_resolve(conn->pg->names, name, 0, on_resolved, conn);
        return;
    }
    connect_start(conn);
}

void pg_session_open(struct pg_session *conn)
{
    CHECK_OBJ(conn, PG_SESSION_MAGIC);
    CHECK(conn->state == PG_SESSION_CLOSED);
    const char *timeout = conninfo_get(conn->pg, "connect_timeout");
    long timeout_s = timeout ? strtol(timeout, NULL, 10) : 0;
    conn->state = PG_SESSION_RESOLVING;
    conn->due_ms = loop_now(conn->pg->loop) + (timeout_s > 0 ? (uint64_t)timeout_s * 1000 : PG_CONNECT_MS);
    conn->n_resolved = 0;
    buf_clear(&conn->hosts);
    buf_clear(&conn->hostaddrs);
    buf_clear(&conn->ports);
    pg_arm_janitor(conn->pg);
    resolve_next(conn);
}
