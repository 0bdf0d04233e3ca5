/* Reads the head of a request once, strictly, and nothing else: no sockets, no memory of its own, no answer.
 *
 * Fields that decide framing or identity (the rows of `known`) are looked at while the lines are read; each has
 * one function, and a new one is a row there. What is refused is a row of close.tbl. Only when all is well is
 * llhttp asked for its opinion of the same bytes (http/parse.h). */
#include "http/head.h"

#include "http/chars.h"
#include "http/parse.h"

#define MAX_LENGTH_DIGITS 18 /* of Content-Length: fits 63 bits without an overflow check */

/* ---- request line ------------------------------------------------------------------------------------ */

static struct slice take_until(struct slice *rest, char stop)
{
    const char *at = memchr(rest->ptr, stop, rest->len);
    struct slice taken = slice_of(rest->ptr, at ? (size_t)(at - rest->ptr) : rest->len);
    size_t used = taken.len + (at ? 1 : 0);
    *rest = slice_of(rest->ptr + used, rest->len - used);
    return taken;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* host [":" port]; what is left of RFC 3986's authority when user info is not allowed. */
static bool is_host(struct slice host)
{
    if (host.len == 0)
        return false;
    size_t at = 0;
    if (host.ptr[0] == '[') { /* IPv6 literal; what is inside is only looked at, never dialled */
        const char *close = memchr(host.ptr, ']', host.len);
        if (!close || close - host.ptr < 3)
            return false;
        for (at = 1; host.ptr + at < close; at++)
            if (!http_char_is(host.ptr[at], HTTP_CHAR_HOST) && host.ptr[at] != ':')
                return false;
        at++;
    } else {
        while (at < host.len && http_char_is(host.ptr[at], HTTP_CHAR_HOST))
            at++;
        if (at == 0)
            return false;
    }
    if (at == host.len)
        return true;
    if (host.ptr[at] != ':' || host.len - at > 6)
        return false;
    for (at++; at < host.len; at++)
        if (!is_digit(host.ptr[at]))
            return false;
    return true;
}

static void split_query(struct http_head *head, struct slice origin_form)
{
    const char *mark = memchr(origin_form.ptr, '?', origin_form.len);
    size_t path_len = mark ? (size_t)(mark - origin_form.ptr) : origin_form.len;
    head->path = slice_of(origin_form.ptr, path_len);
    head->query = mark ? slice_of(mark + 1, origin_form.len - path_len - 1) : SLICE("");
}

static enum http_close read_absolute_form(struct http_head *head, struct slice after_scheme)
{
    size_t len = 0;
    while (len < after_scheme.len && after_scheme.ptr[len] != '/' && after_scheme.ptr[len] != '?')
        len++;
    head->host = slice_of(after_scheme.ptr, len);
    if (!is_host(head->host))
        return HTTP_CLOSE_BAD_TARGET;
    struct slice rest = slice_of(after_scheme.ptr + len, after_scheme.len - len);
    if (rest.len == 0 && head->method == HTTP_OPTIONS) {
        head->path = SLICE("*"); /* RFC 9110 7.1: an empty path of OPTIONS means the server */
        return HTTP_CLOSE_NONE;
    }
    if (rest.len > 0 && rest.ptr[0] == '/') {
        split_query(head, rest);
        return HTTP_CLOSE_NONE;
    }
    split_query(head, rest.len > 0 ? rest : SLICE("")); /* "http://host?q": the path is "/" */
    head->path = SLICE("/");
    return HTTP_CLOSE_NONE;
}

static bool has_scheme(struct slice target, struct slice scheme)
{
    return target.len > scheme.len && slice_ieq(slice_of(target.ptr, scheme.len), scheme);
}

static enum http_close read_target(struct http_head *head)
{
    struct slice target = head->target;
    if (target.len == 0 || !http_chars_are(target, HTTP_CHAR_TARGET))
        return HTTP_CLOSE_BAD_TARGET;
    if (target.ptr[0] == '/') {
        split_query(head, target);
        return HTTP_CLOSE_NONE;
    }
    if (target.len == 1 && target.ptr[0] == '*') {
        head->path = target;
        return head->method == HTTP_OPTIONS ? HTTP_CLOSE_NONE : HTTP_CLOSE_BAD_TARGET;
    }
    size_t scheme_len = has_scheme(target, SLICE("http://")) ? 7 : has_scheme(target, SLICE("https://")) ? 8 : 0;
    if (scheme_len == 0)
        return HTTP_CLOSE_BAD_TARGET;
    return read_absolute_form(head, slice_of(target.ptr + scheme_len, target.len - scheme_len));
}

static enum http_close read_request_line(struct http_head *head, struct slice line)
{
    struct slice rest = line;
    struct slice method = take_until(&rest, ' ');
    head->target = take_until(&rest, ' ');
    struct slice version = rest;
    if (method.len == 0 || !http_chars_are(method, HTTP_CHAR_TOKEN))
        return HTTP_CLOSE_BAD_LINE;
    if (version.len != 8 || memcmp(version.ptr, "HTTP/", 5) != 0 || !is_digit(version.ptr[5]) ||
        version.ptr[6] != '.' || !is_digit(version.ptr[7]))
        return HTTP_CLOSE_BAD_LINE;
    if (version.ptr[5] != '1' || version.ptr[7] > '1')
        return HTTP_CLOSE_VERSION;
    head->is_http10 = version.ptr[7] == '0';
    if (!http_method_parse(method, &head->method))
        return HTTP_CLOSE_METHOD;
    return read_target(head);
}

/* ---- header fields ----------------------------------------------------------------------------------- */

struct reading {
    struct http_head *head;
    struct slice host; /* the Host field; an absolute form's authority wins over it */
    struct slice coding;
    unsigned n_hosts, n_codings;
    bool says_close, says_keep_alive;
};

static enum http_close on_host(struct reading *reading, struct slice value)
{
    reading->host = value;
    return ++reading->n_hosts > 1 ? HTTP_CLOSE_HOST_REPEATED : HTTP_CLOSE_NONE;
}

static enum http_close on_content_length(struct reading *reading, struct slice value)
{
    struct http_head *head = reading->head;
    if (head->has_length || value.len == 0 || value.len > MAX_LENGTH_DIGITS)
        return HTTP_CLOSE_BAD_LENGTH;
    for (size_t i = 0; i < value.len; i++) {
        if (!is_digit(value.ptr[i]))
            return HTTP_CLOSE_BAD_LENGTH;
        head->content_length = head->content_length * 10 + (uint64_t)(value.ptr[i] - '0');
    }
    head->has_length = true;
    return HTTP_CLOSE_NONE;
}

static enum http_close on_transfer_encoding(struct reading *reading, struct slice value)
{
    reading->coding = value;
    return ++reading->n_codings > 1 ? HTTP_CLOSE_BAD_CODING : HTTP_CLOSE_NONE;
}

static enum http_close on_connection(struct reading *reading, struct slice value)
{
    while (value.len > 0) {
        struct slice option = slice_trim(take_until(&value, ','));
        reading->says_close = reading->says_close || slice_ieq(option, SLICE("close"));
        reading->says_keep_alive = reading->says_keep_alive || slice_ieq(option, SLICE("keep-alive"));
    }
    return HTTP_CLOSE_NONE;
}

static enum http_close on_expect(struct reading *reading, struct slice value)
{
    if (!slice_ieq(value, SLICE("100-continue")))
        return HTTP_CLOSE_EXPECTATION;
    reading->head->expects_continue = true;
    return HTTP_CLOSE_NONE;
}

static enum http_close on_request_id(struct reading *reading, struct slice value)
{
    reading->head->request_id = value;
    return HTTP_CLOSE_NONE;
}

/* Lengths are distinct, so that one compare settles nearly every other field. */
static const struct known {
    struct slice name;
    enum http_close (*read)(struct reading *reading, struct slice value);
} known[] = {
    {{"host", 4}, on_host},
    {{"expect", 6}, on_expect},
    {{"connection", 10}, on_connection},
    {{"x-request-id", 12}, on_request_id},
    {{"content-length", 14}, on_content_length},
    {{"transfer-encoding", 17}, on_transfer_encoding},
};

static enum http_close read_known(struct reading *reading, const struct http_header *header)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (known[i].name.len == header->name.len)
            return slice_ieq(known[i].name, header->name) ? known[i].read(reading, header->value) : HTTP_CLOSE_NONE;
    return HTTP_CLOSE_NONE;
}

static enum http_close read_header_line(struct reading *reading, struct slice line)
{
    if (line.ptr[0] == ' ' || line.ptr[0] == '\t')
        return HTTP_CLOSE_FOLDED_HEADER;
    const char *colon = memchr(line.ptr, ':', line.len);
    if (!colon || colon == line.ptr)
        return HTTP_CLOSE_BAD_HEADER;
    struct slice name = slice_of(line.ptr, (size_t)(colon - line.ptr));
    struct slice value = slice_of(colon + 1, line.len - name.len - 1);
    if (!http_chars_are(name, HTTP_CHAR_TOKEN) || !http_chars_are(value, HTTP_CHAR_VALUE))
        return HTTP_CLOSE_BAD_HEADER;
    /* "Content_Length" becomes "Content-Length" in many a gateway behind: dropped (FACTS 10.10). */
    if (memchr(name.ptr, '_', name.len))
        return HTTP_CLOSE_NONE;
    struct http_header *header = &reading->head->headers[reading->head->n_headers++];
    *header = (struct http_header){name, slice_trim(value)};
    return read_known(reading, header);
}

/* ---- what they mean together ------------------------------------------------------------------------- */

static enum http_close judge_host(const struct reading *reading)
{
    struct http_head *head = reading->head;
    if (reading->n_hosts == 0)
        return head->is_http10 ? HTTP_CLOSE_NONE : HTTP_CLOSE_HOST_MISSING;
    if (!is_host(reading->host))
        return HTTP_CLOSE_BAD_HOST;
    if (head->host.len == 0)
        head->host = reading->host;
    return HTTP_CLOSE_NONE;
}

static enum http_close judge_coding(const struct reading *reading)
{
    struct http_head *head = reading->head;
    if (reading->n_codings == 0)
        return HTTP_CLOSE_NONE;
    if (head->has_length)
        return HTTP_CLOSE_TWO_LENGTHS;
    if (head->is_http10)
        return HTTP_CLOSE_BAD_CODING;
    bool has_unknown = false;
    for (struct slice rest = reading->coding;;) {
        bool is_last = !memchr(rest.ptr, ',', rest.len);
        struct slice coding = slice_trim(take_until(&rest, ','));
        bool is_chunked = slice_ieq(coding, SLICE("chunked"));
        if (coding.len == 0 || !http_chars_are(coding, HTTP_CHAR_TOKEN) || (is_chunked && !is_last))
            return HTTP_CLOSE_BAD_CODING;
        has_unknown = has_unknown || !is_chunked;
        if (is_last)
            break;
    }
    head->is_chunked = !has_unknown;
    return has_unknown ? HTTP_CLOSE_UNKNOWN_CODING : HTTP_CLOSE_NONE;
}

static void judge_connection(const struct reading *reading)
{
    struct http_head *head = reading->head;
    head->keep_alive = !reading->says_close && (!head->is_http10 || reading->says_keep_alive);
    head->expects_continue = head->expects_continue && !head->is_http10;
}

static struct slice take_line(struct slice *rest)
{
    struct slice line = take_until(rest, '\n');
    return slice_of(line.ptr, line.len - 1); /* http_scan_head saw the CR */
}

enum status http_head_parse(struct slice block, struct http_head *head, enum http_close *why)
{
    struct http_header *headers = head->headers;
    *head = (struct http_head){.headers = headers};
    struct reading reading = {.head = head};
    struct slice rest = block, line = take_line(&rest);
    *why = read_request_line(head, line);
    while (*why == HTTP_CLOSE_NONE && (line = take_line(&rest)).len > 0)
        *why = read_header_line(&reading, line);
    if (*why == HTTP_CLOSE_NONE)
        *why = judge_host(&reading);
    if (*why == HTTP_CLOSE_NONE)
        *why = judge_coding(&reading);
    if (*why != HTTP_CLOSE_NONE)
        return ERR;
    judge_connection(&reading);
    struct http_framing framing = {
        .method = slice_str(http_method_name(head->method)),
        .content_length = head->content_length,
        .is_http10 = head->is_http10,
        .is_chunked = head->is_chunked,
        .has_length = head->has_length,
    };
    if (!http_parse_agrees(block, &framing)) {
        *why = HTTP_CLOSE_PARSERS_DIFFER;
        return ERR;
    }
    return OK;
}
