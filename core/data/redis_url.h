/* Where a Redis is and how to enter it: redis://[user:password@]host[:port][/db], redis://:password@host,
 * unix:///path/redis.sock[?db=0]. Parts are percent-decoded. Pure. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

struct redis_url {
    char host[256]; /* TCP: name or numeric address, IPv6 without brackets; "" for a Unix socket */
    char path[108]; /* Unix socket; "" for TCP */
    char user[128]; /* "" = default user */
    char password[512];
    int port;
    int db;
};

/* ERR_INVALID; the message never repeats the password. */
enum status redis_url_parse(struct slice text, struct redis_url *out, struct err *err) MUST_CHECK;
