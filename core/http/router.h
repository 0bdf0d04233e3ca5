/* Radix tree of routes, built once per generation, read-only afterwards.
 * Patterns: literal segments, `:name` (one segment), `*name` (the rest, may hold slashes, not empty).
 * Precedence at each segment: literal > :param > *splat, with backtracking, whatever the order of adding.
 * Matching is on the raw path split at '/'; each parameter is percent-decoded afterwards; a decoded NUL, bytes
 * that are not UTF-8, or an invalid escape, is no match (404). A trailing slash is significant. */
#pragma once

#include "base/arena.h"
#include "base/err.h"
#include "http/method.h"

#define HTTP_MAX_PARAMS 8

struct http_route { /* filled by the adder; router fills `params` */
    enum http_method method;
    const char *pattern;                  /* borrowed for the router's life */
    const char *origin;                   /* "lua/store/routes/orders.lua:42", for conflicts; borrowed */
    struct slice params[HTTP_MAX_PARAMS]; /* names, without ':' or '*' */
    size_t n_params;
    size_t max_body;      /* bytes; 0 = server default */
    uint32_t deadline_ms; /* 0 = server default */
    int handler;          /* opaque to http: the script layer's reference */
    unsigned metric;      /* opaque to http: its number in base/metrics.h */
    const char *summary;  /* one line for `chowk routes`; borrowed; NULL: none */
};

struct http_router;
struct http_router *http_router_new(void);
void http_router_free(struct http_router *router);
/* Takes a copy of *route. ERR: bad pattern, or the same shape and method twice: names both origins. */
enum status http_router_add(struct http_router *router, const struct http_route *route, struct err *err) MUST_CHECK;

struct http_match {
    const struct http_route *route;       /* NULL: none for this method */
    struct slice values[HTTP_MAX_PARAMS]; /* decoded; borrow from path or arena */
    unsigned allowed;                     /* bit set of 1 << http_method that the path has (HEAD and OPTIONS added) */
};
/* HEAD falls back to GET. No route and allowed == 0: 404; allowed != 0: 405 (or OPTIONS). */
void http_router_match(const struct http_router *router, enum http_method method, struct slice path,
                       struct arena *arena, struct http_match *out);
size_t http_router_count(const struct http_router *router);
const struct http_route *http_router_at(const struct http_router *router, size_t index); /* in order of adding */
