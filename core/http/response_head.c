/* Turns an answer's head into bytes in one forward pass. The caller gives room for the worst case, so nothing
 * here checks bounds byte by byte; http_response_head_max and the writer must stay side by side. */
#include "http/response_head.h"

#include <stdio.h>

#include "http/chars.h"
#include "http/response.h"

#define FIXED_MAX 224 /* status line, lengths, connection and names of the server's own fields */

const char *http_reason(int status)
{
    switch (status) {
#define STATUS_ROW(number, reason)                                                                                     \
    case number:                                                                                                       \
        return reason;
#include "http/status.tbl"
#undef STATUS_ROW
    default:
        return "Unknown";
    }
}

/* {NULL, 0} for one that is not in the table. */
static struct slice status_line(int status)
{
    switch (status) {
#define STATUS_ROW(number, reason)                                                                                     \
    case number:                                                                                                       \
        return SLICE("HTTP/1.1 " #number " " reason "\r\n");
#include "http/status.tbl"
#undef STATUS_ROW
    default:
        return slice_of(NULL, 0);
    }
}

bool http_status_has_body(int status)
{
    return status != 204 && status != 304;
}

bool http_header_is_safe(struct slice name, struct slice value)
{
    return name.len > 0 && http_chars_are(name, HTTP_CHAR_TOKEN) && http_chars_are(value, HTTP_CHAR_VALUE);
}

/* Fields that only the server writes. Lengths are distinct but for one pair. */
static bool is_ours(struct slice name)
{
    switch (name.len) {
    case 4:
        return slice_ieq(name, SLICE("Date"));
    case 10:
        return slice_ieq(name, SLICE("Connection")) || slice_ieq(name, SLICE("Keep-Alive"));
    case 12:
        return slice_ieq(name, SLICE("X-Request-Id"));
    case 14:
        return slice_ieq(name, SLICE("Content-Length"));
    case 18:
        return slice_ieq(name, SLICE("X-Chowk-Generation"));
    case 17:
        return slice_ieq(name, SLICE("Transfer-Encoding"));
    default:
        return false;
    }
}

size_t http_response_head_max(const struct http_response_head *head)
{
    size_t max = FIXED_MAX + head->content_type.len + head->date_line.len + head->id.len + head->generation.len +
                 head->fields.len;
    for (size_t i = 0; i < head->n_headers; i++)
        max += head->headers[i].name.len + head->headers[i].value.len + 4;
    return max;
}

static char *put(char *at, struct slice text)
{
    memcpy(at, text.ptr, text.len);
    return at + text.len;
}

static char *put_number(char *at, uint64_t number)
{
    char digits[20];
    size_t n = 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (n > 0)
        *at++ = digits[--n];
    return at;
}

static char *put_field(char *at, struct slice name, struct slice value)
{
    at = put(at, name);
    at = put(at, SLICE(": "));
    if (value.len > 0)
        at = put(at, value);
    return put(at, SLICE("\r\n"));
}

static char *put_framing(char *at, const struct http_response_head *head)
{
    switch (head->framing) {
    case HTTP_BODY_LENGTH:
        at = put(at, SLICE("Content-Length: "));
        at = put_number(at, head->length);
        return put(at, SLICE("\r\n"));
    case HTTP_BODY_CHUNKED:
        return put(at, SLICE("Transfer-Encoding: chunked\r\n"));
    case HTTP_BODY_NONE:
    case HTTP_BODY_TO_CLOSE:
        return at;
    }
    WRONG("no framing");
}

size_t http_response_head_write(const struct http_response_head *head, char *out)
{
    struct slice line = status_line(head->status);
    char *at = line.ptr ? put(out, line) : out + sprintf(out, "HTTP/1.1 %d Unknown\r\n", head->status);
    if (head->content_type.len > 0)
        at = put_field(at, SLICE("Content-Type"), head->content_type);
    at = put_framing(at, head);
    at = put(at, head->date_line);
    at = put_field(at, SLICE("X-Request-Id"), head->id);
    if (head->generation.len > 0)
        at = put_field(at, SLICE("X-Chowk-Generation"), head->generation);
    if (head->says_close)
        at = put(at, SLICE("Connection: close\r\n"));
    else if (head->says_keep_alive)
        at = put(at, SLICE("Connection: keep-alive\r\n"));
    for (size_t i = 0; i < head->n_headers; i++)
        if (!is_ours(head->headers[i].name))
            at = put_field(at, head->headers[i].name, head->headers[i].value);
    if (head->fields.len > 0)
        at = put(at, head->fields);
    return (size_t)(put(at, SLICE("\r\n")) - out);
}
