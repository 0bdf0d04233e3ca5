/* Where the head of a request ends, and llhttp's opinion of it. parse.c is the only file that knows llhttp. */
#pragma once

#include "http/close.h"

struct http_scan { /* zeroed = at the start of a request */
    uint32_t line; /* where the unfinished line begins */
    uint32_t seen; /* bytes searched so far */
    uint32_t head; /* where the header fields begin */
    uint32_t n_lines;
};

struct http_scan_limits {
    size_t max_line, max_header_bytes, max_headers;
};

/* Finds the end of the header section as bytes drip in, keeps the limits, refuses lines that do not end in CRLF.
 * `bytes` begins with the first byte of a request line and grows from call to call. OK: *len is the length of the
 * head with its empty line, scan->n_lines - 1 the number of header lines. AGAIN: more bytes are needed.
 * ERR: *why. */
enum status http_scan_head(struct http_scan *scan, struct slice bytes, const struct http_scan_limits *limits,
                           size_t *len, enum http_close *why) MUST_CHECK;

struct http_framing {
    struct slice method;
    uint64_t content_length;
    bool is_http10, is_chunked, has_length;
};

/* llhttp finds the end of the head exactly at the end of `block`, and the same method, version and framing. */
bool http_parse_agrees(struct slice block, const struct http_framing *framing) MUST_CHECK;
