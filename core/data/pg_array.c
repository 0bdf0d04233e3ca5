/* PostgreSQL's text form of an array, read with events. Grammar (manual, 8.15.2 and 8.15.6): optional bounds
 * `[1:2][0:1]=`, then `{` items `}`, an item being another array, a quoted string with backslash escapes, or bare
 * text in which only an unquoted NULL means null. The server wrote it, so a malformed one ends the walk. */
#include "data/pg_result.h"

struct reader {
    const char *pos, *end;
    const struct pg_array_events *events;
    void *data;
    struct buf item;
};

static bool read_quoted(struct reader *r)
{
    r->pos++;
    buf_clear(&r->item);
    while (r->pos < r->end && *r->pos != '"') {
        if (*r->pos == '\\' && ++r->pos == r->end)
            return false;
        buf_byte(&r->item, *r->pos++);
    }
    if (r->pos == r->end)
        return false;
    r->pos++;
    r->events->on_item(r->data, false, r->item.len ? buf_as_slice(&r->item) : SLICE(""));
    return true;
}

static bool read_bare(struct reader *r)
{
    const char *start = r->pos;
    bool has_escape = false;
    while (r->pos < r->end && *r->pos != ',' && *r->pos != '}') {
        has_escape |= *r->pos == '\\';
        r->pos++;
    }
    struct slice text = slice_of(start, (size_t)(r->pos - start));
    if (text.len == 0 || has_escape) /* the server quotes what needs it */
        return false;
    bool is_null = slice_eq(text, SLICE("NULL"));
    r->events->on_item(r->data, is_null, is_null ? (struct slice){NULL, 0} : text);
    return true;
}

static bool read_array(struct reader *r, int depth)
{
    enum { MAX_DIMENSIONS = 6 };
    if (depth > MAX_DIMENSIONS || r->pos == r->end || *r->pos != '{')
        return false;
    r->pos++;
    r->events->on_begin(r->data);
    bool is_first = true;
    while (r->pos < r->end && !(is_first && *r->pos == '}')) {
        is_first = false;
        bool ok = *r->pos == '{' ? read_array(r, depth + 1) : *r->pos == '"' ? read_quoted(r) : read_bare(r);
        if (!ok || r->pos == r->end || (*r->pos != ',' && *r->pos != '}'))
            return false;
        if (*r->pos == '}')
            break;
        r->pos++;
    }
    if (r->pos == r->end)
        return false;
    r->pos++;
    r->events->on_end(r->data);
    return true;
}

bool pg_array_read(struct slice text, const struct pg_array_events *events, void *data)
{
    struct reader r = {.pos = text.ptr, .end = text.ptr + text.len, .events = events, .data = data};
    if (text.len && text.ptr[0] == '[') {
        const char *brace = memchr(text.ptr, '{', text.len);
        r.pos = brace ? brace : r.end;
    }
    bool ok = read_array(&r, 1) && r.pos == r.end;
    buf_free(&r.item);
    return ok;
}
