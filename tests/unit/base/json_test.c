/* The reader against tables of good and bad texts (json_cases.h). A text that is read is also written back from
 * the events, so that each row proves values and nesting, not only acceptance. */
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/json_cases.h"

/* ---- events written back as text ---- */

struct rewriter {
    struct buf out;
    int n_events, stop_at; /* stop_at: this event refuses; 0 = none */
};

static bool next_event(struct rewriter *w)
{
    return ++w->n_events != w->stop_at;
}

/* A comma where the last byte ends a value. */
static void separate(struct rewriter *w)
{
    char last = w->out.len ? w->out.ptr[w->out.len - 1] : '[';
    if (last != '[' && last != '{' && last != ':')
        buf_byte(&w->out, ',');
}

static bool on_null(void *data)
{
    struct rewriter *w = data;
    separate(w);
    buf_lit(&w->out, "null");
    return next_event(w);
}

static bool on_bool(void *data, bool value)
{
    struct rewriter *w = data;
    separate(w);
    buf_slice(&w->out, slice_str(value ? "true" : "false"));
    return next_event(w);
}

static bool on_number(void *data, double value)
{
    struct rewriter *w = data;
    separate(w);
    assert_int_equal(json_write_number(&w->out, value), OK);
    return next_event(w);
}

static bool on_string(void *data, struct slice value)
{
    struct rewriter *w = data;
    separate(w);
    json_write_string(&w->out, value);
    return next_event(w);
}

static bool on_key(void *data, struct slice name)
{
    struct rewriter *w = data;
    separate(w);
    json_write_string(&w->out, name);
    buf_byte(&w->out, ':');
    return next_event(w);
}

static bool on_object_begin(void *data)
{
    struct rewriter *w = data;
    separate(w);
    buf_byte(&w->out, '{');
    return next_event(w);
}

static bool on_array_begin(void *data)
{
    struct rewriter *w = data;
    separate(w);
    buf_byte(&w->out, '[');
    return next_event(w);
}

/* The counts are shown where they are not one: {"a":1,"b":2}2 */
static bool on_object_end(void *data, size_t n_members)
{
    struct rewriter *w = data;
    buf_byte(&w->out, '}');
    if (n_members > 1)
        buf_printf(&w->out, "%zu", n_members);
    return next_event(w);
}

static bool on_array_end(void *data, size_t n_items)
{
    struct rewriter *w = data;
    buf_byte(&w->out, ']');
    if (n_items > 1)
        buf_printf(&w->out, "%zu", n_items);
    return next_event(w);
}

static const struct json_events rewriting = {
    .on_null = on_null,
    .on_bool = on_bool,
    .on_number = on_number,
    .on_string = on_string,
    .on_key = on_key,
    .on_object_begin = on_object_begin,
    .on_object_end = on_object_end,
    .on_array_begin = on_array_begin,
    .on_array_end = on_array_end,
};

/* Reads from an exact heap copy, so that the sanitizer sees a byte too many. */
static enum status read_exactly(struct slice text, const struct json_limits *limits, const struct json_events *events,
                                void *data, struct err *err)
{
    struct arena arena;
    char *copy = try_alloc(text.len);
    assert_non_null(copy);
    if (text.len > 0)
        memcpy(copy, text.ptr, text.len);
    arena_create(&arena);
    enum status rc = json_read(slice_of(copy, text.len), limits, events, data, &arena, err);
    arena_destroy(&arena);
    free(copy);
    return rc;
}

static void assert_accepted(const struct accepted *row)
{
    struct rewriter w = {0};
    struct err err = {0};
    if (read_exactly(row->text, NULL, &rewriting, &w, &err) != OK)
        fail_msg("%.*s refused: %s", SLICE_FMT(row->text), err.message);
    struct slice want = row->rewritten ? slice_str(row->rewritten) : row->text;
    if (!slice_eq(buf_as_slice(&w.out), want))
        fail_msg("%.*s read as %.*s", SLICE_FMT(row->text), SLICE_FMT(buf_as_slice(&w.out)));
    buf_free(&w.out);
    assert_int_equal(read_exactly(row->text, NULL, NULL, NULL, &err), OK); /* and without anybody listening */
}

static void test_accepts(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(accepted_structures); i++)
        assert_accepted(&accepted_structures[i]);
    for (size_t i = 0; i < ARRAY_LEN(accepted_numbers); i++)
        assert_accepted(&accepted_numbers[i]);
    for (size_t i = 0; i < ARRAY_LEN(accepted_strings); i++)
        assert_accepted(&accepted_strings[i]);
}

static void assert_refused(const struct refused *row)
{
    struct err err = {0};
    struct rewriter w = {0};
    if (read_exactly(row->text, NULL, NULL, NULL, &err) != ERR)
        fail_msg("%.*s accepted", SLICE_FMT(row->text));
    assert_int_equal(err.code, ERR_INVALID);
    if (row->message)
        assert_string_equal(err.message, row->message);
    assert_int_equal(strncmp(err.message, "line ", 5), 0);
    struct err again = {0};
    assert_int_equal(read_exactly(row->text, NULL, &rewriting, &w, &again), ERR);
    assert_string_equal(again.message, err.message);
    buf_free(&w.out);
}

static void test_refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(refused_structures); i++)
        assert_refused(&refused_structures[i]);
    for (size_t i = 0; i < ARRAY_LEN(refused_numbers); i++)
        assert_refused(&refused_numbers[i]);
    for (size_t i = 0; i < ARRAY_LEN(refused_strings); i++)
        assert_refused(&refused_strings[i]);
    for (size_t i = 0; i < ARRAY_LEN(refused_duplicates); i++)
        assert_refused(&refused_duplicates[i]);
}

/* Every proper beginning of a document is refused, and every single changed byte ends one way or the other. */
static void test_cut_and_damaged(void **state)
{
    (void)state;
    static const char text[] = "{\"items\":[{\"sku\":\"A-1\",\"n\":2.5e1},null,true,false],\"e\":\"\\ud83d\\ude39"
                               "चाय\",\"o\":{\"a\":-0.5,\"b\":[]}}";
    char damaged[sizeof text];
    struct err err;
    assert_int_equal(read_exactly(slice_str(text), NULL, NULL, NULL, &err), OK);
    for (size_t len = 0; len < sizeof text - 1; len++)
        assert_int_equal(read_exactly(slice_of(text, len), NULL, NULL, NULL, &err), ERR);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        for (int byte = 0; byte < 256; byte++) {
            memcpy(damaged, text, sizeof text);
            damaged[i] = (char)byte;
            struct rewriter w = {0};
            enum status rc = read_exactly(slice_of(damaged, sizeof text - 1), NULL, &rewriting, &w, &err);
            assert_true(rc == OK || rc == ERR);
            buf_free(&w.out);
        }
    }
}

/* ---- limits ---- */

static enum status read_nested(size_t depth, size_t max_depth, const char *open, const char *close, struct err *err)
{
    const struct json_limits limits = {.max_depth = max_depth};
    struct buf text = {0};
    for (size_t i = 0; i < depth; i++)
        buf_slice(&text, slice_str(open));
    buf_byte(&text, '1');
    for (size_t i = 0; i < depth; i++)
        buf_slice(&text, slice_str(close));
    enum status rc = read_exactly(buf_as_slice(&text), &limits, NULL, NULL, err);
    buf_free(&text);
    return rc;
}

static void test_depth(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(read_nested(64, 0, "[", "]", &err), OK);
    assert_int_equal(read_nested(65, 0, "[", "]", &err), ERR);
    assert_string_equal(err.message, "line 1 column 65: nested too deeply");
    assert_int_equal(read_nested(3, 3, "{\"a\":", "}", &err), OK);
    assert_int_equal(read_nested(4, 3, "{\"a\":", "}", &err), ERR);
    assert_int_equal(read_nested(1, 1, "[", "]", &err), OK);
    assert_int_equal(read_nested(100000, 0, "[", "]", &err), ERR);
    /* No configuration can ask for the stack. */
    assert_int_equal(read_nested(1000000, SIZE_MAX, "{\"a\":", "}", &err), ERR);
    assert_int_equal(read_nested(1000, SIZE_MAX, "{\"a\":", "}", &err), OK);
    /* Depth is nesting, not the number of arrays. */
    struct buf text = {0};
    buf_byte(&text, '[');
    for (int i = 0; i < 200; i++)
        buf_lit(&text, "[{}],");
    buf_lit(&text, "0]");
    assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), OK);
    buf_free(&text);
}

/* An object of n names, "<prefix>0" …; the last is the name number `last` instead. */
static void put_object(struct buf *text, const char *prefix, int n, int last)
{
    buf_byte(text, '{');
    for (int i = 0; i < n; i++)
        buf_printf(text, "%s\"%s%d\":{\"x\":[%d]}", i ? "," : "", prefix, i == n - 1 ? last : i, i);
    buf_byte(text, '}');
}

static void test_key_caps(void **state)
{
    (void)state;
    struct err err;
    struct buf text = {0};
    put_object(&text, "k", 1024, 1023);
    assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), OK);
    buf_clear(&text);
    put_object(&text, "k", 1025, 1024);
    assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), ERR);
    assert_non_null(strstr(err.message, "too many names in one object"));
    const struct json_limits two = {.max_keys = 2};
    assert_int_equal(read_exactly(SLICE("{\"a\":{\"x\":1,\"y\":2},\"b\":3}"), &two, NULL, NULL, &err), OK);
    assert_int_equal(read_exactly(SLICE("{\"a\":1,\"b\":2,\"c\":3}"), &two, NULL, NULL, &err), ERR);
    const struct json_limits many = {.max_keys = 1000000};
    buf_clear(&text);
    put_object(&text, "k", 20000, 19999);
    assert_int_equal(read_exactly(buf_as_slice(&text), &many, NULL, NULL, &err), OK);
    buf_free(&text);
}

/* A duplicate of the first, a middle and the next-to-last name, for sizes around where the table of hashes
 * begins and grows, with plain names and with such as are unescaped; small and large objects in turn use
 * the same tables. */
static void test_duplicates_at_every_size(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"k", "\\u0905\\n"};
    struct err err;
    struct buf text = {0};
    for (int n = 2; n < 140; n++) {
        for (size_t p = 0; p < ARRAY_LEN(prefixes); p++) {
            buf_clear(&text);
            buf_byte(&text, '[');
            put_object(&text, "a", 200, 199);
            buf_byte(&text, ',');
            put_object(&text, prefixes[p], n, n - 1);
            buf_byte(&text, ',');
            size_t good = text.len;
            put_object(&text, prefixes[p], n, n - 1);
            buf_byte(&text, ']');
            assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), OK);
            const int twins[] = {0, n / 2 - 1, n - 2};
            for (size_t i = 0; i < ARRAY_LEN(twins); i++) {
                text.len = good;
                put_object(&text, prefixes[p], n, twins[i] < 0 ? 0 : twins[i]);
                buf_byte(&text, ']');
                assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), ERR);
                assert_non_null(strstr(err.message, "duplicate name"));
            }
        }
    }
    buf_free(&text);
}

static void test_number_length(void **state)
{
    (void)state;
    struct err err;
    struct buf text = {0};
    buf_lit(&text, "0.");
    for (int i = 0; i < 510; i++)
        buf_byte(&text, '3');
    assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), OK);
    buf_byte(&text, '3');
    assert_int_equal(read_exactly(buf_as_slice(&text), NULL, NULL, NULL, &err), ERR);
    assert_string_equal(err.message, "line 1 column 1: number too long");
    buf_free(&text);
}

/* ---- events ---- */

static void test_a_callback_stops_the_read(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[null,true,1,\"s\",{}]}";
    struct rewriter all = {0};
    struct err err = {.code = ERR_TIMEOUT, .message = "mine"};
    assert_int_equal(read_exactly(slice_str(text), NULL, &rewriting, &all, &err), OK);
    assert_int_equal(all.n_events, 11);
    buf_free(&all.out);
    for (int stop = 1; stop <= 11; stop++) {
        struct rewriter w = {.stop_at = stop};
        assert_int_equal(read_exactly(slice_str(text), NULL, &rewriting, &w, &err), ERR);
        assert_int_equal(w.n_events, stop);
        assert_int_equal(err.code, ERR_TIMEOUT); /* untouched: the reason is the callback's to give */
        assert_string_equal(err.message, "mine");
        buf_free(&w.out);
    }
}

static void test_some_callbacks(void **state)
{
    (void)state;
    const struct json_events strings_only = {.on_string = on_string};
    struct rewriter w = {0};
    struct err err;
    assert_int_equal(read_exactly(SLICE("{\"k\":[\"a\",1,null,{\"x\":\"b\\n\"}]}"), NULL, &strings_only, &w, &err), OK);
    assert_true(slice_eq(buf_as_slice(&w.out), SLICE("\"a\",\"b\\n\"")));
    buf_free(&w.out);
    assert_int_equal(read_exactly(SLICE("[1"), NULL, NULL, NULL, NULL), ERR); /* err may be NULL */
}

static void test_place_of_an_error(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(read_exactly(SLICE("{\n  \"a\": 1,\n  \"चाय\": x\n}"), NULL, NULL, NULL, &err), ERR);
    assert_string_equal(err.message, "line 3 column 10: value expected");
    assert_int_equal(read_exactly(SLICE("[1,\r\n2\r\n"), NULL, NULL, NULL, &err), ERR);
    assert_string_equal(err.message, "line 3 column 1: unexpected end");
}

/* A string with escapes of any length, so that the scratch grows at every boundary. */
static void test_long_strings(void **state)
{
    (void)state;
    struct err err;
    for (size_t len = 1; len < 1200; len += 7) {
        struct buf text = {0}, plain = {0};
        struct rewriter w = {0};
        for (size_t i = 0; i < len; i++)
            buf_byte(&plain, i % 11 == 3 ? '\n' : (char)('a' + i % 26));
        json_write_string(&text, buf_as_slice(&plain));
        assert_int_equal(read_exactly(buf_as_slice(&text), NULL, &rewriting, &w, &err), OK);
        assert_true(slice_eq(buf_as_slice(&w.out), buf_as_slice(&text)));
        buf_free(&text);
        buf_free(&plain);
        buf_free(&w.out);
    }
}

/* Every byte at every place of a string, around the widths in which strings are scanned: what ends it, what is refused
 * (and where), what stands for itself. */
static void test_every_byte_at_every_place(void **state)
{
    enum { LONGEST = 40 };
    (void)state;
    for (size_t len = 1; len <= LONGEST; len++) {
        for (size_t at = 0; at < len; at++) {
            for (unsigned c = 0; c < 256; c++) {
                char text[LONGEST + 4], want[64];
                struct err err = {0};
                memset(text, 'a', sizeof text);
                text[0] = text[len + 1] = '"';
                text[at + 1] = (char)c;
                bool is_plain = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
                enum status rc = read_exactly(slice_of(text, len + 2), NULL, NULL, NULL, &err);
                assert_int_equal(rc, is_plain ? OK : ERR);
                size_t place = at + 2 + (c == '"'); /* the byte after the early end */
                snprintf(want, sizeof want, "line 1 column %zu: ", place);
                if (!is_plain && c != '\\' && strncmp(err.message, want, strlen(want)) != 0)
                    fail_msg("byte %u at %zu of %zu: %s", c, at, len, err.message);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_at_every_place),
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_cut_and_damaged),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_key_caps),
        cmocka_unit_test(test_duplicates_at_every_size),
        cmocka_unit_test(test_number_length),
        cmocka_unit_test(test_a_callback_stops_the_read),
        cmocka_unit_test(test_some_callbacks),
        cmocka_unit_test(test_place_of_an_error),
        cmocka_unit_test(test_long_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
