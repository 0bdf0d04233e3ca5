/* PostgreSQL's frontend/backend protocol 3.0, as far as a pipeline of extended queries uses it (the manual's chapter
 * "Message Formats"). Values travel as text both ways. No socket and no state here: messages are appended to a buffer,
 * and read from bytes that arrived. Private to data/pg_*. */
#pragma once

#include "base/buf.h"
#include "base/err.h"

/* ---- what we send: each appends one message ------------------------------------------------------------------- */

enum pg_object { PG_STATEMENT = 'S', PG_PORTAL = 'P' };

void pg_proto_parse(struct buf *out, const char *name, const char *sql); /* name "": the unnamed statement */
void pg_proto_bind(struct buf *out, const char *name, const char *const *values, int n_values); /* NULL: NULL */
void pg_proto_describe(struct buf *out, enum pg_object object, const char *name);
void pg_proto_execute(struct buf *out); /* the unnamed portal, all its rows */
void pg_proto_close_statement(struct buf *out, const char *name);
void pg_proto_sync(struct buf *out);

/* ---- what we read ------------------------------------------------------------------------------------------------ */

enum { PG_MSG_HEAD = 5 }; /* a type, and the length of what follows it */

struct pg_msg {
    char type;
    struct slice body; /* borrowed from the bytes */
};

/* The first message of `bytes`. OK: *len is how long it is. AGAIN: it is not complete; *len as soon as that is known,
 * else 0. ERR: these bytes are not of this protocol. msg->type is known unless *len is 0. */
enum status pg_proto_next(struct slice bytes, struct pg_msg *msg, size_t *len) MUST_CHECK;

/* The next item of a body; false when there is none: the message is malformed. */
bool pg_proto_text(struct slice *body, const char **text) MUST_CHECK; /* NUL-terminated, borrowed */
bool pg_proto_int16(struct slice *body, int *value) MUST_CHECK;
bool pg_proto_int32(struct slice *body, int32_t *value) MUST_CHECK;

/* An ErrorResponse or NoticeResponse; what it does not say is NULL. Borrowed from the body. */
struct pg_fault {
    const char *severity; /* ERROR, FATAL, … */
    const char *sqlstate, *message, *detail, *hint, *constraint, *position, *routine;
};
bool pg_proto_fault(struct slice body, struct pg_fault *fault) MUST_CHECK;
bool pg_fault_ends_session(const struct pg_fault *fault); /* FATAL or PANIC: the server hangs up */
void pg_fault_to_err(const struct pg_fault *fault, struct err *err);
