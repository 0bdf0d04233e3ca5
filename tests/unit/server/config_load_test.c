#include "server/config_load.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/config_lines.h"

static char home[] = "/tmp/chowk-config-XXXXXX";

static int enter(void **state)
{
    (void)state;
    return mkdtemp(home) && chdir(home) == 0 && mkdir("conf", 0755) == 0 ? 0 : -1;
}

static int leave(void **state)
{
    (void)state;
    unlink("conf/chowk.lua");
    unlink("secret");
    rmdir("conf");
    return chdir("/") == 0 && rmdir(home) == 0 ? 0 : -1;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static struct config *load(const char *text)
{
    struct err err = {0};
    write_file("conf/chowk.lua", text);
    struct config *config = config_load(&(struct config_overrides){.development = true, .source = "test"}, &err);
    if (!config)
        fail_msg("%s", err.message);
    return config;
}

static void assert_error(const char *text, const char *message)
{
    struct err err = {0};
    write_file("conf/chowk.lua", text);
    struct config *config = config_load(&(struct config_overrides){.development = true, .source = "test"}, &err);
    assert_null(config);
    assert_string_equal(err.message, message);
}

static void test_a_whole_file(void **state)
{
    (void)state;
    write_file("secret", "whsec\n");
    setenv("CHOWK_TEST_NAME", "from outside", 1);
    struct config *config =
        load("local shared = 2\n"
             "return {\n"
             "  listen = '127.0.0.1:9', workers = shared * 2,\n"
             "  pg = { url = env('CHOWK_TEST_NONE', 'postgresql://h/d'), pool_size = 40 },\n"
             "  ['http.max_body'] = '2MiB', http = { deadline = '10s', max_line = 4096 },\n"
             "  log = { access = false },\n"
             "  razorpay = { webhook_secrets = { file('secret'), 'old' } },\n"
             "  settings = { name = env('CHOWK_TEST_NAME'), n = 1.5, list = { 1, 2 }, none = {} },\n"
             "}\n");
    assert_int_equal(config_workers(config), 4);
    assert_string_equal(config_text(config, CONFIG_PG_URL), "postgresql://h/d");
    assert_int_equal(config_number(config, CONFIG_HTTP_MAX_BODY), 2 << 20);
    assert_int_equal(config_number(config, CONFIG_HTTP_DEADLINE), 10000);
    assert_int_equal(config_number(config, CONFIG_HTTP_MAX_LINE), 4096);
    assert_int_equal(config_number(config, CONFIG_LOG_ACCESS), 0);
    const struct config_value *secrets = &config->values[CONFIG_RAZORPAY_WEBHOOK_SECRETS];
    assert_int_equal(secrets->n_items, 2);
    assert_string_equal(secrets->items[0], "whsec");
    assert_non_null(strstr(config_text(config, CONFIG_SETTINGS), "\"name\":\"from outside\""));
    assert_non_null(strstr(config_text(config, CONFIG_SETTINGS), "\"list\":[1,2]"));
    assert_int_equal(config->values[CONFIG_HTTP_DEADLINE].line, 5);
    struct buf where = {0};
    config_where(config, CONFIG_PG_POOL_SIZE, &where);
    assert_memory_equal(where.ptr, "conf/chowk.lua:4", where.len);
    buf_free(&where);
    config_free(config);
}

static void test_no_file_is_fine(void **state)
{
    (void)state;
    struct err err = {0};
    unlink("conf/chowk.lua");
    struct config *config = config_load(&(struct config_overrides){0}, &err);
    assert_non_null(config);
    assert_false(config_is_development(config));
    config_free(config);
}

static void test_bad_values_name_their_line(void **state)
{
    (void)state;
    assert_error("return {\n  workers = 1,\n  pg = {\n    pool_size = 'ten',\n  },\n}\n",
                 "conf/chowk.lua:4: pg.pool_size: expected 1..1000, got \"ten\"");
    assert_error("-- pg.pool_size = 1\nreturn { --[[ pg = {\n pool_size = 3 ]]\n ['pg.pool_size'] = 0 }\n",
                 "conf/chowk.lua:4: pg.pool_size: expected 1..1000, got 0");
    assert_error("local c = { pg = {} }\n\nc.pg.pool_size = true\nreturn c\n",
                 "conf/chowk.lua:3: pg.pool_size: expected 1..1000, got true");
    assert_error("return { drain = {} }\n",
                 "conf/chowk.lua:1: drain: expected a duration such as \"30s\" within 0..1h, got a table");
    assert_error("return {\n razorpay = { webhook_secrets = { 'a', 5 } } }\n",
                 "conf/chowk.lua:2: razorpay.webhook_secrets: expected a list of strings, got something else in it");
    assert_error("return { settings = 'x' }\n", "conf/chowk.lua:1: settings: expected a table, got \"x\"");
}

static void test_the_first_mistake_is_told(void **state)
{
    (void)state;
    assert_error("return {\n drain = 1,\n workers = 'a',\n typo = 2,\n}\n",
                 "conf/chowk.lua:2: drain: expected a duration such as \"30s\" within 0..1h, got 1 (and 2 more)");
}

static void test_unknown_keys(void **state)
{
    (void)state;
    assert_error("return {\n  pg = { pol_size = 5 },\n}\n",
                 "conf/chowk.lua:2: pg.pol_size: unknown key; did you mean pg.pool_size?");
    assert_error("return { colour_of_the_moon = 1 }\n",
                 "conf/chowk.lua:1: colour_of_the_moon: unknown key; an application's own settings belong into "
                 "settings = { … }");
    assert_error("return { listen = ':1', 'stray' }\n", "conf/chowk.lua: expected names as keys of the returned table");
}

static void test_lua_errors(void **state)
{
    (void)state;
    assert_error("return {\n  workers = ,\n}\n", "conf/chowk.lua:2: unexpected symbol near ','");
    assert_error("\n\nreturn 5\n", "conf/chowk.lua: must return a table, got number");
    assert_error("return {\n x = file('no/such') }\n", "conf/chowk.lua:2: file: no/such: No such file or directory");
    assert_error("\nerror('refused', 0)\n", "refused");
    assert_error("\nos.exit(3)\n", "conf/chowk.lua:2: attempt to index global 'os' (a nil value)");
    assert_error("return { settings = { f = function() end } }\n",
                 "conf/chowk.lua:1: settings: f: a function has no JSON form");
}

static int line_of(const char *source, const char *name)
{
    return config_lines_find(slice_str(source), name);
}

static void test_lines(void **state)
{
    (void)state;
    assert_int_equal(line_of("return {\na = 1.5,\nb = { c = 2 } }", "b.c"), 3);
    assert_int_equal(line_of("return {\na = { b = 1 },\nb = 2 }", "b"), 3);
    assert_int_equal(line_of("return { a = [[\n b = 1 ]],\n b = 2 }", "b"), 3);
    assert_int_equal(line_of("return { a = \"\\\"b = {\",\n b = 2 }", "b"), 2);
    assert_int_equal(line_of("return { a = x == y,\n b = x .. 'q' .. z,\n c = 2 }", "c"), 3);
    assert_int_equal(line_of("local pg = {\n url = 1 }\nreturn { pg = pg }", "pg.url"), 2);
    assert_int_equal(line_of("local c = {}\nc['pg'].url = 1\nreturn c", "pg.url"), 2);
    assert_int_equal(line_of("return { a = { 1, { 2 } },\n b = { x = { y = 1 }, } }", "b.x.y"), 2);
    assert_int_equal(line_of("return {}", "b"), 0);
    assert_int_equal(line_of("return { a = '", "b"), 0);
    assert_int_equal(line_of("--[==[ b = 1\n]] ]==] return {\nb = 1}", "b"), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_file),
        cmocka_unit_test(test_no_file_is_fine),
        cmocka_unit_test(test_bad_values_name_their_line),
        cmocka_unit_test(test_the_first_mistake_is_told),
        cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_lua_errors),
        cmocka_unit_test(test_lines),
    };
    static const char *const variables[] = {"PORT",
                                            "DATABASE_URL",
                                            "REDIS_URL",
                                            "CHOWK_RUN_DIR",
                                            "RAZORPAY_KEY_ID",
                                            "RAZORPAY_KEY_SECRET",
                                            "RAZORPAY_WEBHOOK_SECRET"};
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        unsetenv(variables[i]);
    return cmocka_run_group_tests(tests, enter, leave);
}
