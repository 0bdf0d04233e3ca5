/* What the head of a request means: request line, header fields, framing (RFC 9110, 9112; FACTS 10). */
#pragma once

#include "http/close.h"
#include "http/request.h"

struct http_head {
    enum http_method method;
    struct slice target, path, query; /* path: of an absolute form too; "*" for OPTIONS * */
    struct slice host;                /* authority of an absolute form, else Host; empty only in HTTP/1.0 */
    struct slice request_id;          /* X-Request-Id as sent, unchecked; empty if none */
    struct http_header *headers;      /* in: room for as many as there are header lines; names with '_' are dropped */
    size_t n_headers;
    uint64_t content_length;
    bool is_http10, is_chunked, has_length, expects_continue;
    bool keep_alive; /* the client allows it; for HTTP/1.0: asked for it */
};

/* Slices borrow from `block`, the whole head. ERR: *why. */
enum status http_head_parse(struct slice block, struct http_head *head, enum http_close *why) MUST_CHECK;
