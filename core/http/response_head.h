/* The head of an answer as bytes: status line, the server's own fields, the handler's. No sockets. */
#pragma once

#include "http/request.h"

enum http_framing_kind {
    HTTP_BODY_NONE,    /* 204, 304: neither length nor coding */
    HTTP_BODY_LENGTH,  /* Content-Length */
    HTTP_BODY_CHUNKED, /* Transfer-Encoding: chunked */
    HTTP_BODY_TO_CLOSE /* HTTP/1.0 streams */
};

struct http_response_head {
    int status;
    enum http_framing_kind framing;
    uint64_t length;           /* with HTTP_BODY_LENGTH */
    struct slice content_type; /* empty: none */
    struct slice date_line;    /* "Date: …\r\n" */
    struct slice id;           /* X-Request-Id */
    struct slice generation;   /* X-Chowk-Generation; empty: none */
    bool says_close, says_keep_alive;
    const struct http_header *headers; /* what is the server's (Date, Connection, …) is left out */
    size_t n_headers;
    struct slice fields; /* whole lines */
};

size_t http_response_head_max(const struct http_response_head *head); /* bytes that surely suffice */
/* Writes to `out`, which has that room; returns the length. */
size_t http_response_head_write(const struct http_response_head *head, char *out);
bool http_status_has_body(int status); /* false: 204, 304 */
