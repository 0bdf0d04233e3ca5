#include "server/access_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/metrics.h"

static struct http_route route = {.method = HTTP_GET, .pattern = "/api/products/:slug"};

static struct http_request request(const char *path)
{
    struct http_request req = {.magic = HTTP_REQUEST_MAGIC,
                               .method = HTTP_GET,
                               .path = slice_str(path),
                               .query = SLICE("token=private"),
                               .route = &route,
                               .generation = SLICE("abc123"),
                               .id = "req-1",
                               .ip = "10.0.0.1"};
    return req;
}

struct rig {
    int fds[2];
    struct log_writer *writer;
    struct access_log *log;
    char text[65536];
};

static void open_rig(struct rig *rig, bool is_json)
{
    struct err err;
    assert_int_equal(pipe2(rig->fds, O_NONBLOCK), 0);
    rig->writer = log_writer_new(&(struct log_writer_opts){.fd = rig->fds[1], .max_bytes = 1 << 20}, &err);
    rig->log = access_log_new(&(struct access_log_opts){.writer = rig->writer, .is_json = is_json});
}

static void read_rig(struct rig *rig)
{
    assert_true(log_writer_drain(rig->writer, 20000));
    ssize_t n = read(rig->fds[0], rig->text, sizeof(rig->text) - 1);
    rig->text[n > 0 ? n : 0] = '\0';
}

static void close_rig(struct rig *rig)
{
    access_log_free(rig->log);
    log_writer_free(rig->writer, 20000);
    close(rig->fds[0]);
    close(rig->fds[1]);
}

static void test_json_line(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/api/products/mug");
    open_rig(&rig, true);
    req.waited_us[HTTP_WAIT_PG] = 5000;
    req.waited_us[HTTP_WAIT_PG_QUEUE] = 1000;
    req.waited_us[HTTP_WAIT_REDIS] = 200;
    req.waited_us[HTTP_WAIT_CALL] = 30;
    req.waited_us[HTTP_WAIT_OTHER] = 4;
    clock_fake(1000, 1796019556123);
    access_log_write(rig.log, &req, 200, 512, 7234);
    clock_fake(0, 0);
    read_rig(&rig);
    const char *rest = strstr(rig.text, "\"level\"");
    assert_non_null(rest);
    assert_string_equal(rest, "\"level\":\"info\",\"msg\":\"request\",\"request_id\":\"req-1\",\"method\":\"GET\","
                              "\"route\":\"/api/products/:slug\",\"generation\":\"abc123\",\"status\":200,"
                              "\"bytes\":512,\"ms\":7.234,\"lua_ms\":2.000,\"pg_ms\":4.000,\"redis_ms\":0.200,"
                              "\"http_ms\":0.030,\"wait_ms\":1.004,\"ip\":\"10.0.0.0\"}\n");
    struct arena arena;
    struct err err;
    arena_create(&arena);
    assert_int_equal(
        json_read(slice_of(rig.text, strlen(rig.text) - 1), NULL, &(struct json_events){0}, NULL, &arena, &err), OK);
    arena_destroy(&arena);
    close_rig(&rig);
}

static void test_no_route(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/nowhere");
    req.route = NULL;
    open_rig(&rig, true);
    access_log_write(rig.log, &req, 404, 0, 7);
    read_rig(&rig);
    assert_non_null(
        strstr(rig.text, "\"route\":null,\"generation\":\"abc123\",\"status\":404,\"bytes\":0,\"ms\":0.007,"));
    close_rig(&rig);
}

static void test_text_line_hides_control_bytes(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/a\033[2Jb\n");
    open_rig(&rig, false);
    access_log_write(rig.log, &req, 200, 5, 1500);
    read_rig(&rig);
    assert_non_null(strstr(rig.text, " 200 GET       1.5 ms       5 B  /a?[2Jb?\n"));
    assert_null(strchr(rig.text, '\033'));
    close_rig(&rig);
}

static void test_text_line_says_what_it_waited_for(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/x");
    open_rig(&rig, false);
    req.waited_us[HTTP_WAIT_PG] = 12345;
    req.waited_us[HTTP_WAIT_OTHER] = 100;
    req.waited_us[HTTP_WAIT_REDIS] = 99;
    access_log_write(rig.log, &req, 404, 123456, 2000000);
    read_rig(&rig);
    assert_non_null(strstr(rig.text, " 404 GET    2000.0 ms    123 kB  /x  waiting 0.1 ms, postgresql 12.3 ms\n"));
    close_rig(&rig);
}

static void test_colour_is_closed(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/x");
    open_rig(&rig, false);
    struct access_log *log = access_log_new(&(struct access_log_opts){.writer = rig.writer, .is_colour = true});
    req.waited_us[HTTP_WAIT_PG] = 1000;
    access_log_write(log, &req, 503, 1, 2000);
    read_rig(&rig);
    assert_non_null(
        strstr(rig.text, " \033[31m503\033[0m GET       2.0 ms       1 B  /x  \033[2mpostgresql 1.0 ms\033[0m\n"));
    access_log_free(log);
    close_rig(&rig);
}

/* Calls side by side may have waited longer, added up, than the request took. */
static void test_waits_side_by_side(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/x");
    open_rig(&rig, true);
    req.waited_us[HTTP_WAIT_PG] = 9000;
    req.waited_us[HTTP_WAIT_PG_QUEUE] = 10000;
    access_log_write(rig.log, &req, 200, 5, 3000);
    read_rig(&rig);
    assert_non_null(strstr(rig.text, "\"ms\":3.000,\"lua_ms\":0.000,\"pg_ms\":0.000,"));
    assert_non_null(strstr(rig.text, "\"wait_ms\":9.000,"));
    assert_null(strstr(rig.text, "private"));
    close_rig(&rig);
}

static void test_dropped_lines_are_counted(void **state)
{
    (void)state;
    struct rig rig;
    struct err err;
    struct http_request req = request("/x");
    open_rig(&rig, true);
    struct log_writer *tiny = log_writer_new(&(struct log_writer_opts){.fd = rig.fds[1], .max_bytes = 10}, &err);
    struct access_log *log = access_log_new(&(struct access_log_opts){.writer = tiny, .is_json = true});
    uint64_t before = metrics_sum(METRIC_LOG_DROPPED);
    access_log_write(log, &req, 200, 5, 1500);
    assert_int_equal(metrics_sum(METRIC_LOG_DROPPED) - before, 1);
    access_log_free(log);
    log_writer_free(tiny, 20000);
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_line),
        cmocka_unit_test(test_no_route),
        cmocka_unit_test(test_text_line_hides_control_bytes),
        cmocka_unit_test(test_text_line_says_what_it_waited_for),
        cmocka_unit_test(test_colour_is_closed),
        cmocka_unit_test(test_waits_side_by_side),
        cmocka_unit_test(test_dropped_lines_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
