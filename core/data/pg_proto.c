#include "data/pg_proto.h"

#include <arpa/inet.h>

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void put_int32(struct buf *out, uint32_t value)
{
    uint32_t wire = htonl(value);
    buf_append(out, &wire, sizeof(wire));
}

static void put_int16(struct buf *out, unsigned value)
{
    uint16_t wire = htons((uint16_t)value);
    buf_append(out, &wire, sizeof(wire));
}

static void put_text(struct buf *out, const char *text)
{
    buf_append(out, text, strlen(text) + 1);
}

/* Its length is filled in at the end. → where the message stands */
static size_t begin(struct buf *out, char type)
{
    size_t at = out->len;
    buf_byte(out, type);
    put_int32(out, 0);
    return at;
}

static void end(struct buf *out, size_t at)
{
    uint32_t wire = htonl((uint32_t)(out->len - at - 1));
    memcpy(out->ptr + at + 1, &wire, sizeof(wire));
}

void pg_proto_parse(struct buf *out, const char *name, const char *sql)
{
    size_t at = begin(out, 'P');
    put_text(out, name);
    put_text(out, sql);
    put_int16(out, 0); /* the server finds the types of the parameters */
    end(out, at);
}

static void put_value(struct buf *out, const char *text)
{
    size_t len = text ? strlen(text) : 0;
    put_int32(out, text ? (uint32_t)len : UINT32_MAX); /* -1: NULL */
    buf_append(out, text, len);
}

void pg_proto_bind(struct buf *out, const char *name, const char *const *values, int n_values)
{
    size_t at = begin(out, 'B');
    put_text(out, ""); /* the portal */
    put_text(out, name);
    put_int16(out, 0); /* all parameters are text */
    put_int16(out, (unsigned)n_values);
    for (int i = 0; i < n_values; i++)
        put_value(out, values[i]);
    put_int16(out, 0); /* all columns too */
    end(out, at);
}

static void put_object(struct buf *out, char type, enum pg_object object, const char *name)
{
    size_t at = begin(out, type);
    buf_byte(out, (char)object);
    put_text(out, name);
    end(out, at);
}

void pg_proto_describe(struct buf *out, enum pg_object object, const char *name)
{
    put_object(out, 'D', object, name);
}

void pg_proto_close_statement(struct buf *out, const char *name)
{
    put_object(out, 'C', PG_STATEMENT, name);
}

void pg_proto_execute(struct buf *out)
{
    buf_append(out, "E\0\0\0\x09\0\0\0\0\0", 10); /* portal "", no limit of rows */
}

void pg_proto_sync(struct buf *out)
{
    buf_append(out, "S\0\0\0\x04", 5);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

enum status pg_proto_next(struct slice bytes, struct pg_msg *msg, size_t *len)
{
    uint32_t wire;
    *len = 0;
    if (bytes.len < PG_MSG_HEAD)
        return AGAIN;
    memcpy(&wire, bytes.ptr + 1, sizeof(wire));
    size_t n_body = ntohl(wire);
    msg->type = bytes.ptr[0];
    if (n_body < sizeof(wire) || n_body > INT32_MAX)
        return ERR;
    *len = 1 + n_body;
    if (bytes.len < *len)
        return AGAIN;
    msg->body = slice_of(bytes.ptr + PG_MSG_HEAD, *len - PG_MSG_HEAD);
    return OK;
}

static void take(struct slice *body, size_t len)
{
    *body = slice_of(body->ptr + len, body->len - len);
}

bool pg_proto_text(struct slice *body, const char **text)
{
    const char *nul = body->len ? memchr(body->ptr, 0, body->len) : NULL;
    if (!nul)
        return false;
    *text = body->ptr;
    take(body, (size_t)(nul + 1 - body->ptr));
    return true;
}

bool pg_proto_int16(struct slice *body, int *value)
{
    uint16_t wire;
    if (body->len < sizeof(wire))
        return false;
    memcpy(&wire, body->ptr, sizeof(wire));
    *value = ntohs(wire);
    take(body, sizeof(wire));
    return true;
}

bool pg_proto_int32(struct slice *body, int32_t *value)
{
    uint32_t wire;
    if (body->len < sizeof(wire))
        return false;
    memcpy(&wire, body->ptr, sizeof(wire));
    *value = (int32_t)ntohl(wire);
    take(body, sizeof(wire));
    return true;
}

/* ---- errors and notices ------------------------------------------------------------------------------------------ */

static const char **fault_field(struct pg_fault *fault, char code)
{
    switch (code) {
    case 'S': /* translated; a pooler gives no other */
    case 'V': /* behind it */
        return &fault->severity;
    case 'C':
        return &fault->sqlstate;
    case 'M':
        return &fault->message;
    case 'D':
        return &fault->detail;
    case 'H':
        return &fault->hint;
    case 'n':
        return &fault->constraint;
    case 'P':
        return &fault->position;
    case 'R':
        return &fault->routine;
    default: /* more are allowed, and to be ignored */
        return NULL;
    }
}

bool pg_proto_fault(struct slice body, struct pg_fault *fault)
{
    *fault = (struct pg_fault){0};
    while (body.len && body.ptr[0]) {
        const char *text, **field = fault_field(fault, body.ptr[0]);
        take(&body, 1);
        if (!pg_proto_text(&body, &text))
            return false;
        if (field)
            *field = text;
    }
    return body.len == 1;
}

bool pg_fault_ends_session(const struct pg_fault *fault)
{
    return fault->severity && (strcmp(fault->severity, "FATAL") == 0 || strcmp(fault->severity, "PANIC") == 0);
}

static void append_field(struct err *err, const char *label, const char *text)
{
    if (!text)
        return;
    size_t len = strlen(err->detail), room = sizeof(err->detail) - len;
    size_t want = strlen(label) + strlen(text) + 3;
    if (want < room) {
        strcat(err->detail, len ? "; " : "");
        strcat(strcat(err->detail, label), text);
    }
}

/* An application of its own that has not copied the tables of the services it uses. */
static bool lacks_own_tables(const struct pg_fault *fault)
{
    static const char *const NAMES[] = {
        "\"jobs\"",      "\"cron_runs\"", "\"idempotency_keys\"", "\"cache_forget\"",
        "\"sequences\"", " job_fence(",   " idempotency_claim(",  " get_next_order_sequence(",
    };
    if (!fault->sqlstate || !fault->message ||
        (strcmp(fault->sqlstate, "42P01") != 0 && strcmp(fault->sqlstate, "42883") != 0))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(NAMES); i++)
        if (strstr(fault->message, NAMES[i]))
            return true;
    return false;
}

void pg_fault_to_err(const struct pg_fault *fault, struct err *err)
{
    *err = (struct err){0};
    err_set(err, ERR_PG, "%s", fault->message ? fault->message : "PostgreSQL reported an error without a message");
    if (fault->sqlstate)
        memcpy(err->sqlstate, fault->sqlstate, strnlen(fault->sqlstate, sizeof(err->sqlstate) - 1));
    append_field(err, "", fault->detail);
    append_field(err, "hint: ",
                 lacks_own_tables(fault) ? "chowk's own tables: copy examples/tables.sql into migrations/"
                                         : fault->hint);
    append_field(err, "constraint: ", fault->constraint);
    append_field(err, "at character ", fault->position);
}
