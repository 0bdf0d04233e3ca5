/* http/parse.h and http/head.h: the end of a head is found at the same place, or refused for the same reason, whether
 * the bytes come at once or one by one; what is accepted has nothing in it that another reader could take otherwise,
 * and means the same when it is written out plainly and read again. */
#include "fuzz.h"

#include <stdlib.h>

#include "http/chars.h"
#include "http/head.h"
#include "http/parse.h"

#define MAX_HEADERS 12

/* Small, so that short inputs reach them. */
static const struct http_scan_limits limits = {.max_line = 200, .max_header_bytes = 600, .max_headers = MAX_HEADERS};
static const struct http_scan_limits wide = {.max_line = 4000, .max_header_bytes = 4000, .max_headers = MAX_HEADERS};

struct found {
    enum status status;
    enum http_close why;
    size_t len, n_lines;
};

static struct found scan_whole(struct slice bytes)
{
    struct http_scan scan = {0};
    struct found found = {0};
    found.status = http_scan_head(&scan, bytes, &limits, &found.len, &found.why);
    found.n_lines = scan.n_lines;
    return found;
}

static struct found scan_dripped(struct slice bytes)
{
    struct http_scan scan = {0};
    struct found found = {.status = AGAIN};
    for (size_t len = 1; len <= bytes.len && found.status == AGAIN; len++)
        found.status = http_scan_head(&scan, slice_of(bytes.ptr, len), &limits, &found.len, &found.why);
    found.n_lines = scan.n_lines;
    return found;
}

/* NUL, a lone CR, a CR or LF inside a value: what request smuggling is made of. */
static void check_bytes(struct slice block)
{
    CHECK(block.len >= 4 && memcmp(block.ptr + block.len - 4, "\r\n\r\n", 4) == 0);
    CHECK(!memchr(block.ptr, 0, block.len));
    for (size_t i = 0; i < block.len; i++) {
        CHECK(block.ptr[i] != '\r' || (i + 1 < block.len && block.ptr[i + 1] == '\n'));
        CHECK(block.ptr[i] != '\n' || (i > 0 && block.ptr[i - 1] == '\r'));
    }
}

static void check_header(const struct http_header *header, struct slice block)
{
    CHECK(header->name.len > 0 && http_chars_are(header->name, HTTP_CHAR_TOKEN));
    CHECK(!memchr(header->name.ptr, '_', header->name.len));
    CHECK(http_chars_are(header->value, HTTP_CHAR_VALUE));
    CHECK(slice_eq(header->value, slice_trim(header->value)));
    CHECK(fuzz_is_within(header->name, block) && fuzz_is_within(header->value, block));
}

static void check_framing(const struct http_head *head)
{
    size_t n_lengths = 0, n_codings = 0, n_hosts = 0;
    for (size_t i = 0; i < head->n_headers; i++) {
        const struct http_header *header = &head->headers[i];
        n_hosts += slice_ieq(header->name, SLICE("host"));
        if (slice_ieq(header->name, SLICE("transfer-encoding"))) {
            n_codings++;
            CHECK(slice_ieq(header->value, SLICE("chunked")));
        }
        if (!slice_ieq(header->name, SLICE("content-length")))
            continue;
        int64_t length;
        n_lengths++;
        CHECK(slice_to_int(header->value, 0, INT64_MAX, &length) && (uint64_t)length == head->content_length);
    }
    CHECK(n_hosts == 1 || (n_hosts == 0 && head->is_http10));
    CHECK(n_lengths == (head->has_length ? 1 : 0) && n_codings == (head->is_chunked ? 1 : 0));
    CHECK(!(head->has_length && head->is_chunked) && !(head->is_http10 && head->is_chunked));
    CHECK(head->has_length || head->content_length == 0);
    CHECK(!(head->is_http10 && head->expects_continue));
}

static void check_target(const struct http_head *head, struct slice block)
{
    CHECK(slice_has_prefix(block, slice_str(http_method_name(head->method))));
    CHECK(fuzz_is_within(head->target, block) && http_chars_are(head->target, HTTP_CHAR_TARGET));
    CHECK(slice_eq(head->path, SLICE("*")) ? head->method == HTTP_OPTIONS : slice_has_prefix(head->path, SLICE("/")));
    CHECK(!memchr(head->path.ptr, '?', head->path.len));
    CHECK(head->host.len > 0 || head->is_http10);
    CHECK(!memchr(head->host.ptr ? head->host.ptr : "", '@', head->host.len));
}

static void write_plainly(const struct http_head *head, struct buf *out)
{
    buf_printf(out, "%s %.*s HTTP/1.%d\r\n", http_method_name(head->method), SLICE_FMT(head->target),
               head->is_http10 ? 0 : 1);
    for (size_t i = 0; i < head->n_headers; i++)
        buf_printf(out, "%.*s: %.*s\r\n", SLICE_FMT(head->headers[i].name), SLICE_FMT(head->headers[i].value));
    buf_lit(out, "\r\n");
}

static void check_again(const struct http_head *first)
{
    struct http_header headers[MAX_HEADERS];
    struct http_head second = {.headers = headers};
    struct http_scan scan = {0};
    struct buf block = {0};
    enum http_close why;
    size_t len;
    write_plainly(first, &block);
    CHECK(http_scan_head(&scan, buf_as_slice(&block), &wide, &len, &why) == OK && len == block.len);
    CHECK(http_head_parse(buf_as_slice(&block), &second, &why) == OK);
    CHECK(first->method == second.method && slice_eq(first->target, second.target) &&
          slice_eq(first->path, second.path) && slice_eq(first->query, second.query) &&
          slice_eq(first->host, second.host) && slice_eq(first->request_id, second.request_id));
    CHECK(first->content_length == second.content_length && first->is_http10 == second.is_http10 &&
          first->is_chunked == second.is_chunked && first->has_length == second.has_length &&
          first->expects_continue == second.expects_continue && first->keep_alive == second.keep_alive);
    CHECK(first->n_headers == second.n_headers);
    for (size_t i = 0; i < first->n_headers; i++)
        CHECK(slice_eq(first->headers[i].name, headers[i].name) && slice_eq(first->headers[i].value, headers[i].value));
    buf_free(&block);
}

static void check_parse(struct slice block, size_t n_lines)
{
    struct http_header *headers = xalloc(n_lines * sizeof *headers); /* exactly the room that is promised */
    struct http_head head = {.headers = headers};
    enum http_close why = HTTP_CLOSE_NONE;
    if (http_head_parse(block, &head, &why) == ERR) {
        CHECK(why != HTTP_CLOSE_NONE && why < HTTP_N_CLOSES);
    } else {
        CHECK(head.headers == headers && head.n_headers <= n_lines);
        check_bytes(block);
        check_target(&head, block);
        for (size_t i = 0; i < head.n_headers; i++)
            check_header(&headers[i], block);
        check_framing(&head);
        check_again(&head);
    }
    free(headers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice bytes = fuzz_input(data, size);
    struct found whole = scan_whole(bytes), dripped = scan_dripped(bytes);
    CHECK(whole.status == dripped.status);
    if (whole.status == ERR)
        CHECK(whole.why == dripped.why && whole.why != HTTP_CLOSE_NONE);
    if (whole.status != OK)
        return 0;
    CHECK(whole.len == dripped.len && whole.len <= bytes.len && whole.n_lines == dripped.n_lines);
    CHECK(whole.n_lines >= 1 && whole.n_lines - 1 <= MAX_HEADERS);
    check_parse(slice_of(bytes.ptr, whole.len), whole.n_lines - 1);
    return 0;
}
