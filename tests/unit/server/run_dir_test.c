#include "server/run_dir.h"

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

static void test_one_at_a_time(void **state)
{
    (void)state;
    char home[] = "/tmp/chowk-run-XXXXXX", dir[64], path[96], expected[64];
    struct err err = {0};
    assert_non_null(mkdtemp(home));
    snprintf(dir, sizeof(dir), "%s/var/run", home);
    snprintf(path, sizeof(path), "%s/chowk.pid", dir);

    int first = run_dir_lock(dir, "127.0.0.1:1", &err);
    assert_true(first >= 0);
    assert_int_equal(run_dir_lock(dir, "127.0.0.1:2", &err), -1);
    snprintf(expected, sizeof(expected), "pid %d on 127.0.0.1:1", (int)getpid());
    assert_non_null(strstr(err.message, expected));

    run_dir_unlock(first);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 0);
    int again = run_dir_lock(dir, "127.0.0.1:3", &err);
    assert_true(again >= 0);
    run_dir_unlock(again);

    unlink(path);
    rmdir(dir);
    dir[strlen(dir) - 4] = '\0';
    rmdir(dir);
    assert_int_equal(rmdir(home), 0);
}

static void test_a_directory_that_cannot_be(void **state)
{
    (void)state;
    struct err err = {0};
    assert_int_equal(run_dir_lock("/proc/no/such", "x", &err), -1);
    assert_non_null(strstr(err.message, "run.dir: cannot create /proc/no"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_a_directory_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
