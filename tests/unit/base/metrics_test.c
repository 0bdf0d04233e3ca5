#include "base/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/metrics_text.h"
#include "base/shm.h"

static int fd;

static int setup(void **state)
{
    (void)state;
    struct err err;
    fd = metrics_segment_create(2, 4, &err);
    return fd < 0;
}

static int teardown(void **state)
{
    (void)state;
    metrics_close();
    close(fd);
    return 0;
}

static void open_as(const char *name)
{
    struct err err = {0};
    assert_int_equal(metrics_open(fd, name, &err), OK);
}

static char *text_of(enum metrics_format format)
{
    static char text[1 << 17];
    struct buf out = {0};
    metrics_write(&out, format);
    metrics_write_end(&out, format);
    assert_true(out.len < sizeof text);
    memcpy(text, out.ptr, out.len);
    text[out.len] = '\0';
    buf_free(&out);
    return text;
}

/* Runs fn in a process of its own, which dies without a goodbye. */
static void in_child(const char *name, void (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        struct err err;
        if (metrics_open(fd, name, &err) != OK)
            _exit(1);
        fn();
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void test_counts_before_and_after_a_segment(void **state)
{
    (void)state;
    metrics_add(METRIC_LUA_ERRORS, 3); /* private memory */
    metrics_request(metrics_route("GET", "/private"), 200, 10);
    open_as("worker 0");
    assert_int_equal(metrics_sum(METRIC_LUA_ERRORS), 0);
    metrics_add(METRIC_LUA_ERRORS, 2);
    assert_int_equal(metrics_sum(METRIC_LUA_ERRORS), 2);
    assert_null(strstr(text_of(METRICS_PROMETHEUS), "/private"));
}

static void count_some(void)
{
    metrics_add(METRIC_SEQ_NUMBERS, 5);
    metrics_set(METRIC_HTTP_IDLE, 7);
    metrics_add_to(metrics_labelled(METRIC_HTTP_CLOSED, "reason=\"x\""), 2);
    metrics_request(metrics_route("GET", "/a"), 200, 6000);
}

static void test_counters_outlive_a_killed_process(void **state)
{
    (void)state;
    in_child("worker 0", count_some);
    in_child("worker 0", count_some);
    open_as("master");
    assert_int_equal(metrics_sum(METRIC_HTTP_IDLE), 0); /* a gauge of the dead is none */
    assert_int_equal(metrics_sum(METRIC_SEQ_NUMBERS), 10);
    const char *text = text_of(METRICS_PROMETHEUS);
    assert_non_null(strstr(text, "http_connections_closed_total{reason=\"x\"} 4\n"));
    assert_non_null(strstr(text, "http_requests_total{method=\"GET\",route=\"/a\",status=\"2xx\"} 2\n"));
    assert_non_null(strstr(text, "_bucket{method=\"GET\",route=\"/a\",le=\"0.005\"} 0\n"));
    assert_non_null(strstr(text, "_bucket{method=\"GET\",route=\"/a\",le=\"0.01\"} 2\n"));
    assert_non_null(strstr(text, "_bucket{method=\"GET\",route=\"/a\",le=\"+Inf\"} 2\n"));
    assert_non_null(strstr(text, "_sum{method=\"GET\",route=\"/a\"} 0.012\n"));
    struct metrics_process processes[8];
    assert_int_equal(metrics_processes(processes, 8), 1);
    assert_string_equal(processes[0].name, "master");
}

static void test_sums_over_processes(void **state)
{
    (void)state;
    int up[2], down[2];
    char byte;
    assert_int_equal(pipe(up) + pipe(down), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct err err;
        if (metrics_open(fd, "worker 1", &err) == OK)
            count_some();
        if (write(up[1], "x", 1) != 1 || read(down[0], &byte, 1) != 1)
            _exit(2);
        _exit(0);
    }
    assert_int_equal(read(up[0], &byte, 1), 1);
    open_as("worker 0");
    count_some();
    metrics_set(METRIC_HTTP_IDLE, 1);
    assert_int_equal(metrics_sum(METRIC_SEQ_NUMBERS), 10);
    assert_int_equal(metrics_sum(METRIC_HTTP_IDLE), 8);
    metrics_bury(pid); /* by the number alone: it may be another's by now, and live */
    assert_int_equal(metrics_sum(METRIC_HTTP_IDLE), 1);
    metrics_bury(getpid() + 1);
    assert_int_equal(metrics_sum(METRIC_HTTP_IDLE), 1);
    assert_int_equal(write(down[1], "x", 1), 1);
    waitpid(pid, NULL, 0);
    for (int i = 0; i < 2; i++)
        close(up[i]), close(down[i]);
}

static void test_a_full_segment_refuses(void **state)
{
    (void)state;
    pid_t pids[4];
    int hold[2];
    assert_int_equal(pipe(hold), 0);
    for (int i = 0; i < 4; i++) {
        int ready[2];
        char byte, name[32];
        assert_int_equal(pipe(ready), 0);
        snprintf(name, sizeof name, "worker %d", i);
        pids[i] = fork();
        if (pids[i] == 0) {
            struct err err;
            close(hold[1]);
            byte = metrics_open(fd, name, &err) == OK ? 'y' : 'n';
            if (write(ready[1], &byte, 1) == 1 && read(hold[0], &byte, 1) == 0)
                _exit(0);
            _exit(1);
        }
        assert_int_equal(read(ready[0], &byte, 1), 1);
        assert_int_equal(byte, 'y');
        close(ready[0]);
        close(ready[1]);
    }
    struct err err = {0};
    assert_int_equal(metrics_open(fd, "worker 4", &err), ERR);
    assert_non_null(strstr(err.message, "every slot is taken"));
    metrics_add(METRIC_SEQ_NUMBERS, 1); /* into private memory */
    close(hold[1]);
    for (int i = 0; i < 4; i++)
        waitpid(pids[i], NULL, 0);
    close(hold[0]);
    open_as("worker 4");
    assert_int_equal(metrics_sum(METRIC_SEQ_NUMBERS), 0);
}

static void test_routes_are_capped(void **state)
{
    (void)state;
    char pattern[32];
    open_as("worker 0");
    for (int i = 0; i < 4; i++) {
        snprintf(pattern, sizeof pattern, "/%d", i);
        assert_int_not_equal(metrics_route("GET", pattern), 0);
    }
    assert_int_equal(metrics_route("GET", "/4"), 0);
    assert_int_not_equal(metrics_route("GET", "/2"), 0);
    assert_int_not_equal(metrics_route("GET", METRICS_UNROUTED), 0); /* always */
    metrics_request(0, 503, 1);
    assert_non_null(strstr(text_of(METRICS_PROMETHEUS),
                           "http_requests_total{method=\"other\",route=\"other\",status=\"5xx\"} 1\n"));
}

static void test_an_inherited_segment_keeps_its_routes(void **state)
{
    (void)state;
    struct err err;
    open_as("worker 0");
    metrics_request(metrics_route("GET", "/kept"), 200, 1);
    shm_offer(dup(fd));
    int heir = metrics_segment_create(2, 4, &err);
    shm_offer_end();
    assert_non_null(strstr(text_of(METRICS_PROMETHEUS), "route=\"/kept\""));
    close(heir);
}

/* Code comes and goes: what only old code had makes room, what is in use keeps its numbers. */
static void test_routes_of_old_code_make_room(void **state)
{
    (void)state;
    unsigned old[4], kept = 0;
    char pattern[32];
    open_as("worker 0");
    for (int i = 0; i < 4; i++) {
        snprintf(pattern, sizeof pattern, "/old/%d", i);
        old[i] = metrics_route("GET", pattern);
        metrics_request(old[i], 200, 6000);
    }
    for (int generation = 0; generation < 50; generation++) {
        kept = metrics_route("GET", "/old/0"); /* new code has it too, beside the old one */
        assert_int_equal(kept, old[0]);
        snprintf(pattern, sizeof pattern, "/new/%d", generation);
        assert_int_equal(metrics_route("GET", pattern), 0); /* all four are in use */
        metrics_route_leave(0);
        for (int i = 0; i < 4; i++)
            metrics_route_leave(old[i]);
        old[0] = kept;
        for (int i = 1; i < 4; i++) {
            snprintf(pattern, sizeof pattern, "/%d/%d", generation, i);
            old[i] = metrics_route("GET", pattern);
            assert_int_not_equal(old[i], 0);
            assert_int_not_equal(old[i], kept);
            metrics_request(old[i], 404, 1);
        }
    }
    metrics_request(kept, 200, 6000);
    const char *shown = text_of(METRICS_PROMETHEUS);
    assert_non_null(strstr(shown, "http_requests_total{method=\"GET\",route=\"/old/0\",status=\"2xx\"} 2\n"));
    assert_non_null(strstr(shown, "http_requests_total{method=\"GET\",route=\"/49/3\",status=\"4xx\"} 1\n"));
    assert_non_null(strstr(shown, "http_request_duration_seconds_count{method=\"GET\",route=\"/49/3\"} 1\n"));
    assert_null(strstr(shown, "/old/1"));
    assert_null(strstr(shown, "/48/"));
}

/* A route that comes back before its place is needed goes on counting. */
static void test_a_route_comes_back(void **state)
{
    (void)state;
    open_as("worker 0");
    unsigned route = metrics_route("GET", "/a");
    metrics_request(route, 200, 1);
    metrics_route_leave(route);
    metrics_route_leave(metrics_route("GET", "/b"));
    assert_int_equal(metrics_route("GET", "/a"), route);
    metrics_request(route, 200, 1);
    assert_non_null(
        strstr(text_of(METRICS_PROMETHEUS), "http_requests_total{method=\"GET\",route=\"/a\",status=\"2xx\"} 2\n"));
}

static void test_long_patterns_and_labels_are_bounded(void **state)
{
    (void)state;
    char long_text[400];
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    open_as("worker 0");
    unsigned route = metrics_route("GET", long_text);
    assert_int_not_equal(route, 0);
    assert_int_equal(metrics_route("GET", long_text), route);
    metrics_add_to(metrics_labelled(METRIC_HTTP_CLOSED, long_text), 3);
    assert_int_equal(metrics_sum(METRIC_METRICS_DROPPED), 3);
    for (int i = 0; i < 300; i++) {
        char labels[32];
        snprintf(labels, sizeof labels, "reason=\"%d\"", i);
        metrics_add_to(metrics_labelled(METRIC_HTTP_CLOSED, labels), 1);
    }
    assert_int_equal(metrics_sum(METRIC_METRICS_DROPPED), 3 + 300 - 256);
}

static void test_samples_add_only_what_is_new(void **state)
{
    (void)state;
    uint64_t last = 0;
    open_as("worker 0");
    struct metrics_cell *cell = metrics_labelled(METRIC_HTTP_CLOSED, "reason=\"y\"");
    uint64_t before = metrics_sum(METRIC_PG_QUERIES);
    metrics_sample(METRIC_PG_QUERIES, 10);
    metrics_sample(METRIC_PG_QUERIES, 10);
    metrics_sample(METRIC_PG_QUERIES, 14);
    assert_int_equal(metrics_sum(METRIC_PG_QUERIES) - before, 14);
    metrics_sample_to(cell, &last, 3);
    metrics_sample_to(cell, &last, 5);
    assert_non_null(strstr(text_of(METRICS_PROMETHEUS), "{reason=\"y\"} 5\n"));
}

static void test_labels_are_escaped(void **state)
{
    (void)state;
    struct buf labels = {0};
    metrics_label(&labels, "a", SLICE("x\"y\\z\nw"));
    metrics_label(&labels, "b", SLICE(""));
    buf_byte(&labels, '\0');
    assert_string_equal(labels.ptr, "a=\"x\\\"y\\\\z\\nw\",b=\"\"");
    buf_free(&labels);
    open_as("worker 0");
    metrics_request(metrics_route("GET", "/we\"ird\\"), 200, 1);
    assert_non_null(strstr(text_of(METRICS_PROMETHEUS), "route=\"/we\\\"ird\\\\\",status=\"2xx\"} 1\n"));
}

static void test_openmetrics(void **state)
{
    (void)state;
    open_as("worker 0");
    metrics_request(metrics_route("GET", "/a"), 200, 1500000);
    const char *text = text_of(METRICS_OPENMETRICS);
    assert_non_null(strstr(text, "# TYPE http_requests counter\n"));
    assert_non_null(strstr(text, "http_requests_total{method=\"GET\",route=\"/a\",status=\"2xx\"} 1\n"));
    assert_non_null(strstr(text, "le=\"1.0\"} 0\n"));
    assert_non_null(strstr(text, "le=\"2.5\"} 1\n"));
    assert_string_equal(text + strlen(text) - 6, "# EOF\n");
    assert_null(strstr(text_of(METRICS_PROMETHEUS), "# EOF"));
}

static void test_quantiles(void **state)
{
    (void)state;
    open_as("worker 0");
    unsigned route = metrics_route("GET", "/q");
    struct metrics_latency before = {0}, now = {0};
    struct metrics_process process;
    assert_int_equal(metrics_processes(&process, 1), 1);
    metrics_latency_of(process.slot, &before);
    assert_int_equal(metrics_latency_quantile(&(struct metrics_latency){0}, 0.5), 0);
    for (uint64_t us = 1; us <= 1000; us++)
        metrics_request(route, 200, us);
    metrics_request(route, 200, 3600000000u); /* an hour: the last bucket */
    metrics_latency_of(process.slot, &now);
    for (int i = 0; i < METRICS_LATENCY_BUCKETS; i++)
        now.buckets[i] -= before.buckets[i];
    assert_int_equal(metrics_latency_count(&now), 1001);
    uint64_t p50 = metrics_latency_quantile(&now, 0.5), p99 = metrics_latency_quantile(&now, 0.99);
    assert_in_range(p50, 500, 640);
    assert_in_range(p99, 990, 1280);
    assert_true(metrics_latency_quantile(&now, 1) > 100000000);
}

static void test_refuses_what_is_no_segment(void **state)
{
    (void)state;
    struct err err = {0};
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(metrics_open(fileno(file), "worker 0", &err), ERR);
    fclose(file);
    assert_true(metrics_segment_fits(fd, 2, 4));
    assert_false(metrics_segment_fits(fd, 2, 5));
    assert_false(metrics_segment_fits(fd, 3, 4));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_counts_before_and_after_a_segment),
        TEST(test_counters_outlive_a_killed_process),
        TEST(test_sums_over_processes),
        TEST(test_a_full_segment_refuses),
        TEST(test_routes_are_capped),
        TEST(test_an_inherited_segment_keeps_its_routes),
        TEST(test_routes_of_old_code_make_room),
        TEST(test_a_route_comes_back),
        TEST(test_long_patterns_and_labels_are_bounded),
        TEST(test_samples_add_only_what_is_new),
        TEST(test_labels_are_escaped),
        TEST(test_openmetrics),
        TEST(test_quantiles),
        TEST(test_refuses_what_is_no_segment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
