/* Pages and cursors, from results made up here: no server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "data/pg_page.h"
#include "pg_made_up.h"

static struct pg_result *rows_of(int n_rows)
{
    struct pg_result *result = made_up_result(2, (const char *[]){"price", "name"}, (const uint32_t[]){23, 25});
    for (int row = 0; row < n_rows; row++) {
        char price[16], name[16];
        snprintf(price, sizeof(price), "%d", row * 10);
        snprintf(name, sizeof(name), "n%d", row);
        made_up_row(result, 2, (const char *[]){price, row == 7 ? NULL : name});
    }
    return result;
}

static struct pg_page page_of(int limit)
{
    return (struct pg_page){
        .limit = limit, .by = slice_of("price\0name\0", 11), .hide = slice_of("price\0", 6), .tag = SLICE("the tag")};
}

/* The page as text, and its cursor. */
static void write_page(int n_rows, int limit, char *text, size_t size, char *cursor)
{
    struct buf out = {0};
    struct err err;
    struct pg_page page = page_of(limit);
    struct pg_result *result = rows_of(n_rows);
    assert_int_equal(pg_page_write(result, &page, &out, &err), OK);
    snprintf(text, size, "%.*s", (int)out.len, out.ptr);
    const char *at = strstr(text, "\"next_cursor\":\"");
    cursor[0] = '\0';
    if (at)
        sscanf(at, "\"next_cursor\":\"%[^\"]", cursor);
    buf_free(&out);
    pg_result_free(result);
}

static void test_last_and_empty_pages(void **state)
{
    char text[512], cursor[256];
    (void)state;
    write_page(0, 2, text, sizeof(text), cursor);
    assert_string_equal(text, "{\"items\":[],\"next_cursor\":null}");
    write_page(2, 2, text, sizeof(text), cursor);
    assert_string_equal(text, "{\"items\":[{\"name\":\"n0\"},{\"name\":\"n1\"}],\"next_cursor\":null}");
}

static void test_cursor_holds_the_last_shown_row(void **state)
{
    char text[512], cursor[256];
    struct buf scratch = {0};
    struct slice values[2];
    (void)state;
    write_page(3, 2, text, sizeof(text), cursor);
    assert_null(strstr(text, "n2"));
    assert_true(pg_cursor_read(slice_str(cursor), SLICE("the tag"), values, 2, &scratch));
    assert_true(slice_eq(values[0], SLICE("10")) && slice_eq(values[1], SLICE("n1")));
    assert_false(pg_cursor_read(slice_str(cursor), SLICE("another"), values, 2, &scratch));
    assert_false(pg_cursor_read(slice_str(cursor), SLICE("the tag"), values, 1, &scratch));
    buf_free(&scratch);
}

static void test_damaged_cursors(void **state)
{
    char text[512], cursor[256];
    struct buf scratch = {0};
    struct slice values[2];
    (void)state;
    write_page(3, 2, text, sizeof(text), cursor);
    for (size_t len = 0; len < strlen(cursor); len++)
        assert_false(pg_cursor_read(slice_of(cursor, len), SLICE("the tag"), values, 2, &scratch));
    for (size_t i = 0; cursor[i]; i++) {
        char was = cursor[i];
        for (int c = 1; c < 256; c++) {
            cursor[i] = (char)c;
            if (cursor[i] != was)
                assert_false(pg_cursor_read(slice_str(cursor), SLICE("the tag"), values, 2, &scratch));
        }
        cursor[i] = was;
    }
    buf_free(&scratch);
}

static void test_null_and_absent_keys(void **state)
{
    struct buf out = {0};
    struct err err = {0};
    struct pg_page page = page_of(8);
    struct pg_result *result = rows_of(9);
    (void)state;
    assert_int_equal(pg_page_write(result, &page, &out, &err), ERR); /* row 7 has no name */
    assert_int_equal(err.code, ERR_INVALID);
    page.limit = 3;
    page.by = slice_of("absent\0", 7);
    assert_int_equal(pg_page_write(result, &page, &out, &err), ERR);
    page.by = page.hide;
    page.hide = slice_of("absent\0", 7);
    assert_int_equal(pg_page_write(result, &page, &out, &err), ERR);
    buf_free(&out);
    pg_result_free(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_last_and_empty_pages),
        cmocka_unit_test(test_cursor_holds_the_last_shown_row),
        cmocka_unit_test(test_damaged_cursors),
        cmocka_unit_test(test_null_and_absent_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
