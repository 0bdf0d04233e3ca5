/* Reads raw bytes and nothing else: no sockets, no memory of its own, no answer.
 *
 * llhttp is the second opinion: http/head.c reads the block strictly (FACTS 10: what llhttp 8.1 lets through) and
 * asks here whether llhttp sees the same message. Where two parsers disagree, so may a proxy in front, and the
 * request is refused. As Debian ships it, llhttp is built without its strict mode, which accepts any two bytes
 * after a chunk and any byte after the CR of its size: so bodies are read by http/chunk.c, not by llhttp. */
#include "http/parse.h"

#include <llhttp.h>

#include "http/chars.h"

/* ---- where the head ends ----------------------------------------------------------------------------- */

/* The line that begins at scan->line reaches to `end` so far. */
static enum http_close limit_fault(const struct http_scan *scan, size_t end, const struct http_scan_limits *limits)
{
    if (scan->n_lines == 0)
        return end - scan->line > limits->max_line + 1 ? HTTP_CLOSE_LINE_TOO_LONG : HTTP_CLOSE_NONE;
    /* Count first: a new line is one too many from its first byte, and the verdict must not hang on how many of its
     * bytes came along. */
    if (scan->n_lines - 1 > limits->max_headers)
        return HTTP_CLOSE_HEADER_COUNT;
    return end - scan->head > limits->max_header_bytes ? HTTP_CLOSE_HEADER_BYTES : HTTP_CLOSE_NONE;
}

enum status http_scan_head(struct http_scan *scan, struct slice bytes, const struct http_scan_limits *limits,
                           size_t *len, enum http_close *why)
{
    /* Something that is no HTTP at all, such as a TLS hello, is not waited for. */
    if (scan->seen == 0 && bytes.len > 0 && !http_char_is(bytes.ptr[0], HTTP_CHAR_TOKEN)) {
        *why = HTTP_CLOSE_BAD_LINE;
        return ERR;
    }
    for (;;) {
        const char *lf = memchr(bytes.ptr + scan->seen, '\n', bytes.len - scan->seen);
        size_t end = lf ? (size_t)(lf - bytes.ptr) : bytes.len;
        *why = limit_fault(scan, end, limits);
        if (*why != HTTP_CLOSE_NONE)
            return ERR;
        if (!lf) {
            scan->seen = (uint32_t)bytes.len;
            return AGAIN;
        }
        if (end == scan->line || bytes.ptr[end - 1] != '\r') {
            *why = HTTP_CLOSE_BARE_LF;
            return ERR;
        }
        bool is_empty = end - 1 == scan->line;
        scan->line = scan->seen = (uint32_t)end + 1;
        if (is_empty) {
            *len = end + 1;
            return OK;
        }
        if (scan->n_lines++ == 0)
            scan->head = scan->line;
    }
}

/* ---- the second opinion ------------------------------------------------------------------------------ */

static int on_headers_complete(llhttp_t *parser)
{
    (void)parser;
    return HPE_PAUSED; /* the body is not llhttp's: see above */
}

bool http_parse_agrees(struct slice block, const struct http_framing *framing)
{
    static const llhttp_settings_t settings = {.on_headers_complete = on_headers_complete};
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    if (llhttp_execute(&parser, block.ptr, block.len) != HPE_PAUSED ||
        llhttp_get_error_pos(&parser) != block.ptr + block.len)
        return false;
    const char *method = llhttp_method_name((llhttp_method_t)llhttp_get_method(&parser));
    if (!slice_eq(slice_str(method), framing->method) || llhttp_get_http_major(&parser) != 1 ||
        llhttp_get_http_minor(&parser) != (framing->is_http10 ? 0 : 1))
        return false;
    if (((parser.flags & F_CHUNKED) != 0) != framing->is_chunked ||
        ((parser.flags & F_CONTENT_LENGTH) != 0) != framing->has_length)
        return false;
    return !framing->has_length || parser.content_length == framing->content_length;
}
