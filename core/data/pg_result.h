/* A result as the layers above see it: no libpq types. Values are PostgreSQL's text format, borrowed.
 * Types by one table (DESIGN 5): int2/int4/int8 and numeric of scale 0 are numbers below 10^14, strings above; float4/8
 * numbers; other numeric strings; bool; timestamptz RFC 3339 UTC; json/jsonb and arrays real values; bytea base64;
 * all else text. */
#pragma once

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

struct pg_result;
int pg_result_n_rows(const struct pg_result *result);
int pg_result_n_cols(const struct pg_result *result);
struct slice pg_result_col_name(const struct pg_result *result, int col);
enum pg_type pg_result_col_type(const struct pg_result *result, int col);
bool pg_result_is_null(const struct pg_result *result, int row, int col);
struct slice pg_result_value(const struct pg_result *result, int row, int col); /* text format */
int64_t pg_result_affected(const struct pg_result *result); /* INSERT/UPDATE/DELETE/SELECT count, else 0 */

/* One value, one row as an object, all rows as an array: appended to buf without any Lua value. */
void pg_result_json_value(const struct pg_result *result, int row, int col, struct buf *buf);
void pg_result_json_row(const struct pg_result *result, int row, struct buf *buf);
void pg_result_json(const struct pg_result *result, struct buf *buf);
