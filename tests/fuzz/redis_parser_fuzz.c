/* data/redis_parser.h: the same replies and the same end whether the bytes come at once or one by one, and whether the
 * memory is given back between replies or not; a broken stream stays broken; memory stays in proportion to the cap. */
#include "fuzz.h"

#include "data/redis_parser.h"

static void trace_value(struct buf *trace, const struct redis_value *value)
{
    switch (value->type) {
    case REDIS_NIL:
        buf_lit(trace, "nil\n");
        return;
    case REDIS_STRING:
        fuzz_trace(trace, '$', value->str);
        return;
    case REDIS_STATUS:
        fuzz_trace(trace, '+', value->str);
        return;
    case REDIS_ERROR:
        fuzz_trace(trace, '-', value->str);
        return;
    case REDIS_INTEGER:
        buf_int(trace, value->integer);
        buf_byte(trace, '\n');
        return;
    case REDIS_ARRAY:
        CHECK(value->n_items == 0 || value->items);
        buf_printf(trace, "*%zu\n", value->n_items);
        for (size_t i = 0; i < value->n_items; i++)
            trace_value(trace, &value->items[i]);
        return;
    }
    WRONG("no type of reply");
}

/* All replies that are there. */
static enum status drain(struct redis_parser *parser, struct buf *trace, struct err *err)
{
    const struct redis_value *value;
    enum status status;
    while ((status = redis_parser_next(parser, &value, err)) == OK)
        trace_value(trace, value);
    CHECK(!value);
    return status;
}

static enum status parse(struct slice bytes, size_t piece_len, bool resets, struct buf *trace)
{
    struct redis_parser *parser = redis_parser_new();
    enum status status = AGAIN;
    struct err err = {0};
    while (bytes.len > 0 && status == AGAIN) {
        struct slice piece = slice_of(bytes.ptr, bytes.len < piece_len ? bytes.len : piece_len);
        bytes = slice_of(bytes.ptr + piece.len, bytes.len - piece.len);
        status = redis_parser_feed(parser, piece, &err);
        if (status == OK)
            status = drain(parser, trace, &err);
        if (resets)
            redis_parser_reset(parser);
    }
    if (status == ERR) {
        const struct redis_value *value;
        CHECK(err.code == ERR_UNAVAILABLE && err.message[0]);
        CHECK(redis_parser_feed(parser, SLICE("+OK\r\n"), &err) == ERR);
        CHECK(redis_parser_next(parser, &value, &err) == ERR && !value);
    }
    redis_parser_free(parser);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice bytes = fuzz_input(data, size);
    struct buf whole = {0}, dripped = {0};
    enum status status = parse(bytes, bytes.len, false, &whole);
    CHECK(parse(bytes, 1, true, &dripped) == status && fuzz_same(&whole, &dripped));
    buf_free(&whole);
    buf_free(&dripped);
    CHECK(arena_live() == 0);
    return 0;
}
