/* http/chunk.h: the same body, end and verdict whether the bytes come at once, one by one or in odd pieces; a body that
 * is accepted and sent again as one plain chunk reads the same. */
#include "fuzz.h"

#include "http/chunk.h"

static const struct http_chunk_limits limits = {.max_extension_bytes = 24, .max_trailer_bytes = 40};

struct decoded {
    enum status status; /* OK: the body's end was seen */
    enum http_close why;
    size_t used; /* bytes up to its end */
    struct buf body;
};

static enum status read_piece(struct http_chunk_reader *reader, struct slice *piece, struct decoded *out)
{
    while (!http_chunk_is_done(reader)) {
        struct slice data, before = *piece;
        enum status status = http_chunk_read(reader, &limits, piece, &data, &out->why);
        CHECK(piece->ptr >= before.ptr && piece->ptr + piece->len == before.ptr + before.len);
        out->used += before.len - piece->len;
        if (status != OK)
            return status;
        CHECK(fuzz_is_within(data, before) && (data.len > 0) == !http_chunk_is_done(reader));
        buf_slice(&out->body, data);
    }
    return OK;
}

static struct decoded decode(struct slice bytes, size_t piece_len)
{
    struct http_chunk_reader reader = {0};
    struct decoded out = {.status = AGAIN};
    while (bytes.len > 0 && out.status == AGAIN) {
        struct slice piece = slice_of(bytes.ptr, bytes.len < piece_len ? bytes.len : piece_len);
        bytes = slice_of(bytes.ptr + piece.len, bytes.len - piece.len);
        out.status = read_piece(&reader, &piece, &out);
        CHECK(out.status != AGAIN || piece.len == 0);
    }
    CHECK(http_chunk_is_done(&reader) == (out.status == OK));
    return out;
}

static void check_same(const struct decoded *a, struct decoded b)
{
    CHECK(a->status == b.status && fuzz_same(&a->body, &b.body) && a->used == b.used);
    CHECK(a->status != ERR || (a->why == b.why && a->why != HTTP_CLOSE_NONE));
    buf_free(&b.body);
}

static void check_again(const struct decoded *first)
{
    struct buf plain = {0};
    if (first->body.len > 0) {
        buf_printf(&plain, "%zX\r\n", first->body.len);
        buf_slice(&plain, buf_as_slice(&first->body));
        buf_lit(&plain, "\r\n");
    }
    buf_lit(&plain, "0\r\n\r\n");
    struct decoded second = decode(buf_as_slice(&plain), plain.len);
    CHECK(second.status == OK && second.used == plain.len && fuzz_same(&first->body, &second.body));
    buf_free(&second.body);
    buf_free(&plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice bytes = fuzz_input(data, size);
    struct decoded whole = decode(bytes, bytes.len);
    CHECK(whole.used <= bytes.len && whole.body.len <= whole.used);
    check_same(&whole, decode(bytes, 1));
    check_same(&whole, decode(bytes, 7));
    if (whole.status == OK)
        check_again(&whole);
    buf_free(&whole.body);
    return 0;
}
