/* Where a Redis is and how to enter it. Parts are percent-decoded. Pure.
 *
 *   redis://[user:password@]host[:port][/db]            rediss://… the same over TLS
 *   redis+sentinel://[user:password@]host[:port],host[:port]…/name[/db]     rediss+sentinel://… over TLS
 *   unix:///path/redis.sock[?db=0]
 *
 * After '?': db=<number>; ca=<file> (TLS: trust only this PEM); sentinel_user=, sentinel_password= (the sentinels'
 * own credentials: the ones before '@' are the data nodes'); sentinel_tls=on|off (default: as the data nodes). */
#pragma once

#include "base/err.h"
#include "base/slice.h"

#define REDIS_URL_MAX_SENTINELS 8

struct redis_host {
    char host[256]; /* name or numeric address, IPv6 without brackets */
    int port;
};

struct redis_login {
    char user[128]; /* "" = default user */
    char password[512];
};

struct redis_url {
    struct redis_host at; /* TCP; host "" for a Unix socket and for Sentinel */
    char path[108];       /* Unix socket; "" for TCP */
    struct redis_login login;
    int db;
    bool tls, sentinel_tls;
    char ca[256]; /* "" = not given */
    struct redis_host sentinels[REDIS_URL_MAX_SENTINELS];
    size_t n_sentinels;
    char primary[128]; /* what the sentinels call it */
    struct redis_login sentinel_login;
};

/* ERR_INVALID; the message never repeats the password. */
enum status redis_url_parse(struct slice text, struct redis_url *out, struct err *err) MUST_CHECK;
