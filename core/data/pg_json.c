/* Rows to JSON without a Lua value in between: the hot end of `pg.json`.
 *
 * One pass over the result, appending to the caller's buffer. Columns are looked at once per result. Text comes
 * from a connection whose client_encoding is UTF8, so it is valid UTF-8 already (the server checks even what
 * lies in an SQL_ASCII database), and only quotes, backslashes and control characters are left to escape. */
#include <stdlib.h>

#include "data/pg_result.h"

struct column {
    enum pg_type type, elem;
    struct slice name;
    bool is_plain; /* the name needs no escape */
    bool is_hidden;
};

struct writer {
    struct buf *buf;
    struct buf scratch;
    struct column *columns;
    int n_columns;
    enum pg_type elem; /* of the array being written */
    bool needs_comma;
    struct column few[24];
};

/* ---- strings -------------------------------------------------------------------------------------------------- */

/* Bytes up to the first that must be escaped, eight at a time: below 0x20, quote or backslash. */
static size_t plain_run(const char *s, size_t len)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones * 0x80;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t x, quote, slash;
        memcpy(&x, s + i, 8);
        quote = x ^ (ones * '"');
        slash = x ^ (ones * '\\');
        uint64_t hit = ((x - ones * 0x20) & ~x) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash);
        if (hit & highs)
            break;
    }
    while (i < len && (unsigned char)s[i] >= 0x20 && s[i] != '"' && s[i] != '\\')
        i++;
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
    buf_reserve(buf, s.len + 2);
    buf_byte(buf, '"');
    while (s.len) {
        size_t n = plain_run(s.ptr, s.len);
        buf_append(buf, s.ptr, n);
        if (n == s.len)
            break;
        write_escape(buf, (unsigned char)s.ptr[n]);
        s = slice_of(s.ptr + n + 1, s.len - n - 1);
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

static void write_value(struct writer *w, const struct pg_result *result, int row, int col)
{
    const struct column *column = &w->columns[col];
    if (pg_result_is_null(result, row, col)) {
        buf_lit(w->buf, "null");
        return;
    }
    struct slice text = pg_result_value(result, row, col);
    if (column->type == PG_ARRAY)
        write_array(w, column->elem, text);
    else if (column->type == PG_TEXT)
        write_string(w->buf, text);
    else
        write_scalar(w, column->type, text);
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

static void writer_open(struct writer *w, const struct pg_result *result, struct buf *buf)
{
    w->buf = buf;
    w->scratch = (struct buf){0};
    w->n_columns = pg_result_n_cols(result);
    size_t n = (size_t)w->n_columns;
    w->columns = n <= ARRAY_LEN(w->few) ? w->few : xalloc(n * sizeof(*w->columns));
    for (int i = 0; i < w->n_columns; i++) {
        struct column *column = &w->columns[i];
        column->type = pg_result_col_type(result, i);
        column->elem = column->type == PG_ARRAY ? pg_result_elem_type(result, i) : PG_TEXT;
        column->name = pg_result_col_name(result, i);
        column->is_hidden = false;
        column->is_plain = plain_run(column->name.ptr, column->name.len) == column->name.len;
    }
}

static void writer_close(struct writer *w)
{
    buf_free(&w->scratch);
    if (w->columns != w->few)
        free(w->columns);
}

static void write_name(struct buf *buf, const struct column *column)
{
    if (!column->is_plain) {
        write_string(buf, column->name);
        buf_byte(buf, ':');
        return;
    }
    size_t len = column->name.len;
    char *out = buf_reserve(buf, len + 3);
    out[0] = '"';
    memcpy(out + 1, column->name.ptr, len);
    out[len + 1] = '"';
    out[len + 2] = ':';
    buf->len += len + 3;
}

static void write_row(struct writer *w, const struct pg_result *result, int row)
{
    char before = '{';
    for (int col = 0; col < w->n_columns; col++) {
        if (w->columns[col].is_hidden)
            continue;
        buf_byte(w->buf, before);
        before = ',';
        write_name(w->buf, &w->columns[col]);
        write_value(w, result, row, col);
    }
    if (before == '{')
        buf_byte(w->buf, '{');
    buf_byte(w->buf, '}');
}

void pg_result_json_value(const struct pg_result *result, int row, int col, struct buf *buf)
{
    struct writer w;
    writer_open(&w, result, buf);
    write_value(&w, result, row, col);
    writer_close(&w);
}

void pg_result_json_row(const struct pg_result *result, int row, struct buf *buf)
{
    struct writer w;
    writer_open(&w, result, buf);
    write_row(&w, result, row);
    writer_close(&w);
}

static void write_rows(struct writer *w, const struct pg_result *result, int n_rows)
{
    buf_byte(w->buf, '[');
    for (int row = 0; row < n_rows; row++) {
        if (row)
            buf_byte(w->buf, ',');
        write_row(w, result, row);
    }
    buf_byte(w->buf, ']');
}

void pg_result_json(const struct pg_result *result, struct buf *buf)
{
    struct writer w;
    writer_open(&w, result, buf);
    write_rows(&w, result, pg_result_n_rows(result));
    writer_close(&w);
}

void pg_result_json_rows(const struct pg_result *result, int n_rows, const bool *is_hidden, struct buf *buf)
{
    struct writer w;
    writer_open(&w, result, buf);
    for (int col = 0; col < w.n_columns; col++)
        w.columns[col].is_hidden = is_hidden[col];
    write_rows(&w, result, n_rows);
    writer_close(&w);
}
