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

static struct http_route route = {.method = HTTP_GET, .pattern = "/api/products/:slug"};

static struct http_request request(const char *path)
{
    struct http_request req = {.magic = HTTP_REQUEST_MAGIC,
                               .method = HTTP_GET,
                               .path = slice_str(path),
                               .route = &route,
                               .id = "req-1",
                               .ip = "10.0.0.1"};
    return req;
}

struct rig {
    int fds[2];
    struct loop *loop;
    struct access_log *log;
    char text[65536];
};

static void open_rig(struct rig *rig, bool is_json)
{
    assert_int_equal(pipe2(rig->fds, O_NONBLOCK), 0);
    rig->loop = loop_new();
    rig->log = access_log_new(&(struct access_log_opts){.loop = rig->loop, .fd = rig->fds[1], .is_json = is_json});
}

static void read_rig(struct rig *rig)
{
    ssize_t n = read(rig->fds[0], rig->text, sizeof(rig->text) - 1);
    rig->text[n > 0 ? n : 0] = '\0';
}

static void close_rig(struct rig *rig)
{
    access_log_free(rig->log);
    loop_free(rig->loop);
    close(rig->fds[0]);
    close(rig->fds[1]);
}

static void test_json_line(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/api/products/mug");
    open_rig(&rig, true);
    clock_fake(1000, 1796019556123);
    access_log_write(rig.log, &req, 200, 512, 1234);
    clock_fake(0, 0);
    read_rig(&rig);
    assert_string_equal(rig.text, ""); /* not before the turn ends */
    loop_turn(rig.loop, false);
    read_rig(&rig);
    const char *rest = strstr(rig.text, "\"level\"");
    assert_non_null(rest);
    assert_string_equal(rest,
                        "\"level\":\"info\",\"msg\":\"request\",\"method\":\"GET\",\"route\":\"/api/products/:slug\","
                        "\"status\":200,\"bytes\":512,\"ms\":1.234,\"id\":\"req-1\",\"ip\":\"10.0.0.1\"}\n");
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
    loop_turn(rig.loop, false);
    read_rig(&rig);
    assert_non_null(strstr(rig.text, "\"route\":null,\"status\":404,\"bytes\":0,\"ms\":0.007,"));
    close_rig(&rig);
}

static void test_text_line_hides_control_bytes(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/a\033[2Jb\n");
    open_rig(&rig, false);
    access_log_write(rig.log, &req, 200, 5, 1500);
    loop_turn(rig.loop, false);
    read_rig(&rig);
    assert_non_null(strstr(rig.text, " 200 GET    /a?[2Jb?  5 B  1.5 ms\n"));
    assert_null(strchr(rig.text, '\033'));
    close_rig(&rig);
}

static void test_what_is_left_is_written_at_the_end(void **state)
{
    (void)state;
    struct rig rig;
    struct http_request req = request("/x");
    open_rig(&rig, false);
    for (int i = 0; i < 300; i++)
        access_log_write(rig.log, &req, 200, 5, 1500);
    access_log_free(rig.log);
    read_rig(&rig);
    int n_lines = 0;
    for (const char *p = rig.text; (p = strchr(p, '\n')); p++)
        n_lines++;
    assert_int_equal(n_lines, 300);
    rig.log = NULL;
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_line),
        cmocka_unit_test(test_no_route),
        cmocka_unit_test(test_text_line_hides_control_bytes),
        cmocka_unit_test(test_what_is_left_is_written_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
