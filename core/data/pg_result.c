/* Results without libpq's types, and the one table of types (DESIGN 5). A new type is a row in type_of, and a case in
 * pg_show_scalar if it is shown in a way of its own. PGresult is struct pg_result: nothing is copied. */
#include "data/pg_result.h"

#include <libpq-fe.h>
#include <stdlib.h>

#include "base/crypto.h"

/* Numbers below this many digits are exact in every JSON reader, and print in full in Lua (T15). */
#define EXACT_DIGITS 14

struct type_pair {
    enum pg_type type, elem;
};

/* Built-in types have fixed OIDs (pg_type.dat). Scalars, then their arrays. */
static struct type_pair type_of(Oid oid)
{
#define SCALAR(t) ((struct type_pair){(t), PG_TEXT})
#define ARRAY_OF(t) ((struct type_pair){PG_ARRAY, (t)})
    switch (oid) {
    case 16:
        return SCALAR(PG_BOOL);
    case 20: /* int8 */
    case 21: /* int2 */
    case 23: /* int4 */
        return SCALAR(PG_INT);
    case 700: /* float4 */
    case 701: /* float8 */
        return SCALAR(PG_FLOAT);
    case 1700:
        return SCALAR(PG_NUMERIC);
    case 1184:
        return SCALAR(PG_TIMESTAMPTZ);
    case 1114:
        return SCALAR(PG_TIMESTAMP);
    case 114:  /* json */
    case 3802: /* jsonb */
        return SCALAR(PG_JSON);
    case 17:
        return SCALAR(PG_BYTEA);
    case 1000:
        return ARRAY_OF(PG_BOOL);
    case 1005:
    case 1007:
    case 1016:
        return ARRAY_OF(PG_INT);
    case 1021:
    case 1022:
        return ARRAY_OF(PG_FLOAT);
    case 1231:
        return ARRAY_OF(PG_NUMERIC);
    case 1185:
        return ARRAY_OF(PG_TIMESTAMPTZ);
    case 1115:
        return ARRAY_OF(PG_TIMESTAMP);
    case 199:
    case 3807:
        return ARRAY_OF(PG_JSON);
    case 1001:
        return ARRAY_OF(PG_BYTEA);
    case 1002: /* char */
    case 1003: /* name */
    case 1009: /* text */
    case 1014: /* bpchar */
    case 1015: /* varchar */
    case 1028: /* oid */
    case 1041: /* inet */
    case 651:  /* cidr */
    case 1182: /* date */
    case 1183: /* time */
    case 1187: /* interval */
    case 1270: /* timetz */
    case 2951: /* uuid */
        return ARRAY_OF(PG_TEXT);
    default:
        return SCALAR(PG_TEXT);
    }
#undef SCALAR
#undef ARRAY_OF
}

int pg_result_n_rows(const struct pg_result *result)
{
    return PQntuples(result);
}

int pg_result_n_cols(const struct pg_result *result)
{
    return PQnfields(result);
}

struct slice pg_result_col_name(const struct pg_result *result, int col)
{
    return slice_str(PQfname(result, col));
}

enum pg_type pg_result_col_type(const struct pg_result *result, int col)
{
    return type_of(PQftype(result, col)).type;
}

enum pg_type pg_result_elem_type(const struct pg_result *result, int col)
{
    return type_of(PQftype(result, col)).elem;
}

bool pg_result_is_null(const struct pg_result *result, int row, int col)
{
    return PQgetisnull(result, row, col);
}

struct slice pg_result_value(const struct pg_result *result, int row, int col)
{
    size_t len = (size_t)PQgetlength(result, row, col); /* 0 for NULL */
    if (len == 0 && PQgetisnull(result, row, col))
        return (struct slice){NULL, 0};
    return slice_of(PQgetvalue(result, row, col), len);
}

/* libpq keeps the tag in the result but its accessors are not const-correct. */
int64_t pg_result_affected(const struct pg_result *result)
{
    union {
        const struct pg_result *in;
        struct pg_result *out;
    } cast = {.in = result};
    return strtoll(PQcmdTuples(cast.out), NULL, 10);
}

/* ---- scalars ------------------------------------------------------------------------------------------------ */

static bool is_short_integer(struct slice text)
{
    size_t n_sign = text.len && text.ptr[0] == '-';
    if (text.len - n_sign > EXACT_DIGITS || text.len == n_sign)
        return false;
    for (size_t i = n_sign; i < text.len; i++)
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
    return true;
}

/* "2026-11-23 06:19:16.5+00" → "2026-11-23T06:19:16.5Z". What RFC 3339 cannot say stays as it is: infinity, BC. */
static struct slice show_time(struct slice text, bool has_zone, struct buf *scratch)
{
    const char *space = memchr(text.ptr, ' ', text.len), *end = text.ptr + text.len;
    if (!space || end[-1] == 'C')
        return text;
    buf_clear(scratch);
    buf_append(scratch, text.ptr, (size_t)(space - text.ptr));
    buf_byte(scratch, 'T');
    buf_append(scratch, space + 1, (size_t)(end - space - 1));
    if (has_zone && scratch->len > 3 && memcmp(end - 3, "+00", 3) == 0) {
        scratch->len -= 3;
        buf_byte(scratch, 'Z');
    }
    return buf_as_slice(scratch);
}

static struct slice show_bytea(struct slice text, struct buf *scratch)
{
    if (text.len < 2 || text.ptr[0] != '\\' || text.ptr[1] != 'x')
        return text;
    size_t len = (text.len - 2) / 2;
    unsigned char *bytes = xalloc(len + 1);
    buf_clear(scratch);
    if (crypto_unhex(slice_of(text.ptr + 2, text.len - 2), bytes))
        crypto_base64(slice_of((const char *)bytes, len), false, scratch);
    free(bytes);
    return buf_as_slice(scratch);
}

enum pg_show pg_show_scalar(enum pg_type type, struct slice text, struct buf *scratch, struct slice *out)
{
    *out = text;
    switch (type) {
    case PG_BOOL:
        return text.len && text.ptr[0] == 't' ? PG_SHOW_TRUE : PG_SHOW_FALSE;
    case PG_INT: /* digits, maybe a sign */
        return text.len <= EXACT_DIGITS || is_short_integer(text) ? PG_SHOW_NUMBER : PG_SHOW_STRING;
    case PG_NUMERIC:
        return is_short_integer(text) ? PG_SHOW_NUMBER : PG_SHOW_STRING;
    case PG_FLOAT: /* NaN, Infinity: JSON has no number for them */
        return text.len && (text.ptr[text.len - 1] < '0' || text.ptr[text.len - 1] > '9') ? PG_SHOW_STRING
                                                                                          : PG_SHOW_NUMBER;
    case PG_JSON:
        return PG_SHOW_JSON;
    case PG_TIMESTAMPTZ:
    case PG_TIMESTAMP:
        *out = show_time(text, type == PG_TIMESTAMPTZ, scratch);
        return PG_SHOW_STRING;
    case PG_BYTEA:
        *out = show_bytea(text, scratch);
        return PG_SHOW_STRING;
    case PG_TEXT:
    case PG_ARRAY:
        return PG_SHOW_STRING;
    }
    WRONG("a type without a way to show it");
}
