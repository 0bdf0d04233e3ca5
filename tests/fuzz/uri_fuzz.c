/* http/uri.h and the matching of http/router.h: what is decoded is UTF-8 and, encoded again, decodes to the same; a
 * query is used up pair by pair and means the same when it is written out again; a parameter of a route is its segment.
 */
#include "fuzz.h"

#include "http/router.h"
#include "http/uri.h"

static void encode(struct slice text, struct buf *out)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == 0) /* %00 is refused, a bare zero byte is not */
            buf_byte(out, (char)c);
        else
            buf_printf(out, "%%%02X", c);
    }
}

static void check_decode(struct slice text, bool plus)
{
    struct arena arena;
    struct slice out = SLICE("untouched"), again;
    struct buf encoded = {0};
    arena_create(&arena);
    if (http_uri_decode(text, plus, &arena, &out) == OK) {
        CHECK(out.len <= text.len && fuzz_is_utf8(out));
        encode(out, &encoded);
        CHECK(http_uri_decode(buf_as_slice(&encoded), !plus, &arena, &again) == OK && slice_eq(out, again));
    } else {
        CHECK(slice_eq(out, SLICE("untouched")) && (memchr(text.ptr, '%', text.len) || !fuzz_is_utf8(text)));
    }
    buf_free(&encoded);
    arena_destroy(&arena);
}

/* False: an invalid escape. `pairs` tells what was read, `plain` is the query written out again. */
static bool read_pairs(struct slice query, struct buf *pairs, struct buf *plain)
{
    struct arena arena;
    struct slice rest = query, name, value;
    enum status status;
    arena_create(&arena);
    for (size_t before = rest.len; (status = http_uri_next_pair(&rest, &arena, &name, &value)) == OK;
         before = rest.len) {
        CHECK(rest.len < before && fuzz_is_within(rest, query));
        fuzz_trace(pairs, 'n', name);
        fuzz_trace(pairs, 'v', value);
        encode(name, plain);
        buf_byte(plain, '=');
        encode(value, plain);
        buf_byte(plain, '&');
    }
    CHECK(status != AGAIN || rest.len == 0);
    arena_destroy(&arena);
    return status == AGAIN;
}

static void check_pairs(struct slice query)
{
    struct buf pairs = {0}, plain = {0}, pairs_again = {0}, plain_again = {0};
    if (read_pairs(query, &pairs, &plain)) {
        CHECK(read_pairs(buf_as_slice(&plain), &pairs_again, &plain_again));
        CHECK(fuzz_same(&pairs, &pairs_again) && fuzz_same(&plain, &plain_again));
    }
    buf_free(&pairs);
    buf_free(&plain);
    buf_free(&pairs_again);
    buf_free(&plain_again);
}

enum { ROUTE_LITERAL, ROUTE_PARAM, ROUTE_TWO, ROUTE_SPLAT };

static struct http_router *router_build(void)
{
    static const char *const patterns[] = {"/a/b", "/a/:x", "/a/:x/:y", "/:first/*rest"};
    struct http_router *router = http_router_new();
    for (int i = 0; i < (int)ARRAY_LEN(patterns); i++) {
        struct http_route route = {.method = HTTP_GET, .pattern = patterns[i], .origin = "fuzz", .handler = i};
        CHECK(http_router_add(router, &route, NULL) == OK);
    }
    return router;
}

static void check_match(struct slice path)
{
    static struct http_router *router;
    struct http_match match, other;
    struct arena arena;
    if (!router)
        router = router_build();
    arena_create(&arena);
    http_router_match(router, HTTP_GET, path, &arena, &match);
    http_router_match(router, HTTP_POST, path, &arena, &other);
    /* An invalid escape is no match, but the path is there for the other methods' 405. */
    CHECK(!other.route && (!match.route || (match.allowed != 0 && match.allowed == other.allowed)));
    CHECK(match.route || other.allowed == 0 || memchr(path.ptr, '%', path.len) || !fuzz_is_utf8(path));
    if (match.route && match.route->handler == ROUTE_LITERAL)
        CHECK(slice_eq(path, SLICE("/a/b")));
    for (size_t i = 0; match.route && i < match.route->n_params; i++) {
        CHECK(match.values[i].len <= path.len);
        CHECK(match.route->handler != ROUTE_SPLAT || i == 0 || match.values[i].len > 0);
    }
    arena_destroy(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    check_decode(text, false);
    check_decode(text, true);
    check_pairs(text);
    check_match(text);
    CHECK(arena_live() == 0);
    return 0;
}
