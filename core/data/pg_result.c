/* Results, and the one table of types (DESIGN 5). A new type is a row in type_of, and a case in pg_show_scalar if it is
 * shown in a way of its own.
 *
 * A result holds its rows as they came off the wire, one after the other, each value behind its length: one copy from
 * the socket's buffer, no allocation per row or value. What is constant, the columns, belongs to the statement. */
#include "data/pg_result.h"

#include <stdlib.h>

#include "base/crypto.h"
#include "base/json.h"
#include "data/pg_proto.h"

/* Numbers below this many digits are exact in every JSON reader, and print in full in Lua (T15). */
#define EXACT_DIGITS 14

struct type_pair {
    enum pg_type type, elem;
};

/* Built-in types have fixed OIDs (pg_type.dat). Scalars, then their arrays. */
static struct type_pair type_of(uint32_t oid)
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

/* ---- columns ------------------------------------------------------------------------------------------------ */

/* Reads one field of a RowDescription: its name, and of six numbers the type's. */
static bool read_column(struct slice *body, const char **name, uint32_t *oid)
{
    int32_t table, type, modifier;
    int number, size, format;
    bool is_read = pg_proto_text(body, name) && pg_proto_int32(body, &table) && pg_proto_int16(body, &number) &&
                   pg_proto_int32(body, &type) && pg_proto_int16(body, &size) && pg_proto_int32(body, &modifier) &&
                   pg_proto_int16(body, &format);
    *oid = is_read ? (uint32_t)type : 0;
    return is_read;
}

/* `,"name":`; its bytes end with the name's, which it is made from, in one allocation behind the columns. */
static void set_names(struct pg_column *column, const char *name, struct buf *names)
{
    column->name = slice_of(NULL, strlen(name));
    buf_append(names, name, column->name.len);
    column->label.len = names->len;
    buf_byte(names, ',');
    json_write_string(names, slice_str(name));
    buf_byte(names, ':');
    column->label.len = names->len - column->label.len;
}

static struct pg_columns *join(struct pg_columns *columns, struct buf *names)
{
    size_t size = sizeof(*columns) + (size_t)columns->n * sizeof(columns->column[0]);
    struct pg_columns *joined = xalloc(size + names->len);
    memcpy(joined, columns, size);
    char *at = memcpy((char *)joined + size, names->ptr ? names->ptr : "", names->len);
    for (int i = 0; i < joined->n; i++) {
        struct pg_column *column = &joined->column[i];
        column->name.ptr = at;
        column->label.ptr = at + column->name.len;
        at += column->name.len + column->label.len;
    }
    return joined;
}

struct pg_columns *pg_columns_new(struct slice body)
{
    int n;
    if (!pg_proto_int16(&body, &n))
        return NULL;
    struct pg_columns *columns = xalloc(sizeof(*columns) + (size_t)n * sizeof(columns->column[0])), *joined = NULL;
    struct buf names = {0};
    columns->n_refs = 1;
    for (; columns->n < n; columns->n++) {
        struct pg_column *column = &columns->column[columns->n];
        const char *name;
        uint32_t oid;
        if (!read_column(&body, &name, &oid))
            break;
        struct type_pair type = type_of(oid);
        column->type = type.type;
        column->elem = type.elem;
        set_names(column, name, &names);
    }
    if (columns->n == n && body.len == 0)
        joined = join(columns, &names);
    buf_free(&names);
    free(columns);
    return joined;
}

void pg_columns_unref(struct pg_columns *columns)
{
    if (columns && --columns->n_refs == 0)
        free(columns);
}

/* ---- results ------------------------------------------------------------------------------------------------ */

struct pg_result {
    struct pg_columns *columns; /* NULL: none */
    struct buf bytes;           /* of each row its values: length (-1: NULL) in network order, bytes */
    size_t *row_at;             /* where each row begins */
    int n_rows, n_room;
    int64_t affected;
    size_t few[4]; /* row_at, as long as that is enough */
};

struct pg_result *pg_result_new(struct pg_columns *columns)
{
    struct pg_result *result = xalloc(sizeof(*result));
    result->columns = columns;
    if (columns)
        columns->n_refs++;
    result->row_at = result->few;
    result->n_room = (int)ARRAY_LEN(result->few);
    return result;
}

void pg_result_free(struct pg_result *result)
{
    if (!result)
        return;
    pg_columns_unref(result->columns);
    buf_free(&result->bytes);
    if (result->row_at != result->few)
        free(result->row_at);
    free(result);
}

static void add_room(struct pg_result *result)
{
    size_t *old = result->row_at, n = (size_t)result->n_room;
    result->n_room *= 4;
    result->row_at = xalloc((size_t)result->n_room * sizeof(*old));
    memcpy(result->row_at, old, n * sizeof(*old));
    if (old != result->few)
        free(old);
}

/* Whether the lengths of n values fill the body exactly: nothing looks at them again. */
static bool is_sound(struct slice body, int n)
{
    size_t at = 0;
    for (; n > 0; n--) {
        uint32_t wire;
        if (body.len - at < sizeof(wire))
            return false;
        memcpy(&wire, body.ptr + at, sizeof(wire));
        at += sizeof(wire);
        size_t len = be32toh(wire) == UINT32_MAX ? 0 : be32toh(wire); /* -1: NULL */
        if (len > body.len - at)
            return false;
        at += len;
    }
    return at == body.len;
}

bool pg_result_add_row(struct pg_result *result, struct slice body)
{
    int n;
    if (!pg_proto_int16(&body, &n) || n != pg_result_n_cols(result) || !is_sound(body, n))
        return false;
    if (result->n_rows >= INT32_MAX / 8)
        return false;
    if (result->n_rows == result->n_room)
        add_room(result);
    result->row_at[result->n_rows++] = result->bytes.len;
    buf_slice(&result->bytes, body);
    return true;
}

/* The last word that is a number: "INSERT 0 3", "SELECT 20". */
void pg_result_set_tag(struct pg_result *result, const char *tag)
{
    const char *space = strrchr(tag, ' ');
    result->affected = space ? strtoll(space + 1, NULL, 10) : 0;
}

size_t pg_result_size(const struct pg_result *result)
{
    return result->bytes.len + (size_t)result->n_rows * sizeof(result->row_at[0]);
}

int pg_result_n_rows(const struct pg_result *result)
{
    return result->n_rows;
}

int pg_result_n_cols(const struct pg_result *result)
{
    return result->columns ? result->columns->n : 0;
}

const struct pg_column *pg_result_column(const struct pg_result *result, int col)
{
    CHECK(col >= 0 && col < pg_result_n_cols(result));
    return &result->columns->column[col];
}

struct pg_row pg_result_row(const struct pg_result *result, int row)
{
    CHECK(row >= 0 && row < result->n_rows);
    const char *bytes = result->bytes.ptr; /* NULL: rows without columns */
    return (struct pg_row){bytes ? bytes + result->row_at[row] : NULL};
}

struct slice pg_result_value(const struct pg_result *result, int row, int col)
{
    CHECK(col >= 0 && col < pg_result_n_cols(result));
    struct pg_row at = pg_result_row(result, row);
    for (; col > 0; col--)
        (void)pg_row_next(&at);
    return pg_row_next(&at);
}

bool pg_result_is_null(const struct pg_result *result, int row, int col)
{
    return pg_result_value(result, row, col).ptr == NULL;
}

int64_t pg_result_affected(const struct pg_result *result)
{
    return result->affected;
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
