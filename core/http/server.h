/* HTTP/1.1 server on one listener of one worker: owns its connections, their limits and timeouts.
 * Routing happens at the end of the header section (so that max_body is the route's); the handler is called
 * when the whole body is there. Requests on one connection are handled one after the other; pipelined bytes
 * wait in the connection's bounded buffer. */
#pragma once

#include "http/client_ip.h"
#include "http/close.h"
#include "http/response.h"
#include "net/listener.h"
#include "net/loop.h"

struct http_limits {
    size_t max_line, max_header_bytes, max_headers, max_body;                       /* 8 KiB, 16 KiB, 100, 1 MiB */
    uint32_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms; /* 10 s, 30 s, 75 s, 30 s */
    uint32_t deadline_ms;   /* 30 s: of a request, unless its route says otherwise */
    size_t max_connections; /* accepts pause at this many; 65536 */
};                          /* 0 = the default named here */

struct http_server;
/* Called once per request; must end it exactly once with response.h. */
typedef void (*http_handler_fn)(void *data, struct http_request *req);
/* Called after every answer, for the access log: req is still whole, req->route is NULL if there was none.
 * bytes = body bytes sent; status 499 if the client went away first. Requests refused before their head could be
 * read are only counted (http_server_closes). */
typedef void (*http_log_fn)(void *data, const struct http_request *req, int status, size_t bytes, uint64_t us);

struct http_server_opts {
    struct loop *loop;
    struct http_limits limits;
    struct http_trust trust;          /* whose word counts for who the client is */
    bool speaks_proxy;                /* every connection begins with a PROXY greeting from a trusted peer */
    const struct http_router *router; /* borrowed; swapped by http_server_set_router at a reload */
    struct slice generation;          /* hash of the code it leads to; borrowed with it; empty: none */
    bool shows_generation;            /* in X-Chowk-Generation */
    /* Called before each request is routed: the last moment for http_server_set_router. May be NULL. */
    void (*before_route)(void *data);
    http_handler_fn handler;
    http_log_fn log; /* may be NULL */
    void *data;
};

struct http_server *http_server_new(const struct http_server_opts *opts);
/* Requests that no handler has seen yet, because their body still arrives, are routed anew: the old router is only
 * used by what its handlers hold. */
void http_server_set_router(struct http_server *server, const struct http_router *router, struct slice generation);
/* Adds a listening descriptor (borrowed) to accept from. */
void http_server_listen(struct http_server *server, int fd);
/* Accepts from it no more; what was accepted stays. Safe when it is not among them. */
void http_server_unlisten(struct http_server *server, int fd);
/* Stops accepting; in-flight requests are answered with Connection: close; idle connections are kept for
 * `grace_ms` and still served, then closed (FACTS 10.11). on_drained fires once when none is left. */
void http_server_drain(struct http_server *server, uint32_t grace_ms, void (*on_drained)(void *data), void *data);
void http_server_free(struct http_server *server); /* cuts what is left; memory goes at the end of the turn */

struct http_stats {
    size_t connections, idle, in_flight;
    uint64_t requests, responses_5xx;
};
void http_server_stats(const struct http_server *server, struct http_stats *out);
/* How many connections ended, or were refused, for that reason. */
uint64_t http_server_closes(const struct http_server *server, enum http_close why);
