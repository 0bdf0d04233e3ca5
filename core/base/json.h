/* JSON, strict: RFC 8259 narrowed by I-JSON (RFC 7493).
 *
 * Reading is one recursive-descent pass that validates and reports events; with NULL events it only
 * checks. It rejects: bad UTF-8 and lone surrogates, duplicate names, raw control characters, leading
 * zeros and '+', NaN/Infinity, numbers that a double cannot hold exactly when written as integers
 * (|n| > 2^53), numbers that overflow, depth over the cap, more than max_keys names in one object,
 * anything after the value. Also decimals without exponent beyond 2^53, underflow to zero, numbers of more
 * than 512 characters, a byte order mark. (TRAPS T15)
 *
 * Writing appends to a buf and cannot fail. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

struct json_limits {
    size_t max_depth; /* 0 = 64; never above 1000 */
    size_t max_keys;  /* names in one object; 0 = 1024 */
};

/* Events in document order. Strings are unescaped UTF-8, borrowed for the call. A callback returning
 * false stops the read (json_read returns ERR, err untouched by json). Any callback may be NULL. */
struct json_events {
    bool (*on_null)(void *data);
    bool (*on_bool)(void *data, bool value);
    bool (*on_number)(void *data, double value);
    bool (*on_string)(void *data, struct slice value);
    bool (*on_key)(void *data, struct slice name);
    bool (*on_object_begin)(void *data);
    bool (*on_object_end)(void *data, size_t n_members);
    bool (*on_array_begin)(void *data);
    bool (*on_array_end)(void *data, size_t n_items);
};

/* ERR: err is ERR_INVALID with "line L column C: what". Scratch memory comes from `arena`. */
enum status json_read(struct slice text, const struct json_limits *limits, const struct json_events *events, void *data,
                      struct arena *arena, struct err *err) MUST_CHECK;

bool json_is_utf8(struct slice text); /* well-formed: what a JSON string, and PostgreSQL, can hold */
void json_write_string(struct buf *buf, struct slice utf8); /* with quotes; invalid UTF-8 becomes U+FFFD */
/* Shortest text that reads back to the same double; integers up to 2^53 without exponent.
 * NaN and infinities: returns ERR, writes nothing. */
enum status json_write_number(struct buf *buf, double value) MUST_CHECK;
void json_write_int(struct buf *buf, int64_t value);
