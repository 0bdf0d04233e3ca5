#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "http/router.h"

static struct arena arena;
static struct http_router *router;

static int begin(void **state)
{
    (void)state;
    arena_create(&arena);
    router = http_router_new();
    return 0;
}

static int end(void **state)
{
    (void)state;
    http_router_free(router);
    arena_destroy(&arena);
    return 0;
}

static enum status add_at(enum http_method method, const char *pattern, const char *origin, struct err *err)
{
    struct http_route route = {.method = method, .pattern = pattern, .origin = origin};
    return http_router_add(router, &route, err);
}

static void add(enum http_method method, const char *pattern)
{
    struct err err = {.message = ""};
    if (add_at(method, pattern, "t.lua:1", &err) != OK)
        fail_msg("%s", err.message);
}

/* expected: "pattern" or "pattern value value…", or NULL for no route. */
static void check_method(enum http_method method, const char *path, const char *expected)
{
    struct http_match match;
    char got[256] = "";
    http_router_match(router, method, slice_str(path), &arena, &match);
    if (!match.route) {
        if (expected)
            fail_msg("%s: no route, expected %s", path, expected);
        return;
    }
    int len = snprintf(got, sizeof got, "%s", match.route->pattern);
    for (size_t i = 0; i < match.route->n_params; i++)
        len += snprintf(got + len, sizeof got - (size_t)len, " %.*s", SLICE_FMT(match.values[i]));
    assert_string_equal(got, expected ? expected : "(no route)");
}

static void check(const char *path, const char *expected)
{
    check_method(HTTP_GET, path, expected);
}

static unsigned allowed(enum http_method method, const char *path)
{
    struct http_match match;
    http_router_match(router, method, slice_str(path), &arena, &match);
    assert_null(match.route);
    return match.allowed;
}

static void test_literals(void **state)
{
    (void)state;
    add(HTTP_GET, "/");
    add(HTTP_GET, "/a");
    add(HTTP_GET, "/a/b");
    add(HTTP_GET, "/a/");
    add(HTTP_GET, "/orders:cancel");
    check("/", "/");
    check("/a", "/a");
    check("/a/b", "/a/b");
    check("/a/", "/a/");
    check("/orders:cancel", "/orders:cancel");
    const char *none[] = {"", "a", "/b", "/a/b/", "/a//b", "//", "/A", "/a/b/c", "/%61", "*"};
    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        check(none[i], NULL);
}

static void test_many_siblings(void **state)
{
    (void)state;
    static char patterns[200][32];
    for (int i = 0; i < 200; i++) {
        (void)snprintf(patterns[i], sizeof patterns[i], "/s%d/x", i * 7919 % 200);
        add(HTTP_GET, patterns[i]);
    }
    assert_int_equal(http_router_count(router), 200);
    for (int i = 0; i < 200; i++) {
        check(patterns[i], patterns[i]);
        assert_string_equal(http_router_at(router, (size_t)i)->pattern, patterns[i]);
    }
    check("/s200/x", NULL);
}

static void add_precedence(const char *const patterns[], size_t n, bool backwards)
{
    for (size_t i = 0; i < n; i++)
        add(HTTP_GET, patterns[backwards ? n - 1 - i : i]);
}

/* Literal > param > splat at each segment, with backtracking, in whatever order they were added. */
static void test_precedence(void **state)
{
    (void)state;
    static const char *const patterns[] = {"/p/*rest", "/p/:id", "/p/new", "/p/:id/edit", "/p/new/x", "/p/:a/:b/z"};
    for (int backwards = 0; backwards < 2; backwards++) {
        add_precedence(patterns, ARRAY_LEN(patterns), backwards);
        check("/p/new", "/p/new");
        check("/p/7", "/p/:id 7");
        check("/p/newer", "/p/:id newer");
        check("/p/new/edit", "/p/:id/edit new");
        check("/p/new/x", "/p/new/x");
        check("/p/new/y", "/p/*rest new/y");
        check("/p/new/x/z", "/p/:a/:b/z new x");
        check("/p/7/edit/", "/p/*rest 7/edit/");
        check("/p/a//b", "/p/*rest a//b");
        check("/p//", "/p/*rest /");
        check("/p/", NULL);
        check("/p", NULL);
        (void)end(NULL);
        (void)begin(NULL);
    }
}

static void test_params_are_decoded(void **state)
{
    (void)state;
    add(HTTP_GET, "/items/:id");
    add(HTTP_GET, "/files/*path");
    check("/items/a%2Fb", "/items/:id a/b");
    check("/items/a+b", "/items/:id a+b");
    check("/items/%00", NULL);
    check("/items/a%", NULL);
    check("/items/", NULL);
    check("/files/x/%79", "/files/*path x/y");
    assert_int_equal(allowed(HTTP_POST, "/items/%00") & 1u << HTTP_GET, 1u << HTTP_GET);
}

static void test_methods(void **state)
{
    (void)state;
    add(HTTP_GET, "/o/:id");
    add(HTTP_POST, "/o/new");
    add(HTTP_DELETE, "/o/:key");
    add(HTTP_HEAD, "/h");
    add(HTTP_OPTIONS, "/h");
    check_method(HTTP_HEAD, "/o/1", "/o/:id 1");
    check_method(HTTP_DELETE, "/o/1", "/o/:key 1");
    /* a more literal node without the method does not hide the param */
    check("/o/new", "/o/:id new");
    check_method(HTTP_POST, "/o/new", "/o/new");
    check_method(HTTP_HEAD, "/h", "/h");
    check_method(HTTP_OPTIONS, "/h", "/h");
    check("/h", NULL);
    unsigned get_head_options = 1u << HTTP_GET | 1u << HTTP_HEAD | 1u << HTTP_OPTIONS;
    assert_int_equal(allowed(HTTP_POST, "/o/1"), get_head_options | 1u << HTTP_DELETE);
    assert_int_equal(allowed(HTTP_PUT, "/o/new"), get_head_options | 1u << HTTP_DELETE | 1u << HTTP_POST);
    assert_int_equal(allowed(HTTP_OPTIONS, "/o/1"), get_head_options | 1u << HTTP_DELETE);
    assert_int_equal(allowed(HTTP_GET, "/nowhere"), 0);
}

static void test_conflicts_name_both(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(add_at(HTTP_GET, "/a/:id", "one.lua:10", &err), OK);
    assert_int_equal(add_at(HTTP_POST, "/a/:other", "two.lua:20", &err), OK);
    assert_int_equal(add_at(HTTP_GET, "/a/:other", "two.lua:21", &err), ERR);
    assert_string_equal(err.message, "two.lua:21: GET /a/:other conflicts with GET /a/:id at one.lua:10");
    assert_int_equal(add_at(HTTP_GET, "/a/*rest", "two.lua:22", &err), OK);
    assert_int_equal(add_at(HTTP_GET, "/a/*all", "two.lua:23", &err), ERR);
    assert_int_equal(http_router_count(router), 3);
}

static void test_bad_patterns(void **state)
{
    (void)state;
    const char *bad[] = {
        "",      "a",   "/a//b",  "/:",   "/*",   "/:a b",        "/:1a", "/:id.json",
        "/*a/b", "/a*", "/:a/:a", "/a?b", "/a#b", "/caf\xc3\xa9", "/a b", "/:a/:b/:c/:d/:e/:f/:g/:h/:i"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = {.message = ""};
        if (add_at(HTTP_GET, bad[i], "t.lua:3", &err) != ERR)
            fail_msg("accepted %s", bad[i]);
        assert_memory_equal(err.message, "t.lua:3: GET ", 13);
    }
    assert_int_equal(http_router_count(router), 0);
    add(HTTP_GET, "/:a/:b/:c/:d/:e/:f/:g/:h");
    check("/1/2/3/4/5/6/7/8", "/:a/:b/:c/:d/:e/:f/:g/:h 1 2 3 4 5 6 7 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_literals, begin, end),
        cmocka_unit_test_setup_teardown(test_many_siblings, begin, end),
        cmocka_unit_test_setup_teardown(test_precedence, begin, end),
        cmocka_unit_test_setup_teardown(test_params_are_decoded, begin, end),
        cmocka_unit_test_setup_teardown(test_methods, begin, end),
        cmocka_unit_test_setup_teardown(test_conflicts_name_both, begin, end),
        cmocka_unit_test_setup_teardown(test_bad_patterns, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
