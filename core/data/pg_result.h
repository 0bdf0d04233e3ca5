/* A result as the layers above see it: no libpq types. Values are PostgreSQL's text format, borrowed.
 * Types by one table (DESIGN 5): int2/int4/int8 and numeric of scale 0 are numbers below 10^14, strings above; float4/8
 * numbers; other numeric strings; bool; timestamptz RFC 3339 UTC; json/jsonb and arrays real values; bytea base64;
 * all else text. */
#pragma once

#include <endian.h>

#include "base/buf.h"

enum pg_type {
    PG_TEXT,
    PG_BOOL,
    PG_INT,
    PG_FLOAT,
    PG_NUMERIC,
    PG_TIMESTAMPTZ,
    PG_TIMESTAMP,
    PG_JSON,
    PG_BYTEA,
    PG_ARRAY
};

/* What is known of the columns of a statement: once per statement and connection, shared by its results. */
struct pg_column {
    enum pg_type type;
    enum pg_type elem; /* of a PG_ARRAY. Arrays of types that the table does not know (enums, domains) are PG_TEXT */
    struct slice name;
    struct slice label; /* `,"name":`, as JSON wants it */
};

struct pg_columns {
    unsigned n_refs;
    int n;
    struct pg_column column[];
};

/* Of a RowDescription's body; NULL: it is malformed. Returns owned, with one reference. */
struct pg_columns *pg_columns_new(struct slice body);
void pg_columns_unref(struct pg_columns *columns); /* NULL is fine */

struct pg_result;
int pg_result_n_rows(const struct pg_result *result);
int pg_result_n_cols(const struct pg_result *result);
const struct pg_column *pg_result_column(const struct pg_result *result, int col);
bool pg_result_is_null(const struct pg_result *result, int row, int col);
struct slice pg_result_value(const struct pg_result *result, int row, int col); /* text format; NULL ptr: NULL */
int64_t pg_result_affected(const struct pg_result *result); /* INSERT/UPDATE/DELETE/SELECT count, else 0 */

/* The values of one row from left to right, which is the fast way. Ask for no more than there are columns. */
struct pg_row {
    const char *at;
};
struct pg_row pg_result_row(const struct pg_result *result, int row);
static inline struct slice pg_row_next(struct pg_row *row) /* NULL ptr: NULL */
{
    int32_t len;
    memcpy(&len, row->at, sizeof(len));
    len = (int32_t)be32toh((uint32_t)len);
    const char *ptr = row->at + sizeof(len);
    row->at = len < 0 ? ptr : ptr + len;
    return len < 0 ? (struct slice){NULL, 0} : slice_of(ptr, (size_t)len);
}

/* How a connection makes one. */
struct pg_result *pg_result_new(struct pg_columns *columns); /* takes a reference of its own; NULL: it has none */
void pg_result_free(struct pg_result *result);               /* NULL is fine */
bool pg_result_add_row(struct pg_result *result, struct slice body) MUST_CHECK; /* a DataRow's; false: malformed */
void pg_result_set_tag(struct pg_result *result, const char *tag);              /* "UPDATE 3" */
size_t pg_result_size(const struct pg_result *result);                          /* bytes that its rows take */

/* How one value that is not NULL and not an array is shown: the one table of types, for JSON and for Lua alike. */
enum pg_show { PG_SHOW_STRING, PG_SHOW_NUMBER, PG_SHOW_TRUE, PG_SHOW_FALSE, PG_SHOW_JSON };
/* *out: the JSON number, the string's bytes, or the JSON text; borrowed from `text` or from `scratch`. */
enum pg_show pg_show_scalar(enum pg_type type, struct slice text, struct buf *scratch, struct slice *out);

/* Walks PostgreSQL's text form of an array ('{1,NULL,"a b",{…}}'). Items are unescaped, borrowed for the call.
 * False if it is no array. */
struct pg_array_events {
    void (*on_begin)(void *data); /* of each dimension */
    void (*on_end)(void *data);
    void (*on_item)(void *data, bool is_null, struct slice text);
};
bool pg_array_read(struct slice text, const struct pg_array_events *events, void *data);

/* False if a number of the JSON text would not come back from a double as it is: keep the text then. */
bool pg_json_is_exact(struct slice json);

/* One value, one row as an object, all rows as an array: appended to buf without any Lua value. */
void pg_result_json_value(const struct pg_result *result, int row, int col, struct buf *buf);
void pg_result_json_row(const struct pg_result *result, int row, struct buf *buf);
void pg_result_json(const struct pg_result *result, struct buf *buf);
/* The first rows only, without the columns that are hidden (one flag each). */
void pg_result_json_rows(const struct pg_result *result, int n_rows, const bool *is_hidden, struct buf *buf);
