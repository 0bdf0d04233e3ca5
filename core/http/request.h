/* One request as the script layer sees it. Lives in its connection from the end of its header section to the
 * end of its answer; everything it points to is in `arena`, which dies with it. */
#pragma once

#include "base/arena.h"
#include "http/router.h"
#include "net/addr.h"

#define HTTP_REQUEST_MAGIC 0x4874e901u

struct http_header {
    struct slice name;  /* as sent; compare with slice_ieq */
    struct slice value; /* trimmed */
};

/* What a request waited for, as the script layer counts it if it is asked to. */
enum http_wait {
    HTTP_WAIT_OTHER, /* its body, a queue, a sleep, a client that reads slowly */
    HTTP_WAIT_PG,
    HTTP_WAIT_PG_QUEUE, /* the part of it before there was a connection */
    HTTP_WAIT_REDIS,
    HTTP_WAIT_CALL, /* calls out over HTTP */
    HTTP_N_WAITS
};

struct http_request {
    unsigned magic;
    struct arena *arena;
    enum http_method method;
    struct slice target, path, query; /* raw; query without '?' */
    struct slice host;
    const struct http_header *headers;
    size_t n_headers;
    struct slice body;              /* whole and byte-exact; empty if none */
    const struct http_route *route; /* never NULL in a handler */
    struct slice generation;        /* hash of the code that answers it; empty: none */
    struct slice params[HTTP_MAX_PARAMS];
    char id[37];            /* X-Request-Id: the client's if well-formed, else ours */
    char ip[ADDR_TEXT_MAX]; /* of the socket's peer */
    bool is_http10, is_head;
    uint64_t started_ms, deadline_ms; /* loop_now based */
    uint64_t waited_us[HTTP_N_WAITS];
    struct slice fields; /* whole header lines ("Name: value\r\n") that go with whatever answers this; in the arena */

    /* For the handler's owner (script layer). `on_gone` is called at most once if the client goes away (reset,
     * write error) or the server drops the connection, before an answer was sent; afterwards http_respond and
     * http_stream_* are no-ops, but must still be called once to end the request. */
    void *owner;
    void (*on_gone)(struct http_request *req);
};

/* What owns an activity (script/co.h), as a request; NULL if it is none. Whatever owns one begins with its magic. */
struct http_request *http_request_of(void *owner);
/* First header of that name, or {NULL,0}. */
struct slice http_request_header(const struct http_request *req, struct slice name);
