/* What the page shows of a source, and what it must not show. */
#include "script/error_page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const struct http_header headers[] = {
    {SLICE("Accept"), SLICE("text/html,*/*;q=0.8")},
    {SLICE("authorization"), SLICE("Bearer sesame")},
    {SLICE("Referer"), SLICE("<b>\"here\"</b>")},
};
static const struct http_route route = {.pattern = "/cart/:id", .origin = "shop.lua:4"};

static struct http_request request(void)
{
    return (struct http_request){.magic = HTTP_REQUEST_MAGIC,
                                 .method = HTTP_GET,
                                 .target = SLICE("/cart/1?x=<script>"),
                                 .headers = headers,
                                 .n_headers = ARRAY_LEN(headers),
                                 .route = &route,
                                 .id = "r1"};
}

/* In a directory of its own, with shop.lua of ten lines "line N". */
static int enter(void **state)
{
    char *dir = strdup("/tmp/error_page_XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    FILE *f = fopen("shop.lua", "w");
    for (int i = 1; i <= 10; i++)
        fprintf(f, "line %d & more\n", i);
    fclose(f);
    *state = dir;
    return 0;
}

static int leave(void **state)
{
    unlink("shop.lua");
    assert_int_equal(chdir("/"), 0);
    rmdir(*state);
    free(*state);
    return 0;
}

static char *render(const char *message, const char *trace)
{
    struct buf out = {0};
    struct http_request req = request();
    struct error_page page = {.title = "Lua error", .message = slice_str(message), .trace = trace, .req = &req};
    error_page_write(&page, &out);
    buf_byte(&out, '\0');
    return out.ptr;
}

static size_t occurrences(const char *text, const char *what)
{
    size_t n = 0;
    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static void test_shows_the_lines_around_each_frame(void **state)
{
    (void)state;
    char *page = render("shop.lua:7: boom", "stack traceback:\n\tshop.lua:2: in function <shop.lua:1>\n"
                                            "\tlua/chowk/routes.lua:9: in function 'run'\n\tshop.lua:7: in main chunk");
    assert_non_null(strstr(page, "<span class=here><i>7</i>line 7 &amp; more</span>"));
    assert_non_null(strstr(page, "<span class=here><i>2</i>line 2 &amp; more</span>"));
    assert_int_equal(occurrences(page, "<figure>"), 2); /* once each; not the library's, not a function's name */
    assert_int_equal(occurrences(page, "class=here"), 2);
    assert_null(strstr(page, "<i>11</i>"));
    free(page);
}

static void test_reads_nothing_outside_the_application(void **state)
{
    (void)state;
    FILE *f = fopen("/tmp/error_page_outside.lua", "w");
    fputs("top secret\n", f);
    fclose(f);
    char *page = render("/tmp/error_page_outside.lua:1: x ../error_page_outside.lua:1: y missing.lua:3: z", NULL);
    assert_null(strstr(page, "top secret"));
    assert_non_null(strstr(page, "<figcaption>missing.lua:3</figcaption></figure>"));
    unlink("/tmp/error_page_outside.lua");
    free(page);
}

static void test_escapes_and_masks(void **state)
{
    (void)state;
    char *page = render("bad <img src=x> & \"more\"", "trace <b>");
    assert_null(strstr(page, "<img"));
    assert_null(strstr(page, "<b>"));
    assert_null(strstr(page, "<script>"));
    assert_null(strstr(page, "sesame"));
    assert_non_null(strstr(page, "&lt;img src=x&gt; &amp; &quot;more&quot;"));
    free(page);
}

static void test_is_for_browsers(void **state)
{
    (void)state;
    struct http_request req = request();
    assert_true(error_page_is_wanted(&req));
    req.headers++;
    req.n_headers--;
    assert_false(error_page_is_wanted(&req));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_shows_the_lines_around_each_frame, enter, leave),
        cmocka_unit_test_setup_teardown(test_reads_nothing_outside_the_application, enter, leave),
        cmocka_unit_test(test_escapes_and_masks),
        cmocka_unit_test(test_is_for_browsers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
