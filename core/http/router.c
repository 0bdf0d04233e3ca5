/* The tree has one node per distinct segment shape. A node's literal children are an array sorted by length,
 * then bytes, so that a look-up is a few integer compares and one memcmp; beside them at most one `:param` and
 * one `*splat` child, whatever names the patterns give them (names belong to the route, not to the node).
 *
 * A match walks literal, then param, then splat at each segment and backtracks: the first node, in that order,
 * that has a route for the method wins; the methods of every node that fits the path are collected for Allow.
 * Backtracking is bounded by the pattern depth, not by the path: a segment can go at most three ways, and
 * only as deep as some pattern goes.
 *
 * A match allocates nothing but what a parameter needs to be decoded. The tree is read-only once built. */
#include "http/router.h"

#include <ctype.h>
#include <stdlib.h>

#include "http/uri.h"

struct node {
    struct slice literal; /* borrowed from the pattern; empty in the root, params and splats */
    struct node **kids;   /* literals, sorted; owned */
    size_t n_kids;
    struct node *param, *splat; /* owned */
    const struct http_route *routes[HTTP_N_METHODS];
    unsigned methods; /* bits of routes, HEAD added to GET */
};

struct http_router {
    struct node root;
    struct http_route **routes; /* in order of adding; owned one by one, so that they never move */
    size_t n_routes;
};

struct http_router *http_router_new(void)
{
    return xalloc(sizeof(struct http_router));
}

static void clear_node(struct node *node)
{
    for (size_t i = 0; i < node->n_kids; i++) {
        clear_node(node->kids[i]);
        free(node->kids[i]);
    }
    free(node->kids);
    if (node->param)
        clear_node(node->param);
    if (node->splat)
        clear_node(node->splat);
    free(node->param);
    free(node->splat);
}

void http_router_free(struct http_router *router)
{
    if (!router)
        return;
    clear_node(&router->root);
    for (size_t i = 0; i < router->n_routes; i++)
        free(router->routes[i]);
    free(router->routes);
    free(router);
}

/* ---- building ---------------------------------------------------------------------------------------- */

static int compare_literal(struct slice a, struct slice b)
{
    if (a.len != b.len)
        return a.len < b.len ? -1 : 1;
    return memcmp(a.ptr, b.ptr, a.len);
}

/* Index of the first child not before `literal`. */
static size_t find_slot(const struct node *node, struct slice literal)
{
    size_t low = 0, high = node->n_kids;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (compare_literal(node->kids[mid]->literal, literal) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct node *find_literal(const struct node *node, struct slice literal)
{
    size_t slot = find_slot(node, literal);
    if (slot < node->n_kids && slice_eq(node->kids[slot]->literal, literal))
        return node->kids[slot];
    return NULL;
}

static struct node *obtain_literal(struct node *node, struct slice literal)
{
    size_t slot = find_slot(node, literal);
    if (slot < node->n_kids && slice_eq(node->kids[slot]->literal, literal))
        return node->kids[slot];
    node->kids = xrealloc(node->kids, (node->n_kids + 1) * sizeof *node->kids);
    memmove(node->kids + slot + 1, node->kids + slot, (node->n_kids - slot) * sizeof *node->kids);
    node->n_kids++;
    node->kids[slot] = xalloc(sizeof(struct node));
    node->kids[slot]->literal = literal;
    return node->kids[slot];
}

static struct node *obtain_kid(struct node *node, struct slice segment)
{
    bool is_param = segment.len > 0 && segment.ptr[0] == ':';
    bool is_splat = segment.len > 0 && segment.ptr[0] == '*';
    if (!is_param && !is_splat)
        return obtain_literal(node, segment);
    struct node **kid = is_param ? &node->param : &node->splat;
    if (!*kid)
        *kid = xalloc(sizeof(struct node));
    return *kid;
}

/* Takes the text up to the next '/' off *rest; false when *rest was used up before. Empty segments count. */
static bool next_segment(struct slice *rest, struct slice *segment)
{
    if (!rest->ptr)
        return false;
    const char *slash = memchr(rest->ptr, '/', rest->len);
    segment->ptr = rest->ptr;
    segment->len = slash ? (size_t)(slash - rest->ptr) : rest->len;
    if (slash)
        *rest = slice_of(slash + 1, rest->len - segment->len - 1);
    else
        *rest = slice_of(NULL, 0);
    return true;
}

static bool is_name(struct slice name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        if (!isalpha((unsigned char)c) && c != '_' && (i == 0 || !isdigit((unsigned char)c)))
            return false;
    }
    return name.len > 0;
}

static const char *literal_fault(struct slice segment)
{
    for (size_t i = 0; i < segment.len; i++) {
        char c = segment.ptr[i];
        if (c <= ' ' || c > '~')
            return "write bytes other than visible ASCII percent-encoded";
        if (c == '?' || c == '#')
            return "a pattern is a path: no '?' and no '#'";
        if (c == '*')
            return "'*' may only begin the last segment";
    }
    return NULL;
}

/* Records a `:name` or `*name` in route->params. */
static const char *add_param(struct http_route *route, struct slice name)
{
    if (!is_name(name))
        return "a parameter is a whole segment, ':name' or '*name', of letters, digits and '_'";
    for (size_t i = 0; i < route->n_params; i++)
        if (slice_eq(route->params[i], name))
            return "two parameters have the same name";
    if (route->n_params == HTTP_MAX_PARAMS)
        return "more than 8 parameters";
    route->params[route->n_params++] = name;
    return NULL;
}

static const char *segment_fault(struct http_route *route, struct slice segment, bool is_last)
{
    if (segment.len == 0)
        return is_last ? NULL : "an empty segment ('//')";
    if (segment.ptr[0] != ':' && segment.ptr[0] != '*')
        return literal_fault(segment);
    if (segment.ptr[0] == '*' && !is_last)
        return "'*name' must be the last segment";
    return add_param(route, slice_of(segment.ptr + 1, segment.len - 1));
}

/* What is wrong with route->pattern, or NULL; fills route->params. */
static const char *pattern_fault(struct http_route *route)
{
    if (!route->pattern || route->pattern[0] != '/')
        return "a pattern begins with '/'";
    struct slice rest = slice_str(route->pattern + 1), segment;
    route->n_params = 0;
    while (next_segment(&rest, &segment)) {
        const char *fault = segment_fault(route, segment, !rest.ptr);
        if (fault)
            return fault;
    }
    return NULL;
}

static struct node *obtain_node(struct http_router *router, const char *pattern)
{
    struct node *node = &router->root;
    struct slice rest = slice_str(pattern + 1), segment;
    while (next_segment(&rest, &segment))
        node = obtain_kid(node, segment);
    return node;
}

static const char *origin_of(const struct http_route *route)
{
    return route->origin ? route->origin : "?";
}

enum status http_router_add(struct http_router *router, const struct http_route *route, struct err *err)
{
    CHECK((unsigned)route->method < HTTP_N_METHODS);
    struct http_route copy = *route;
    const char *method = http_method_name(route->method);
    const char *fault = pattern_fault(&copy);
    if (fault)
        return err_set(err, ERR_REFUSED, "%s: %s %s: %s", origin_of(route), method,
                       route->pattern ? route->pattern : "(no pattern)", fault);
    struct node *node = obtain_node(router, copy.pattern);
    const struct http_route *old = node->routes[copy.method];
    if (old)
        return err_set(err, ERR_REFUSED, "%s: %s %s conflicts with %s %s at %s", origin_of(route), method,
                       route->pattern, method, old->pattern, origin_of(old));
    struct http_route *owned = xalloc(sizeof *owned);
    *owned = copy;
    router->routes = xrealloc(router->routes, (router->n_routes + 1) * sizeof *router->routes);
    router->routes[router->n_routes++] = owned;
    node->routes[copy.method] = owned;
    node->methods |= 1u << copy.method;
    if (copy.method == HTTP_GET)
        node->methods |= 1u << HTTP_HEAD;
    return OK;
}

/* ---- matching ---------------------------------------------------------------------------------------- */

struct walk {
    enum http_method method;
    struct slice raw[HTTP_MAX_PARAMS]; /* of the branch being tried */
    size_t n_raw;
    struct slice won[HTTP_MAX_PARAMS]; /* of the route found */
    const struct http_route *route;
    unsigned allowed;
};

static void visit(struct walk *walk, const struct node *node)
{
    walk->allowed |= node->methods;
    if (walk->route)
        return;
    walk->route = node->routes[walk->method];
    if (!walk->route && walk->method == HTTP_HEAD)
        walk->route = node->routes[HTTP_GET];
    if (walk->route)
        memcpy(walk->won, walk->raw, sizeof walk->won);
}

/* The route is decided, but only Allow is of interest when there is none: stop early once found. */
static void walk_node(struct walk *walk, const struct node *node, struct slice rest)
{
    struct slice whole = rest, segment;
    if (!next_segment(&rest, &segment)) {
        visit(walk, node);
        return;
    }
    const struct node *literal = find_literal(node, segment);
    if (literal)
        walk_node(walk, literal, rest);
    if (!walk->route && node->param && segment.len > 0) {
        walk->raw[walk->n_raw++] = segment;
        walk_node(walk, node->param, rest);
        walk->n_raw--;
    }
    if (!walk->route && node->splat && whole.len > 0) {
        walk->raw[walk->n_raw++] = whole;
        visit(walk, node->splat);
        walk->n_raw--;
    }
}

void http_router_match(const struct http_router *router, enum http_method method, struct slice path,
                       struct arena *arena, struct http_match *out)
{
    out->route = NULL;
    out->allowed = 0;
    if (path.len == 0 || path.ptr[0] != '/')
        return;
    struct walk walk = {.method = method};
    walk_node(&walk, &router->root, slice_of(path.ptr + 1, path.len - 1));
    size_t n_params = walk.route ? walk.route->n_params : 0;
    for (size_t i = 0; i < n_params; i++)
        if (http_uri_decode(walk.won[i], false, arena, &out->values[i]) != OK)
            return;
    out->route = walk.route;
    out->allowed = walk.allowed ? walk.allowed | 1u << HTTP_OPTIONS : 0;
}

size_t http_router_count(const struct http_router *router)
{
    return router->n_routes;
}

const struct http_route *http_router_at(const struct http_router *router, size_t index)
{
    CHECK(index < router->n_routes);
    return router->routes[index];
}
