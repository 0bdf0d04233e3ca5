/* Answers on their way to the stream. One contiguous write per answer: the head goes into the headroom in front
 * of a body that was built in the scratch buffer, or a borrowed body is copied behind it while it is small.
 *
 * A small answer waits, corked, until the turn's input has been read: answers that leave one behind the other find the
 * kernel's code in the caches, and wake a client less often. conn.c's settle() sends it.
 *
 * Nothing here decides about the connection's life beyond `must_close`; what follows an answer is conn.c's. The
 * scratch buffer is one per server, so nothing that may run a handler is called between filling and writing. */
#include "http/response.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "http/response_head.h"
#include "http/server_priv.h"

#define SCRATCH_MIN ((size_t)16 * 1024)
#define SCRATCH_KEEP ((size_t)256 * 1024) /* a larger one is given back after its answer */
#define COPY_MAX ((size_t)64 * 1024)      /* of a borrowed body, copied behind the head */
#define HOLD_MAX ((size_t)16 * 1024)      /* a body that is copied rather than sent at once */
#define STREAM_HIGH_WATER ((size_t)64 * 1024)
#define STREAM_MAX_PENDING ((size_t)8 * 1024 * 1024) /* a writer that ignores AGAIN is cut here */
#define CHUNK_LINE_MAX 20                            /* hexadecimal size and CRLF */

/* Stands at the start of the headroom, so that a body buffer someone cleared is noticed. */
static const char headroom_mark[] = "headroom";

static struct http_exchange *exchange_of(struct http_request *req)
{
    CHECK_OBJ(req, HTTP_REQUEST_MAGIC);
    return container_of(req, struct http_exchange, req);
}

static bool is_gone(const struct http_exchange *exchange)
{
    return !stream_is_open(&exchange->conn->stream);
}

/* ---- the scratch buffer ------------------------------------------------------------------------------ */

static struct buf *scratch_start(struct http_server *server)
{
    struct buf *scratch = &server->scratch;
    buf_clear(scratch);
    if (scratch->cap < SCRATCH_MIN)
        buf_grow(scratch, SCRATCH_MIN);
    memcpy(scratch->ptr, headroom_mark, sizeof headroom_mark);
    scratch->len = HTTP_BODY_HEADROOM;
    return scratch;
}

struct buf *http_body_buf(struct http_request *req)
{
    return scratch_start(exchange_of(req)->conn->server);
}

/* Bytes in front of `body` that may be overwritten: 0 unless it lies in the scratch buffer. */
static size_t headroom_of(const struct http_server *server, struct slice body)
{
    const struct buf *scratch = &server->scratch;
    if (!scratch->ptr || body.ptr < scratch->ptr || body.ptr > scratch->ptr + scratch->cap)
        return 0;
    return (size_t)(body.ptr - scratch->ptr);
}

/* A body may be given as the whole scratch buffer. */
static struct slice without_headroom(const struct http_server *server, struct slice body)
{
    const struct buf *scratch = &server->scratch;
    if (!body.ptr || body.ptr != scratch->ptr)
        return body;
    CHECK(body.len >= HTTP_BODY_HEADROOM && memcmp(body.ptr, headroom_mark, sizeof headroom_mark) == 0);
    return slice_of(body.ptr + HTTP_BODY_HEADROOM, body.len - HTTP_BODY_HEADROOM);
}

static void scratch_end(struct http_server *server)
{
    if (server->scratch.cap > SCRATCH_KEEP)
        buf_free(&server->scratch);
}

/* ---- writing ----------------------------------------------------------------------------------------- */

/* Two writes that must leave together. */
static void write_two(struct stream *stream, struct slice first, struct slice second)
{
    bool was_corked = stream->corked;
    stream_cork(stream, true);
    (void)stream_write(stream, first); /* a broken stream reports itself in on_close */
    (void)stream_write(stream, second);
    stream_cork(stream, was_corked);
}

/* Not in the scratch buffer: the head and the front of the body are joined there, the rest goes as it is. */
static void write_joined(struct http_conn *conn, struct slice head, struct slice body)
{
    struct buf *scratch = &conn->server->scratch;
    size_t n_copied = body.len < COPY_MAX ? body.len : COPY_MAX;
    buf_clear(scratch);
    buf_slice(scratch, head);
    buf_append(scratch, body.ptr, n_copied);
    (void)stream_write(&conn->stream, buf_as_slice(scratch));
    if (n_copied < body.len)
        (void)stream_write(&conn->stream, slice_of(body.ptr + n_copied, body.len - n_copied));
}

static void write_answer(struct http_conn *conn, const struct http_response_head *fields, struct slice body)
{
    char small[HTTP_BODY_HEADROOM], *large = NULL;
    size_t max = http_response_head_max(fields), room = headroom_of(conn->server, body);
    if (max > sizeof small)
        large = xrealloc(NULL, max);
    char *at = large ? large : small;
    struct slice head = slice_of(at, http_response_head_write(fields, at));
    if (room >= head.len) {
        char *front = conn->server->scratch.ptr + (room - head.len);
        memcpy(front, head.ptr, head.len);
        (void)stream_write(&conn->stream, slice_of(front, head.len + body.len));
    } else if (body.len == 0) {
        (void)stream_write(&conn->stream, head);
    } else if (room > 0) {
        write_two(&conn->stream, head, body);
    } else {
        write_joined(conn, head, body);
    }
    free(large);
    scratch_end(conn->server);
}

static struct http_response_head head_of(struct http_exchange *exchange, const struct http_answer *answer)
{
    struct http_conn *conn = exchange->conn;
    CHECK(answer->status >= 200 && answer->status <= 999);
    if (answer->close || !exchange->allows_keep_alive || conn->server->is_draining)
        exchange->must_close = true;
    exchange->status = answer->status;
    exchange->sends_body = !exchange->req.is_head && http_status_has_body(answer->status);
    conn->must_close = exchange->must_close;
    return (struct http_response_head){
        .status = answer->status,
        .content_type = answer->content_type,
        .date_line = http_server_date(conn->server),
        .id = slice_str(exchange->req.id),
        .generation = conn->server->opts.shows_generation ? exchange->req.generation : SLICE(""),
        .says_close = exchange->must_close,
        .says_keep_alive = exchange->req.is_http10,
        .headers = answer->headers,
        .n_headers = answer->n_headers,
        .fields = exchange->req.fields,
    };
}

void http_respond(struct http_request *req, const struct http_answer *answer, struct slice body)
{
    struct http_exchange *exchange = exchange_of(req);
    CHECK(!exchange->is_streaming);
    if (!is_gone(exchange)) {
        struct http_conn *conn = exchange->conn;
        body = without_headroom(conn->server, body);
        struct http_response_head head = head_of(exchange, answer);
        head.framing = http_status_has_body(answer->status) ? HTTP_BODY_LENGTH : HTTP_BODY_NONE;
        head.length = body.len;
        if (!exchange->sends_body)
            body.len = 0;
        exchange->sent = body.len;
        stream_cork(&conn->stream, body.len <= HOLD_MAX);
        write_answer(conn, &head, body);
    }
    http_conn_end_exchange(exchange->conn);
}

/* ---- problems ---------------------------------------------------------------------------------------- */

static const struct slice problem_type = {"application/problem+json", 24};

struct problem {
    int status;
    struct slice code, detail, extra;
    const char *id;
};

static struct slice write_problem(struct http_server *server, const struct problem *problem)
{
    struct buf *buf = scratch_start(server);
    buf_lit(buf, "{\"type\":\"about:blank\",\"title\":");
    json_write_string(buf, slice_str(http_reason(problem->status)));
    buf_lit(buf, ",\"status\":");
    buf_int(buf, problem->status);
    buf_lit(buf, ",\"code\":");
    json_write_string(buf, problem->code);
    if (problem->detail.len > 0) {
        buf_lit(buf, ",\"detail\":");
        json_write_string(buf, problem->detail);
    }
    buf_slice(buf, problem->extra);
    buf_lit(buf, ",\"instance\":");
    json_write_string(buf, slice_str(problem->id));
    buf_byte(buf, '}');
    return http_body_slice(buf);
}

/* `header` may be NULL. */
static void respond_problem(struct http_request *req, struct problem *problem, const struct http_header *header)
{
    problem->id = req->id;
    struct http_answer answer = {
        .status = problem->status, .content_type = problem_type, .headers = header, .n_headers = header ? 1 : 0};
    http_respond(req, &answer, write_problem(exchange_of(req)->conn->server, problem));
}

void http_problem(struct http_request *req, int status, struct slice code, struct slice detail, struct slice extra,
                  int retry_after_s)
{
    struct problem problem = {.status = status, .code = code, .detail = detail, .extra = extra};
    char seconds[12];
    bool says_when = retry_after_s > 0 || status == 503 || status == 429;
    (void)snprintf(seconds, sizeof seconds, "%d", retry_after_s < 1 ? 1 : retry_after_s);
    struct http_header retry_after = {SLICE("Retry-After"), slice_str(seconds)};
    respond_problem(req, &problem, says_when ? &retry_after : NULL);
}

static void refuse_unread(struct http_conn *conn, const struct problem *problem)
{
    struct http_response_head head = {
        .status = problem->status,
        .framing = HTTP_BODY_LENGTH,
        .content_type = problem_type,
        .date_line = http_server_date(conn->server),
        .id = slice_str(problem->id),
        .says_close = true,
    };
    struct slice body = write_problem(conn->server, problem);
    head.length = body.len;
    write_answer(conn, &head, body);
}

void http_response_refuse(struct http_conn *conn, enum http_close why)
{
    const struct http_close_info *info = http_close_info(why);
    struct problem problem = {.status = info->status, .code = slice_str(info->code), .detail = slice_str(info->text)};
    conn->why = (uint8_t)why;
    conn->must_close = true;
    if (conn->exchange) {
        conn->exchange->must_close = true;
        respond_problem(&conn->exchange->req, &problem, NULL);
        return;
    }
    char id[37];
    http_server_id(conn->server, id);
    problem.id = id;
    refuse_unread(conn, &problem);
    conn->server->n_requests++;
}

static void write_allow(char *out, unsigned allowed)
{
    char *at = out;
    *at = '\0';
    for (unsigned m = 0; m < HTTP_N_METHODS; m++)
        if (allowed & 1u << m)
            at += sprintf(at, "%s%s", at == out ? "" : ", ", http_method_name((enum http_method)m));
}

void http_response_unrouted(struct http_request *req)
{
    char names[64]; /* every method's name is 46 bytes */
    unsigned allowed = exchange_of(req)->allowed;
    write_allow(names, allowed);
    struct http_header allow = {SLICE("Allow"), slice_str(names)};
    if (allowed != 0 && req->method == HTTP_OPTIONS) {
        http_respond(req, &(struct http_answer){.status = 204, .headers = &allow, .n_headers = 1}, SLICE(""));
        return;
    }
    struct problem missing = {.status = 404, .code = SLICE("not_found")};
    struct problem refused = {.status = 405, .code = SLICE("method_not_allowed")};
    respond_problem(req, allowed ? &refused : &missing, allowed ? &allow : NULL);
}

/* ---- streaming --------------------------------------------------------------------------------------- */

void http_stream_begin(struct http_request *req, const struct http_answer *answer)
{
    struct http_exchange *exchange = exchange_of(req);
    CHECK(!exchange->is_streaming);
    exchange->is_streaming = true;
    if (is_gone(exchange))
        return;
    bool to_close = req->is_http10 && http_status_has_body(answer->status);
    exchange->must_close = exchange->must_close || to_close;
    struct http_response_head head = head_of(exchange, answer);
    exchange->sends_chunks = exchange->sends_body && !to_close;
    stream_cork(&exchange->conn->stream, false);
    head.framing = !http_status_has_body(answer->status) ? HTTP_BODY_NONE
                   : to_close                            ? HTTP_BODY_TO_CLOSE
                                                         : HTTP_BODY_CHUNKED;
    write_answer(exchange->conn, &head, SLICE(""));
}

/* A chunk is joined in the scratch buffer too, unless it is there already or large. */
static void write_chunk(struct http_conn *conn, struct slice bytes)
{
    struct buf *scratch = &conn->server->scratch;
    char line[CHUNK_LINE_MAX + 1];
    struct slice size = slice_of(line, (size_t)snprintf(line, sizeof line, "%zx\r\n", bytes.len));
    if (headroom_of(conn->server, bytes) > 0 || bytes.len > COPY_MAX) {
        stream_cork(&conn->stream, true);
        write_two(&conn->stream, size, bytes);
        (void)stream_write(&conn->stream, SLICE("\r\n"));
        stream_cork(&conn->stream, false);
        return;
    }
    buf_clear(scratch);
    buf_slice(scratch, size);
    buf_slice(scratch, bytes);
    buf_lit(scratch, "\r\n");
    (void)stream_write(&conn->stream, buf_as_slice(scratch));
}

enum status http_stream_write(struct http_request *req, struct slice bytes)
{
    struct http_exchange *exchange = exchange_of(req);
    struct http_conn *conn = exchange->conn;
    CHECK(exchange->is_streaming);
    if (is_gone(exchange))
        return ERR;
    bytes = without_headroom(conn->server, bytes);
    if (bytes.len == 0 || !exchange->sends_body)
        return OK;
    if (stream_pending(&conn->stream) > STREAM_MAX_PENDING) {
        http_conn_cut(conn, HTTP_CLOSE_WRITE_BOUND);
        return ERR;
    }
    exchange->sent += bytes.len;
    if (exchange->sends_chunks)
        write_chunk(conn, bytes);
    else
        (void)stream_write(&conn->stream, bytes);
    if (is_gone(exchange))
        return ERR;
    if (stream_pending(&conn->stream) < STREAM_HIGH_WATER)
        return OK;
    http_conn_wait_drain(conn);
    return AGAIN;
}

void http_stream_on_drain(struct http_request *req, void (*fn)(struct http_request *req))
{
    struct http_exchange *exchange = exchange_of(req);
    exchange->on_drain = fn;
    if (fn && !exchange->is_waiting && !is_gone(exchange))
        http_conn_wake_later(exchange->conn);
}

void http_stream_end(struct http_request *req)
{
    struct http_exchange *exchange = exchange_of(req);
    CHECK(exchange->is_streaming);
    if (!is_gone(exchange) && exchange->sends_chunks)
        (void)stream_write(&exchange->conn->stream, SLICE("0\r\n\r\n"));
    http_conn_end_exchange(exchange->conn);
}

void http_stream_abort(struct http_request *req)
{
    struct http_exchange *exchange = exchange_of(req);
    CHECK(exchange->is_streaming);
    http_conn_cut(exchange->conn, HTTP_CLOSE_ABORT);
    http_conn_end_exchange(exchange->conn);
}
