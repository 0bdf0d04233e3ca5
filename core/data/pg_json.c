/* Rows to JSON without a Lua value in between: the hot end of `pg.json`.
 *
 * One pass over the result, appending to the caller's buffer. Labels were escaped once per statement. Text comes
 * from a connection whose client_encoding is UTF8, so it is valid UTF-8 already (the server checks even what
 * lies in an SQL_ASCII database), and only quotes, backslashes and control characters are left to escape. */
#include "data/pg_result.h"

struct writer {
    struct buf *buf;
    struct buf scratch;
    const struct pg_result *result;
    const bool *is_hidden; /* one flag a column; NULL: none is */
    enum pg_type elem;     /* of the array being written */
    bool needs_comma;
};

/* ---- strings -------------------------------------------------------------------------------------------------- */

/* Whether one of eight bytes must be escaped: below 0x20, quote or backslash. */
static inline bool has_escape(uint64_t x)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones * 0x80;
    uint64_t quote = x ^ (ones * '"'), slash = x ^ (ones * '\\');
    return (((x - ones * 0x20) & ~x) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & highs;
}

static inline bool is_copied(const char *s, char *out)
{
    uint64_t x;
    memcpy(&x, s, 8);
    if (has_escape(x))
        return false;
    memcpy(out, &x, 8);
    return true;
}

/* Copies up to the first byte that must be escaped, eight at a time; how many. `out` has room for all. */
static size_t copy_plain(char *out, const char *s, size_t len)
{
    size_t i = 0;
    while (i + 8 <= len && is_copied(s + i, out + i))
        i += 8;
    if (len >= 8 && i + 8 > len && is_copied(s + len - 8, out + len - 8))
        return len;
    for (; i < len && (unsigned char)s[i] >= 0x20 && s[i] != '"' && s[i] != '\\'; i++)
        out[i] = s[i];
    return i;
}

static void write_escape(struct buf *buf, unsigned char c)
{
    static const char shorts[] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r', ['"'] = '"', ['\\'] = '\\'};
    static const char hex[] = "0123456789abcdef";
    char text[6] = {'\\', c < sizeof(shorts) ? shorts[c] : 0};
    size_t len = 2;
    if (!text[1]) {
        memcpy(text + 1, "u00", 3);
        text[4] = hex[c >> 4];
        text[5] = hex[c & 15];
        len = 6;
    }
    buf_append(buf, text, len);
}

static void write_string(struct buf *buf, struct slice s)
{
    char *out = buf_reserve(buf, s.len + 2);
    *out = '"';
    size_t n = copy_plain(out + 1, s.ptr, s.len);
    buf->len += n + 1;
    while (n < s.len) {
        write_escape(buf, (unsigned char)s.ptr[n]);
        s = slice_of(s.ptr + n + 1, s.len - n - 1);
        n = copy_plain(buf_reserve(buf, s.len + 1), s.ptr, s.len);
        buf->len += n;
    }
    buf_byte(buf, '"');
}

/* ---- values --------------------------------------------------------------------------------------------------- */

static void write_scalar(struct writer *w, enum pg_type type, struct slice text)
{
    struct slice out;
    switch (pg_show_scalar(type, text, &w->scratch, &out)) {
    case PG_SHOW_STRING:
        write_string(w->buf, out);
        return;
    case PG_SHOW_NUMBER:
    case PG_SHOW_JSON:
        buf_slice(w->buf, out);
        return;
    case PG_SHOW_TRUE:
        buf_lit(w->buf, "true");
        return;
    case PG_SHOW_FALSE:
        buf_lit(w->buf, "false");
        return;
    }
}

static void comma(struct writer *w)
{
    if (w->needs_comma)
        buf_byte(w->buf, ',');
    w->needs_comma = true;
}

static void on_begin(void *data)
{
    struct writer *w = data;
    comma(w);
    buf_byte(w->buf, '[');
    w->needs_comma = false;
}

static void on_end(void *data)
{
    struct writer *w = data;
    buf_byte(w->buf, ']');
    w->needs_comma = true;
}

static void on_item(void *data, bool is_null, struct slice text)
{
    struct writer *w = data;
    comma(w);
    if (is_null)
        buf_lit(w->buf, "null");
    else
        write_scalar(w, w->elem, text);
}

static void write_array(struct writer *w, enum pg_type elem, struct slice text)
{
    static const struct pg_array_events events = {on_begin, on_end, on_item};
    size_t start = w->buf->len;
    w->elem = elem;
    w->needs_comma = false;
    if (pg_array_read(text, &events, w))
        return;
    w->buf->len = start; /* not an array after all: its text loses nothing */
    write_string(w->buf, text);
}

static void write_value(struct writer *w, const struct pg_column *column, struct slice text)
{
    if (!text.ptr)
        buf_lit(w->buf, "null");
    else if (column->type == PG_ARRAY)
        write_array(w, column->elem, text);
    else if (column->type == PG_TEXT)
        write_string(w->buf, text);
    else
        write_scalar(w, column->type, text);
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

static void write_row(struct writer *w, int row)
{
    struct pg_row at = pg_result_row(w->result, row);
    int n_cols = pg_result_n_cols(w->result);
    size_t start = w->buf->len;
    for (int col = 0; col < n_cols; col++) {
        const struct pg_column *column = pg_result_column(w->result, col);
        struct slice text = pg_row_next(&at);
        if (w->is_hidden && w->is_hidden[col])
            continue;
        buf_slice(w->buf, column->label);
        write_value(w, column, text);
    }
    if (w->buf->len == start)
        buf_byte(w->buf, '{');
    w->buf->ptr[start] = '{'; /* the first label's comma */
    buf_byte(w->buf, '}');
}

void pg_result_json_value(const struct pg_result *result, int row, int col, struct buf *buf)
{
    struct writer w = {.buf = buf, .result = result};
    write_value(&w, pg_result_column(result, col), pg_result_value(result, row, col));
    buf_free(&w.scratch);
}

void pg_result_json_row(const struct pg_result *result, int row, struct buf *buf)
{
    struct writer w = {.buf = buf, .result = result};
    write_row(&w, row);
    buf_free(&w.scratch);
}

void pg_result_json_rows(const struct pg_result *result, int n_rows, const bool *is_hidden, struct buf *buf)
{
    struct writer w = {.buf = buf, .result = result, .is_hidden = is_hidden};
    buf_byte(buf, '[');
    for (int row = 0; row < n_rows; row++) {
        if (row)
            buf_byte(buf, ',');
        write_row(&w, row);
    }
    buf_byte(buf, ']');
    buf_free(&w.scratch);
}

void pg_result_json(const struct pg_result *result, struct buf *buf)
{
    pg_result_json_rows(result, pg_result_n_rows(result), NULL, buf);
}
