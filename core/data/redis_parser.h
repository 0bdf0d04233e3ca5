/* Replies out of bytes: hiredis' reader with object functions that build `struct redis_value` in an arena. No socket.
 *
 *   redis_parser_feed(parser, bytes, &err); while (redis_parser_next(parser, &value, &err) == OK) …;
 * redis_parser_reset(parser) */
#pragma once

#include "base/arena.h"
#include "data/redis.h"

#define REDIS_PARSER_MAX_BYTES (64u << 20) /* of one reply: beyond, the stream is broken */

struct redis_parser; /* sticky: after an ERR it only returns ERR */

struct redis_parser *redis_parser_new(void);
void redis_parser_free(struct redis_parser *parser);

/* Copies bytes in. */
enum status redis_parser_feed(struct redis_parser *parser, struct slice bytes, struct err *err) MUST_CHECK;
/* OK: *value is the next whole reply, valid until redis_parser_reset. AGAIN: more bytes are needed. ERR: the peer does
 * not speak RESP, or sent a reply that is too large. */
enum status redis_parser_next(struct redis_parser *parser, const struct redis_value **value,
                              struct err *err) MUST_CHECK;
/* The replies handed out so far are done with: their memory may be used again. A reply half received is kept. */
void redis_parser_reset(struct redis_parser *parser);
