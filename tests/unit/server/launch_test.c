/* Which file an upgrade starts. */
#include "server/launch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/chowk-launch.XXXXXX", path[PATH_MAX];

static int set_up(void **state)
{
    (void)state;
    return !mkdtemp(dir) || chdir(dir) != 0 || mkdir("bin", 0755) != 0 || symlink("/bin/true", "bin/chowk") != 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink("bin/chowk") != 0 || rmdir("bin") != 0 || chdir("/") != 0 || rmdir(dir) != 0;
}

static enum status find(const char *called, struct err *err)
{
    char name[64];
    snprintf(name, sizeof(name), "%s", called);
    char *argv[] = {name, NULL};
    launch_remember(1, argv);
    strcpy(name, "shifted"); /* as cli.c does with its own */
    assert_string_equal(launch_argv()[0], called);
    return launch_path(path, sizeof(path), err);
}

static void test_by_path_in_the_directory_of_the_start(void **state)
{
    (void)state;
    struct err err = {0};
    char expected[PATH_MAX];
    assert_int_equal(find("bin/chowk", &err), OK);
    snprintf(expected, sizeof(expected), "%s/bin/chowk", dir); /* the link, not what it points to */
    assert_string_equal(path, expected);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(launch_path(path, sizeof(path), &err), OK);
    assert_string_equal(path, expected);
    assert_int_equal(chdir(dir), 0);
}

static void test_by_name_anew_in_path(void **state)
{
    (void)state;
    struct err err = {0};
    char value[PATH_MAX];
    snprintf(value, sizeof(value), "relative:%s:%s/bin", dir, dir);
    setenv("PATH", value, 1);
    assert_int_equal(find("chowk", &err), OK);
    snprintf(value, sizeof(value), "%s/bin/chowk", dir);
    assert_string_equal(path, value);
    setenv("PATH", "/nowhere", 1);
    assert_int_equal(launch_path(path, sizeof(path), &err), ERR);
    assert_string_equal(err.message, "there is no chowk in PATH any more");
}

static void test_what_cannot_run_is_an_error(void **state)
{
    (void)state;
    struct err err = {0};
    assert_int_equal(find("/nowhere/chowk", &err), ERR);
    assert_string_equal(err.message, "cannot run /nowhere/chowk: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_path_in_the_directory_of_the_start),
        cmocka_unit_test(test_by_name_anew_in_path),
        cmocka_unit_test(test_what_cannot_run_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
