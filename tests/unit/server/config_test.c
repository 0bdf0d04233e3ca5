#include "server/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "server/config_dump.h"
#include "server/config_json.h"
#include "server/config_units.h"

static struct config_input from_file(int kind, const char *text)
{
    struct config_input input = {.text = slice_str(text), .origin = CONFIG_FROM_FILE, .line = 7};
    input.kind = kind;
    return input;
}

static void assert_refused(enum config_key key, int kind, const char *text, const char *message)
{
    struct config *config = config_new();
    struct err err = {0};
    struct config_input input = from_file(kind, text);
    assert_int_equal(config_set(config, key, &input, &err), ERR);
    assert_string_equal(err.message, message);
    assert_false(config_is_set(config, key));
    config_free(config);
}

static void test_bad_values_say_what_was_expected(void **state)
{
    (void)state;
    assert_refused(CONFIG_PG_POOL_SIZE, CONFIG_IN_STRING, "ten", "pg.pool_size: expected 1..1000, got \"ten\"");
    assert_refused(CONFIG_PG_POOL_SIZE, CONFIG_IN_STRING, "10", "pg.pool_size: expected 1..1000, got \"10\"");
    assert_refused(CONFIG_PG_POOL_SIZE, CONFIG_IN_NUMBER, "1001", "pg.pool_size: expected 1..1000, got 1001");
    assert_refused(CONFIG_PG_POOL_SIZE, CONFIG_IN_NUMBER, "1.5", "pg.pool_size: expected 1..1000, got 1.5");
    assert_refused(CONFIG_DRAIN, CONFIG_IN_NUMBER, "30",
                   "drain: expected a duration such as \"30s\" within 0..1h, got 30");
    assert_refused(CONFIG_DRAIN, CONFIG_IN_STRING, "2h",
                   "drain: expected a duration such as \"30s\" within 0..1h, got \"2h\"");
    assert_refused(CONFIG_HTTP_MAX_BODY, CONFIG_IN_STRING, "1 MB",
                   "http.max_body: expected a size such as \"1MiB\" within 0..1GiB, got \"1 MB\"");
    assert_refused(CONFIG_LOG_ACCESS, CONFIG_IN_STRING, "true", "log.access: expected true or false, got \"true\"");
    assert_refused(CONFIG_LOG_FORMAT, CONFIG_IN_STRING, "xml",
                   "log.format: expected \"json\" or \"text\", got \"xml\"");
    assert_refused(CONFIG_LISTEN, CONFIG_IN_NUMBER, "8080", "listen: expected a string, got 8080");
    assert_refused(CONFIG_RAZORPAY_WEBHOOK_SECRETS, CONFIG_IN_NUMBER, "1",
                   "razorpay.webhook_secrets: expected a list of strings, got 1");
    assert_refused(CONFIG_PG_URL, CONFIG_IN_STRING, "mysql://u:hunter2@h/d",
                   "pg.url: expected a URL starting with \"postgresql://\" or \"postgres://\", got another string");
}

static struct config *finished(bool development)
{
    struct config *config = config_new();
    struct err err = {0};
    if (development)
        assert_int_equal(config_set_command(config, CONFIG_ENVIRONMENT, "development", "test", &err), OK);
    assert_int_equal(config_finish(config, &err), OK);
    return config;
}

static void test_defaults(void **state)
{
    (void)state;
    struct config *config = finished(false);
    assert_string_equal(config_text(config, CONFIG_LISTEN), "127.0.0.1:8080");
    assert_int_equal(config_number(config, CONFIG_STOP_LAME_DUCK), 5000);
    assert_int_equal(config_number(config, CONFIG_HTTP_MAX_BODY), 1 << 20);
    assert_string_equal(config_text(config, CONFIG_LOG_FORMAT), "json");
    assert_false(config_is_set(config, CONFIG_RAZORPAY_KEY_SECRET));
    assert_false(config_is_set(config, CONFIG_PG_URL));
    assert_true(config_workers(config) >= 1);
    config_free(config);

    config = finished(true);
    assert_int_equal(config_number(config, CONFIG_STOP_LAME_DUCK), 0);
    assert_string_equal(config_text(config, CONFIG_LOG_FORMAT), "text");
    assert_string_equal(config_text(config, CONFIG_RAZORPAY_KEY_SECRET), "development_key_secret");
    assert_int_equal(config->values[CONFIG_RAZORPAY_WEBHOOK_SECRETS].n_items, 1);
    assert_string_equal(config_text(config, CONFIG_PAYMENTS_CONFIRM), "signature");
    assert_int_equal(config_workers(config), 2);
    config_free(config);
}

/* ---- environment ---- */

static const char *fake_env[8][2];

static const char *get_fake(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(fake_env) && fake_env[i][0]; i++)
        if (strcmp(fake_env[i][0], name) == 0)
            return fake_env[i][1];
    return NULL;
}

static void fake(size_t i, const char *name, const char *value)
{
    memset(&fake_env[i], 0, sizeof(fake_env) - i * sizeof(fake_env[0]));
    fake_env[i][0] = name;
    fake_env[i][1] = value;
}

static void test_environment_is_over_the_file(void **state)
{
    (void)state;
    struct config *config = config_new();
    struct err err = {0};
    struct config_input input = from_file(CONFIG_IN_STRING, "postgresql://file/db");
    assert_int_equal(config_set(config, CONFIG_PG_URL, &input, &err), OK);
    fake(0, "DATABASE_URL", "postgresql://env/db");
    fake(1, "RAZORPAY_WEBHOOK_SECRET", "current, previous");
    fake(2, "REDIS_URL", "");
    fake(3, "PORT", "9000");
    assert_int_equal(config_set_env(config, get_fake, &err), OK);
    assert_string_equal(config_text(config, CONFIG_PG_URL), "postgresql://env/db");
    assert_false(config_is_set(config, CONFIG_REDIS_URL));
    assert_string_equal(config_text(config, CONFIG_LISTEN), "127.0.0.1:9000");
    const struct config_value *secrets = &config->values[CONFIG_RAZORPAY_WEBHOOK_SECRETS];
    assert_int_equal(secrets->n_items, 2);
    assert_string_equal(secrets->items[0], "current");
    assert_string_equal(secrets->items[1], "previous");
    config_free(config);
}

static void assert_port(const char *listen, const char *port, const char *expected)
{
    struct config *config = config_new();
    struct err err = {0};
    struct config_input input = from_file(CONFIG_IN_STRING, listen);
    assert_int_equal(config_set(config, CONFIG_LISTEN, &input, &err), OK);
    fake(0, "PORT", port);
    assert_int_equal(config_set_env(config, get_fake, &err), OK);
    assert_string_equal(config_text(config, CONFIG_LISTEN), expected);
    config_free(config);
}

static void test_port(void **state)
{
    (void)state;
    assert_port("0.0.0.0:80", "81", "0.0.0.0:81");
    assert_port("[::1]:80", "81", "[::1]:81");
    assert_port(":80", "0", ":0");
    assert_port("unix:/tmp/x.sock", "81", "127.0.0.1:81");

    struct config *config = config_new();
    struct err err = {0};
    fake(0, "PORT", "http");
    assert_int_equal(config_set_env(config, get_fake, &err), ERR);
    assert_string_equal(err.message, "PORT: expected 0..65535, got \"http\"");
    fake(0, "REDIS_URL", "localhost");
    assert_int_equal(config_set_env(config, get_fake, &err), ERR);
    assert_non_null(strstr(err.message, "environment variable REDIS_URL: redis.url: expected a URL"));
    config_free(config);
}

/* ---- rules between keys ---- */

static void assert_not_finished(enum config_key key, const char *text, const char *message)
{
    struct config *config = config_new();
    struct err err = {0};
    struct config_input input = from_file(CONFIG_IN_STRING, text);
    assert_int_equal(config_set(config, key, &input, &err), OK);
    assert_int_equal(config_finish(config, &err), ERR);
    assert_non_null(strstr(err.message, message));
    config_free(config);
}

static void test_production_refuses_development_secrets(void **state)
{
    (void)state;
    assert_not_finished(CONFIG_RAZORPAY_KEY_SECRET, "development_key_secret",
                        "conf/chowk.lua:7: razorpay.key_secret: the development value is refused in production");
    assert_not_finished(CONFIG_RAZORPAY_KEY_ID, "rzp_test_development", "razorpay.key_id: the development value");
    assert_not_finished(CONFIG_RAZORPAY_WEBHOOK_SECRETS, "real,development_webhook_secret",
                        "razorpay.webhook_secrets: the development value");
    assert_not_finished(CONFIG_LISTEN, "nowhere", "conf/chowk.lua:7: listen: ");
}

static void set_number(struct config *config, enum config_key key, const char *text)
{
    struct err err = {0};
    struct config_input input = from_file(CONFIG_IN_NUMBER, text);
    assert_int_equal(config_set(config, key, &input, &err), OK);
}

static void test_pg_share(void **state)
{
    (void)state;
    struct config_pg_share share;
    struct err err = {0};
    struct config *config = config_new();
    assert_int_equal(config_pg_share(config, 2, &share, &err), OK);
    assert_int_equal(share.read, 2);
    assert_int_equal(share.write, 8);
    assert_int_equal(share.tx, 20);
    assert_int_equal(config_pg_share(config, 1, &share, &err), OK);
    assert_int_equal(share.tx, 24); /* more would not commit faster */
    assert_int_equal(config_pg_share(config, 4, &share, &err), OK);
    assert_int_equal(share.read + share.write + share.tx, 15); /* 60 of PostgreSQL's 100 */
    assert_int_equal(config_pg_share(config, 200, &share, &err), OK);
    assert_int_equal(share.read + share.write + share.tx, 3);

    set_number(config, CONFIG_PG_POOL_SIZE, "24");
    assert_int_equal(config_pg_share(config, 2, &share, &err), OK);
    assert_int_equal(share.read + share.write + share.tx, 12);
    assert_true(share.tx >= 6);
    assert_int_equal(config_pg_share(config, 8, &share, &err), OK);
    assert_int_equal(share.read, 1);
    assert_int_equal(share.write, 1);
    assert_int_equal(share.tx, 1);
    assert_int_equal(config_pg_share(config, 9, &share, &err), ERR);
    assert_string_equal(err.message, "24 connections for 9 workers are too few: a worker needs 3");

    set_number(config, CONFIG_PG_TX_CONNECTIONS, "20");
    assert_int_equal(config_pg_share(config, 2, &share, &err), ERR);
    config_free(config);
}

static void test_names(void **state)
{
    (void)state;
    enum config_key key;
    assert_true(config_find(SLICE("http.max_body"), &key));
    assert_int_equal(key, CONFIG_HTTP_MAX_BODY);
    assert_false(config_find(SLICE("http"), &key));
    assert_true(slice_eq(config_suggest(SLICE("pg.pool_sise")), SLICE("pg.pool_size")));
    assert_true(slice_eq(config_suggest(SLICE("worker")), SLICE("workers")));
    assert_true(slice_eq(config_suggest(SLICE("max_body")), SLICE("http.max_body")));
    assert_true(slice_eq(config_suggest(SLICE("limits")), SLICE("limit")));
    assert_int_equal(config_suggest(SLICE("colour_of_the_moon")).len, 0);
}

/* ---- units ---- */

static void assert_duration(const char *text, int64_t ms)
{
    int64_t out = -1;
    assert_true(duration_parse(slice_str(text), &out));
    assert_int_equal(out, ms);
}

static void test_units(void **state)
{
    (void)state;
    int64_t out = -1;
    assert_duration("200ms", 200);
    assert_duration("30s", 30000);
    assert_duration("5m", 300000);
    assert_duration("6h", 21600000);
    assert_duration("0", 0);
    const char *const bad[] = {
        "", "s", "30", "-1s", "1.5s", "30 s", "30S", "99999999999999999999s", "9223372036854775d"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(duration_parse(slice_str(bad[i]), &out));
    assert_true(size_parse(SLICE("64KiB"), &out));
    assert_int_equal(out, 65536);
    assert_true(size_parse(SLICE("100"), &out));
    assert_int_equal(out, 100);
    assert_false(size_parse(SLICE("1MB"), &out));

    struct buf text = {0};
    duration_format(90000, &text);
    buf_byte(&text, ' ');
    duration_format(60000, &text);
    buf_byte(&text, ' ');
    size_format(1 << 20, &text);
    buf_byte(&text, ' ');
    size_format(0, &text);
    assert_memory_equal(text.ptr, "90s 1m 1MiB 0", text.len);
    buf_free(&text);
}

/* ---- snapshot and dump ---- */

static struct config *example(void)
{
    struct config *config = config_new();
    struct err err = {0};
    struct config_input settings =
        from_file(CONFIG_IN_OTHER, "{\"shop\":{\"name\":\"A \\\"b\\\"\",\"api_token\":\"t0p\"},"
                                   "\"rates\":[1,2.5],\"pg.url\":\"no key of ours\"}");
    assert_int_equal(config_set(config, CONFIG_SETTINGS, &settings, &err), OK);
    assert_int_equal(config_set_command(config, CONFIG_PG_URL, "postgresql://u:hunter2@h:5432/d?x=1", "test", &err),
                     OK);
    assert_int_equal(config_set_command(config, CONFIG_RAZORPAY_KEY_SECRET, "s3cret", "test", &err), OK);
    assert_int_equal(config_set_command(config, CONFIG_RAZORPAY_WEBHOOK_SECRETS, "w1,w2", "test", &err), OK);
    assert_int_equal(config_finish(config, &err), OK);
    return config;
}

static void test_snapshot_round_trip(void **state)
{
    (void)state;
    struct config *config = example();
    struct buf json = {0};
    struct err err = {0};
    config_write_json(config, &json);
    struct config *copy = config_read_json(buf_as_slice(&json), &err);
    assert_non_null(copy);
    assert_non_null(memmem(json.ptr, json.len, "\"redis.url\":null", 16));
    assert_string_equal(config_text(copy, CONFIG_PG_URL), "postgresql://u:hunter2@h:5432/d?x=1");
    assert_int_equal(config_number(copy, CONFIG_DRAIN), 30000);
    assert_int_equal(config_number(copy, CONFIG_LOG_ACCESS), 1);
    assert_int_equal(copy->values[CONFIG_RAZORPAY_WEBHOOK_SECRETS].n_items, 2);
    assert_false(config_is_set(copy, CONFIG_REDIS_URL));
    assert_int_equal(config_workers(copy), config_workers(config));
    config_free(copy);
    config_free(config);
    buf_free(&json);
}

static void test_snapshot_of_another_version_is_refused(void **state)
{
    (void)state;
    struct err err = {0};
    assert_null(config_read_json(SLICE("{\"listen\":5}"), &err));
    assert_null(config_read_json(SLICE("{\"no.such.key\":5}"), &err));
    assert_null(config_read_json(SLICE("{"), &err));
    assert_non_null(strstr(err.message, "configuration snapshot: "));
}

static void test_dump_masks(void **state)
{
    (void)state;
    struct config *config = example();
    struct buf text = {0};
    config_dump(config, &text);
    buf_byte(&text, '\0');
    const char *const secrets[] = {"hunter2", "s3cret", "w1", "w2", "t0p"};
    for (size_t i = 0; i < ARRAY_LEN(secrets); i++)
        assert_null(strstr(text.ptr, secrets[i]));
    assert_non_null(strstr(text.ptr, "postgresql://u:********@h:5432/d?x=1"));
    assert_non_null(strstr(text.ptr, "settings.shop.name"));
    assert_non_null(strstr(text.ptr, "settings.rates"));
    assert_non_null(strstr(text.ptr, "30s"));
    buf_free(&text);
    config_free(config);
}

static void test_mask_of_urls(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"postgresql://u:p@ss@h/d", "postgresql://u:********@h/d"},
        {"postgresql://u@h/d", "postgresql://u@h/d"},
        {"postgresql:///d?host=/tmp&password=x&user=y", "postgresql:///d?host=/tmp&password=********&user=y"},
        {"postgresql://h/d?application_name=a@b:c", "postgresql://h/d?application_name=a@b:c"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config *config = config_new();
        struct buf text = {0};
        struct err err = {0};
        assert_int_equal(config_set_command(config, CONFIG_PG_URL, cases[i][0], "test", &err), OK);
        config_mask(config, CONFIG_PG_URL, &text);
        buf_byte(&text, '\0');
        assert_string_equal(text.ptr, cases[i][1]);
        buf_free(&text);
        config_free(config);
    }
}

static void test_every_key_is_documented(void **state)
{
    (void)state;
    struct buf text = {0};
    config_dump_keys(&text);
    buf_byte(&text, '\0');
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        assert_non_null(strstr(text.ptr, config_keys[key].name));
        assert_true(strlen(config_keys[key].help) > 10);
        assert_false((config_keys[key].flags & CONFIG_DEVELOPMENT_ONLY) && !config_keys[key].development_fallback);
    }
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_values_say_what_was_expected),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_environment_is_over_the_file),
        cmocka_unit_test(test_port),
        cmocka_unit_test(test_production_refuses_development_secrets),
        cmocka_unit_test(test_pg_share),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_snapshot_round_trip),
        cmocka_unit_test(test_snapshot_of_another_version_is_refused),
        cmocka_unit_test(test_dump_masks),
        cmocka_unit_test(test_mask_of_urls),
        cmocka_unit_test(test_every_key_is_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
