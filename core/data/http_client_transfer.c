/* One hop of a call as curl sees it: options in, callbacks out. The callbacks run inside curl: they fill the call's
 * buffers and note what has happened; whoever is told of it is told later (http_client_op.c). */
#include <stdlib.h>

#include "data/http_client_priv.h"

#define MAX_HEAD (64 * 1024)

static struct http_client_op *op_of(void *data)
{
    struct http_client_op *op;
    CAST_OBJ(op, data, HTTP_CLIENT_OP_MAGIC);
    return op;
}

/* ---- callbacks ----------------------------------------------------------------------------------------------------
 */

/* One line; the last is empty. Interim answers (1xx) start anew, trailers come after the head and are dropped. */
static size_t on_header(char *line, size_t size, size_t n, void *data)
{
    struct http_client_op *op = op_of(data);
    size_t len = size * n;
    long status = 0;
    if (op->has_head)
        return len;
    if (len > 5 && memcmp(line, "HTTP/", 5) == 0)
        buf_clear(&op->head);
    if (op->head.len + len > MAX_HEAD) {
        op->is_too_large = true;
        return 0;
    }
    buf_append(&op->head, line, len);
    if (len > 2)
        return len;
    curl_easy_getinfo(op->transfer.easy, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200) {
        op->has_head = true;
        op->answer.status = (int)status;
        http_client_op_on_head(op);
    }
    return len;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *data)
{
    struct http_client_op *op = op_of(data);
    size_t len = size * n;
    if (op->will_follow)
        return len;
    if (op->max_body && op->n_received + len > op->max_body) {
        op->is_too_large = true;
        return 0;
    }
    if (op->is_stream && op->in.len >= HTTP_CLIENT_STREAM_MAX) {
        op->is_paused = true;
        return CURL_WRITEFUNC_PAUSE; /* the same bytes come again */
    }
    op->n_received += len;
    buf_append(&op->in, bytes, len);
    http_client_op_on_bytes(op);
    return len;
}

static size_t give_body(char *out, size_t size, size_t n, void *data)
{
    struct http_client_op *op = op_of(data);
    size_t len = op->body.len - op->body_sent;
    if (len > size * n)
        len = size * n;
    if (len)
        memcpy(out, op->body.ptr + op->body_sent, len);
    op->body_sent += len;
    return len;
}

/* curl asks for this when a kept connection turned out to be dead after body bytes had been written to it: it would
 * send the call again. The other side may have carried it out, so only what is idempotent goes out twice. */
static int rewind_body(void *data, curl_off_t offset, int origin UNUSED)
{
    struct http_client_op *op = op_of(data);
    if (!http_client_is_idempotent(op->method) || offset != 0)
        return CURL_SEEKFUNC_FAIL;
    op->body_sent = 0;
    return CURL_SEEKFUNC_OK;
}

/* ---- options ------------------------------------------------------------------------------------------------------
 */

static struct curl_slist *append_line(struct curl_slist *list, struct slice name, struct slice value)
{
    struct buf line = {0};
    buf_slice(&line, name);
    if (value.len > 0)
        buf_printf(&line, ": %.*s", SLICE_FMT(value));
    else
        buf_byte(&line, ';'); /* curl's way to say: sent, and empty */
    buf_byte(&line, '\0');
    struct curl_slist *longer = curl_slist_append(list, line.ptr);
    CHECK(longer);
    buf_free(&line);
    return longer;
}

static void set_headers(struct http_client_op *op)
{
    bool has_type = false;
    struct curl_slist *list = curl_slist_append(NULL, "Expect:"); /* "Name:" takes curl's own one away */
    for (size_t i = 0; i < op->n_headers; i++) {
        has_type |= slice_ieq(op->headers[i].name, SLICE("Content-Type"));
        list = append_line(list, op->headers[i].name, op->headers[i].value);
    }
    if (!has_type)
        list = curl_slist_append(list, "Content-Type:");
    CHECK(list);
    op->header_list = list;
    curl_easy_setopt(op->transfer.easy, CURLOPT_HTTPHEADER, list);
}

static void set_method(struct http_client_op *op)
{
    static const char *const names[] = {
        [CLIENT_GET] = "GET", [CLIENT_HEAD] = "HEAD",   [CLIENT_OPTIONS] = "OPTIONS", [CLIENT_POST] = "POST",
        [CLIENT_PUT] = "PUT", [CLIENT_PATCH] = "PATCH", [CLIENT_DELETE] = "DELETE"};
    CURL *easy = op->transfer.easy;
    bool wants_body = op->method == CLIENT_POST || op->method == CLIENT_PUT || op->method == CLIENT_PATCH;
    if (op->method == CLIENT_HEAD) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
        return;
    }
    if (op->has_body || wants_body) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)op->body.len);
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(easy, CURLOPT_READDATA, op);
        curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, rewind_body);
        curl_easy_setopt(easy, CURLOPT_SEEKDATA, op);
    } else {
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    }
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, names[op->method]);
    if (!http_client_is_idempotent(op->method) && op->body.len == 0)
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L); /* no body, so curl would not ask rewind_body */
    if (op->max_body)
        curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)op->max_body);
}

static void on_done(struct curl_transfer *transfer, CURLcode code)
{
    http_client_op_on_end(container_of(transfer, struct http_client_op, transfer), code);
}

void http_client_transfer_start(struct http_client_op *op)
{
    curl_transfer_prepare(op->client->curl, &op->transfer);
    CURL *easy = op->transfer.easy;
    curl_easy_setopt(easy, CURLOPT_CURLU, op->url.handle);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, op->client->opts.user_agent);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, op);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, op);
    if (op->is_stream) { /* has its connection for itself: a reader that waits must not hold up its neighbours */
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    } else {
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
        curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, ""); /* all it knows; max_body counts what comes out */
    }
    set_method(op);
    set_headers(op);
    curl_transfer_start(&op->transfer, op->url.host, op->url.port, op->host->addrs, op->host->n_addrs, on_done);
}

void http_client_transfer_stop(struct http_client_op *op)
{
    op->was_sent |= curl_transfer_was_sent(&op->transfer);
    curl_transfer_stop(&op->transfer);
    curl_slist_free_all(op->header_list);
    op->header_list = NULL;
}

/* ---- the head -----------------------------------------------------------------------------------------------------
 */

static bool take_line(struct slice *text, struct slice *line)
{
    const char *end = memchr(text->ptr, '\n', text->len);
    if (!end)
        return false;
    *line = slice_of(text->ptr, (size_t)(end - text->ptr));
    *text = slice_of(end + 1, text->len - line->len - 1);
    if (line->len && line->ptr[line->len - 1] == '\r')
        line->len--;
    return true;
}

void http_client_transfer_read_head(struct http_client_op *op)
{
    struct slice text = arena_copy(&op->arena, buf_as_slice(&op->head)), line;
    size_t n_lines = 0, n = 0;
    char *url = NULL;
    for (size_t i = 0; i < text.len; i++)
        n_lines += text.ptr[i] == '\n';
    struct http_client_header *headers = arena_alloc(&op->arena, (n_lines + 1) * sizeof *headers);
    while (take_line(&text, &line)) {
        const char *colon = memchr(line.ptr, ':', line.len);
        if (!colon || line.ptr[0] == ' ' || line.ptr[0] == '\t')
            continue; /* the status line, the empty one, and what is left of folded ones */
        size_t len = (size_t)(colon - line.ptr);
        headers[n++] =
            (struct http_client_header){slice_of(line.ptr, len), slice_trim(slice_of(colon + 1, line.len - len - 1))};
    }
    op->answer.headers = headers;
    op->answer.n_headers = n;
    if (curl_url_get(op->url.handle, CURLUPART_URL, &url, 0) == CURLUE_OK)
        op->answer.url = arena_copy(&op->arena, slice_str(url)).ptr;
    curl_free(url);
}

struct slice http_client_answer_header(const struct http_client_answer *answer, struct slice name)
{
    for (size_t i = 0; i < answer->n_headers; i++)
        if (slice_ieq(answer->headers[i].name, name))
            return answer->headers[i].value;
    return slice_of(NULL, 0);
}
