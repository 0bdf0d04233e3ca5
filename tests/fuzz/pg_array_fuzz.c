/* data/pg_result.h: events are balanced, an accepted array has at most six dimensions, and when it is written out with
 * every item quoted it reads the same. */
#include "fuzz.h"

#include "data/pg_result.h"

struct walk {
    struct buf trace, text;
    int depth, max_depth;
    bool needs_comma;
};

static void begin_item(struct walk *w)
{
    if (w->needs_comma)
        buf_byte(&w->text, ',');
    w->needs_comma = true;
}

static void on_begin(void *data)
{
    struct walk *w = data;
    begin_item(w);
    w->needs_comma = false;
    buf_byte(&w->text, '{');
    buf_byte(&w->trace, '{');
    if (++w->depth > w->max_depth)
        w->max_depth = w->depth;
}

static void on_end(void *data)
{
    struct walk *w = data;
    CHECK(--w->depth >= 0);
    w->needs_comma = true;
    buf_byte(&w->text, '}');
    buf_byte(&w->trace, '}');
}

static void on_item(void *data, bool is_null, struct slice text)
{
    struct walk *w = data;
    CHECK(w->depth > 0 && text.len <= 1u << 20);
    begin_item(w);
    fuzz_trace(&w->trace, is_null ? 'n' : 'i', text);
    if (is_null) {
        CHECK(text.len == 0);
        buf_lit(&w->text, "NULL");
        return;
    }
    CHECK(text.ptr);
    buf_byte(&w->text, '"');
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '"' || text.ptr[i] == '\\')
            buf_byte(&w->text, '\\');
        buf_byte(&w->text, text.ptr[i]);
    }
    buf_byte(&w->text, '"');
}

static const struct pg_array_events events = {on_begin, on_end, on_item};

static void walk_free(struct walk *w)
{
    buf_free(&w->trace);
    buf_free(&w->text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    struct walk first = {0}, second = {0};
    if (pg_array_read(text, &events, &first)) {
        CHECK(first.depth == 0 && first.max_depth >= 1 && first.max_depth <= 6);
        CHECK(pg_array_read(buf_as_slice(&first.text), &events, &second));
        CHECK(fuzz_same(&first.trace, &second.trace) && fuzz_same(&first.text, &second.text));
    }
    walk_free(&first);
    walk_free(&second);
    return 0;
}
