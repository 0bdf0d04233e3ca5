/* One connection to a Redis or a Sentinel, from its address to its end: finding (through Sentinel, if that is how the
 * primary is found), look-up of the name, connect, TLS, handshake (AUTH, SELECT, CLIENT SETNAME, ROLE, PING), bytes to
 * replies. What is sent over it and what the replies mean is the owner's; so is when to try again. */
#pragma once

#include "data/redis_parser.h"
#include "data/redis_url.h"
#include "net/names.h"
#include "net/stream.h"
#include "net/timer.h"

#define REDIS_LINK_MAGIC 0x4ed15010u

struct redis_sentinel;
struct redis_find;

/* Whom to talk to. Borrowed for the link's life. */
struct redis_target {
    struct loop *loop;
    struct names *names;
    const char *path;                /* Unix socket; NULL: TCP */
    struct redis_host at;            /* not with a sentinel */
    struct redis_sentinel *sentinel; /* asked at every start; then the server must say that it is the primary */
    struct tls_context *tls;         /* NULL: in clear */
    const struct redis_login *login;
    int db;
    uint32_t connect_ms; /* one attempt, without the asking of sentinels */
};

struct redis_link;
struct redis_link_events {
    void (*on_up)(struct redis_link *link);
    /* value borrowed for the call */
    void (*on_reply)(struct redis_link *link, const struct redis_value *value);
    /* Exactly once for each start, never from inside a call of the owner's: why the attempt failed or the connection
     * ended (ERR_UNAVAILABLE). The link may be started again, or freed. */
    void (*on_down)(struct redis_link *link, const struct err *err);
};

enum redis_link_state {
    LINK_DOWN,
    LINK_FINDING,    /* asks the sentinels */
    LINK_RESOLVING,  /* looks the name up */
    LINK_CONNECTING, /* and TLS */
    LINK_ENTERING,   /* handshake */
    LINK_UP,
    LINK_CLOSING /* on_down is to come */
};

struct redis_link { /* embed it; owners read state, at, up_ms and data_ms, the rest is redis_link.c's */
    unsigned magic;
    enum redis_link_state state;
    const struct redis_target *target;
    const struct redis_link_events *events;
    struct stream stream;
    bool stream_started; /* its on_close is to come */
    struct redis_parser *parser;
    struct redis_find *find;
    struct names_query *query;
    struct timer timer;
    struct loop_task down_task;
    struct redis_host at; /* where this connection goes */
    struct addr addrs[NAMES_MAX_ADDRS];
    size_t n_addrs, next_addr;
    uint8_t steps[5]; /* handshake replies expected, in order */
    uint8_t n_steps, step;
    uint64_t up_ms, data_ms; /* when it came up, when the last byte came */
    struct err err;          /* why it broke */
};

void redis_link_create(struct redis_link *link, const struct redis_target *target,
                       const struct redis_link_events *events);
void redis_link_start(struct redis_link *link); /* only while LINK_DOWN */
/* Only while up; a break is told by on_down. */
void redis_link_write(struct redis_link *link, struct slice bytes);
void redis_link_command(struct redis_link *link, const struct slice *argv, size_t argc);
/* Ends an attempt or a connection, if there is one; on_down follows with err. */
void redis_link_close(struct redis_link *link, const struct err *err);
static inline bool redis_link_is_up(const struct redis_link *link)
{
    return link->state == LINK_UP && stream_is_open(&link->stream);
}

/* How long to wait after so many failed attempts: doubling, jittered, so that workers do not come back in step. */
uint64_t redis_backoff_ms(unsigned failures, uint64_t max_ms);
/* Appends one command as RESP. */
void redis_format(struct buf *out, const struct slice *argv, size_t argc);
/* Appends only arguments, or only the head of a command with so many. */
void redis_format_args(struct buf *out, const struct slice *argv, size_t argc);
void redis_format_head(struct buf *out, size_t argc);
