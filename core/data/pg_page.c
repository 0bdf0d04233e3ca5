/* Cursor bytes, inside base64url: 8 of SHA-256(tag, keys), then for each key its length in two bytes and its text. */
#include "data/pg_page.h"

#include "base/crypto.h"
#include "data/pg_stmt.h"

enum { CHECK_LEN = 8, MAX_CURSOR = 8192 };

/* The next of a list of names; false at its end. */
static bool next_name(struct slice *names, struct slice *name)
{
    const char *end = names->len ? memchr(names->ptr, 0, names->len) : NULL;
    if (!end)
        return false;
    *name = slice_of(names->ptr, (size_t)(end - names->ptr));
    *names = slice_of(end + 1, names->len - name->len - 1);
    return true;
}

static int find_column(const struct pg_result *result, struct slice name)
{
    for (int col = 0; col < pg_result_n_cols(result); col++)
        if (slice_eq(pg_result_column(result, col)->name, name))
            return col;
    return -1;
}

static enum status fail_no_column(struct slice name, struct err *err)
{
    return err_set(err, ERR_INVALID, "pg.page: the statement has no column \"%.*s\"", SLICE_FMT(name));
}

/* ---- cursors -------------------------------------------------------------------------------------------------- */

static void check_sum(struct slice tag, struct slice keys, char out[CHECK_LEN])
{
    unsigned char hash[CRYPTO_SHA256_LEN];
    struct buf text = {0};
    buf_slice(&text, tag);
    buf_slice(&text, keys);
    crypto_sha256(buf_as_slice(&text), hash);
    memcpy(out, hash, CHECK_LEN);
    buf_free(&text);
}

static enum status append_key(const struct pg_result *result, int row, struct slice name, struct buf *keys,
                              struct err *err)
{
    int col = find_column(result, name);
    if (col < 0)
        return fail_no_column(name, err);
    if (pg_result_is_null(result, row, col))
        return err_set(err, ERR_INVALID, "pg.page: \"%.*s\" is NULL: a key may not be, write coalesce(…)",
                       SLICE_FMT(name));
    struct slice text = pg_result_value(result, row, col);
    if (text.len > 2000)
        return err_set(err, ERR_INVALID, "pg.page: \"%.*s\" is too long for a key: %zu bytes", SLICE_FMT(name),
                       text.len);
    buf_byte(keys, (char)(text.len >> 8));
    buf_byte(keys, (char)(text.len & 0xff));
    buf_slice(keys, text);
    return OK;
}

static enum status write_cursor(const struct pg_result *result, const struct pg_page *page, struct buf *out,
                                struct err *err)
{
    struct buf bytes = {0};
    struct slice names = page->by, name;
    enum status rc = OK;
    memset(buf_reserve(&bytes, CHECK_LEN), 0, CHECK_LEN);
    bytes.len = CHECK_LEN;
    while (rc == OK && next_name(&names, &name))
        rc = append_key(result, page->limit - 1, name, &bytes, err);
    if (rc == OK) {
        check_sum(page->tag, slice_of(bytes.ptr + CHECK_LEN, bytes.len - CHECK_LEN), bytes.ptr);
        buf_byte(out, '"');
        crypto_base64(buf_as_slice(&bytes), true, out);
        buf_byte(out, '"');
    }
    buf_free(&bytes);
    return rc;
}

static bool read_keys(struct slice bytes, struct slice *values, size_t n_values)
{
    for (size_t i = 0; i < n_values; i++) {
        if (bytes.len < 2)
            return false;
        size_t len = (size_t)(unsigned char)bytes.ptr[0] << 8 | (unsigned char)bytes.ptr[1];
        if (bytes.len - 2 < len)
            return false;
        values[i] = slice_of(bytes.ptr + 2, len);
        bytes = slice_of(bytes.ptr + 2 + len, bytes.len - 2 - len);
    }
    return bytes.len == 0;
}

bool pg_cursor_read(struct slice cursor, struct slice tag, struct slice *values, size_t n_values, struct buf *scratch)
{
    char sum[CHECK_LEN];
    buf_clear(scratch);
    if (cursor.len > MAX_CURSOR || !crypto_unbase64(cursor, true, scratch) || scratch->len < CHECK_LEN)
        return false;
    struct slice keys = slice_of(scratch->ptr + CHECK_LEN, scratch->len - CHECK_LEN);
    check_sum(tag, keys, sum);
    return memcmp(sum, scratch->ptr, CHECK_LEN) == 0 && read_keys(keys, values, n_values);
}

/* ---- pages ---------------------------------------------------------------------------------------------------- */

static enum status find_hidden(const struct pg_result *result, struct slice names, bool *is_hidden, struct err *err)
{
    struct slice name;
    while (next_name(&names, &name)) {
        int col = find_column(result, name);
        if (col < 0)
            return fail_no_column(name, err);
        is_hidden[col] = true;
    }
    return OK;
}

enum status pg_page_write(const struct pg_result *result, const struct pg_page *page, struct buf *out, struct err *err)
{
    bool is_hidden[1664] = {false}; /* PostgreSQL's own bound for a target list */
    int n_rows = pg_result_n_rows(result);
    bool is_last = n_rows <= page->limit;
    CHECK(pg_result_n_cols(result) <= (int)ARRAY_LEN(is_hidden));
    if (find_hidden(result, page->hide, is_hidden, err) != OK)
        return ERR;
    buf_lit(out, "{\"items\":");
    pg_result_json_rows(result, is_last ? n_rows : page->limit, is_hidden, out);
    buf_lit(out, ",\"next_cursor\":");
    if (is_last)
        buf_lit(out, "null");
    else if (write_cursor(result, page, out, err) != OK)
        return ERR;
    buf_byte(out, '}');
    return OK;
}

int pg_page_n_params(struct slice sql)
{
    struct pg_text text;
    pg_classify(sql, &text);
    return text.n_params;
}
