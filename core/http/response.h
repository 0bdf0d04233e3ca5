/* Answers. A handler ends every request exactly once: http_respond, or http_stream_begin … http_stream_end.
 * May be called from inside the handler or in any later turn. Date, Content-Length / Transfer-Encoding,
 * Connection, X-Request-Id, Vary are the server's; HEAD, 204 and 304 send no body bytes (RFC 9110 9.3.2, 15.3.5). */
#pragma once

#include "base/buf.h"
#include "http/request.h"

struct http_answer {
    int status;                        /* 200..999 */
    struct slice content_type;         /* empty: none sent */
    const struct http_header *headers; /* extra; names and values are checked by http_header_is_safe before */
    size_t n_headers;
    bool close; /* Connection: close after this */
};

/* No CR, LF, NUL or control in it, token name. What Lua hands in is checked with this and refused. */
bool http_header_is_safe(struct slice name, struct slice value);

/* The worker's scratch buffer, emptied but for HTTP_BODY_HEADROOM bytes in front that are kept for the head:
 * append the body here and pass http_body_slice (or the whole buffer, buf_as_slice) to http_respond in the same
 * call chain (nothing may yield and no other answer be written in between). One contiguous write, no copy. Never
 * buf_clear or buf_consume it: to start over, call http_body_buf again. */
#define HTTP_BODY_HEADROOM 1024
struct buf *http_body_buf(struct http_request *req);
static inline struct slice http_body_slice(const struct buf *body)
{
    return slice_of(body->ptr + HTTP_BODY_HEADROOM, body->len - HTTP_BODY_HEADROOM);
}

/* Ends the request: req and all of its arena are dead when this returns. `body` may be the scratch buffer's bytes (no
 * copy) or any borrowed bytes. */
void http_respond(struct http_request *req, const struct http_answer *answer, struct slice body);
/* RFC 9457 problem: {"type","title","status","code","detail"?,"instance":id}; extra = more members as raw JSON
 * text `,"k":v` or empty. 503 and 429 get Retry-After (retry_after_s, at least 1), others if it is > 0. */
void http_problem(struct http_request *req, int status, struct slice code, struct slice detail, struct slice extra,
                  int retry_after_s);
const char *http_reason(int status); /* "Not Found" */

/* Streaming: chunked for HTTP/1.1, close-delimited for 1.0. */
void http_stream_begin(struct http_request *req, const struct http_answer *answer);
/* OK: go on. AGAIN: over the high-water mark; wait for on_drain. ERR: the client is gone. */
enum status http_stream_write(struct http_request *req, struct slice bytes);
void http_stream_on_drain(struct http_request *req, void (*fn)(struct http_request *req)); /* once, NULL clears */
void http_stream_end(struct http_request *req);
/* After http_stream_begin something failed: the connection is cut, so that the client sees a truncated body. */
void http_stream_abort(struct http_request *req);
