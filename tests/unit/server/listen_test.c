#include "server/listen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_one_listener_per_worker(void **state)
{
    (void)state;
    struct listen_set set;
    struct err err = {0};
    char url[160];
    assert_int_equal(listen_open(&set, "127.0.0.1:0", 3, &err), OK);
    assert_int_equal(set.n_workers, 3);
    assert_int_not_equal(set.fds[0], set.fds[1]);
    assert_int_not_equal(set.fds[1], set.fds[2]);
    listen_url(&set, url, sizeof(url));
    assert_memory_equal(url, "http://127.0.0.1:", 17);
    assert_string_not_equal(url, "http://127.0.0.1:0");
    listen_close(&set);
}

static void test_a_served_address_is_refused_by_name(void **state)
{
    (void)state;
    struct listen_set first, second;
    struct err err = {0};
    char text[ADDR_TEXT_MAX], expected[64];
    assert_int_equal(listen_open(&first, "127.0.0.1:0", 2, &err), OK);
    addr_text(&first.addr, text);
    assert_int_equal(listen_open(&second, text, 2, &err), ERR);
    snprintf(expected, sizeof(expected), "is served already by pid %d (listen_test)", (int)getpid());
    assert_non_null(strstr(err.message, expected));
    listen_close(&first);
    assert_int_equal(listen_open(&second, text, 2, &err), OK);
    listen_close(&second);
}

static void test_unix_path_is_shared_and_removed(void **state)
{
    (void)state;
    struct listen_set set, second;
    struct err err = {0};
    char address[64], url[160];
    struct stat st;
    snprintf(address, sizeof(address), "unix:/tmp/chowk-listen-%d.sock", (int)getpid());
    assert_int_equal(listen_open(&set, address, 2, &err), OK);
    assert_int_equal(set.fds[0], set.fds[1]);
    listen_url(&set, url, sizeof(url));
    assert_string_equal(url, address);
    assert_int_equal(listen_open(&second, address, 2, &err), ERR);
    listen_close(&set);
    assert_int_equal(stat(address + 5, &st), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_listener_per_worker),
        cmocka_unit_test(test_a_served_address_is_refused_by_name),
        cmocka_unit_test(test_unix_path_is_shared_and_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
