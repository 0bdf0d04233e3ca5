/* A directory's changes, told by name. */
#include "net/net_help.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "net/dir_watch.h"

static char dir[64];
static struct dir_watch *watch;
static bool has_seen, ends_when_seen;
static const char *wanted;

static void on_change(void *data, const char *name)
{
    assert_ptr_equal(data, dir);
    if (!name || strcmp(name, wanted) != 0)
        return;
    has_seen = true;
    if (ends_when_seen) {
        dir_watch_free(watch);
        watch = NULL;
    }
}

static void touch(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    wanted = name;
    has_seen = false;
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/chowk-watch-XXXXXX");
    ends_when_seen = false;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static void test_tells_what_is_written_made_and_removed(void **state)
{
    struct err err = {0};
    char path[128];
    struct loop *loop = loop_new();
    (void)state;
    watch = dir_watch_new(loop, dir, on_change, dir, &err);
    assert_non_null(watch);
    touch("a.lua");
    RUN_UNTIL(loop, has_seen);
    snprintf(path, sizeof(path), "%s/a.lua", dir);
    has_seen = false;
    assert_int_equal(unlink(path), 0);
    RUN_UNTIL(loop, has_seen);
    snprintf(path, sizeof(path), "%s/below", dir);
    wanted = "below";
    has_seen = false;
    assert_int_equal(mkdir(path, 0700), 0);
    RUN_UNTIL(loop, has_seen);
    assert_false(loop_turn(loop, false)); /* it does not keep the loop alive */
    dir_watch_free(watch);
    loop_run(loop);
    loop_free(loop);
}

static void test_may_be_freed_by_its_own_call(void **state)
{
    struct err err = {0};
    struct loop *loop = loop_new();
    (void)state;
    ends_when_seen = true;
    watch = dir_watch_new(loop, dir, on_change, dir, &err);
    touch("b.lua");
    RUN_UNTIL(loop, has_seen);
    assert_null(watch);
    loop_run(loop);
    loop_free(loop);
}

static void test_says_what_cannot_be_watched(void **state)
{
    struct err err = {0};
    struct loop *loop = loop_new();
    (void)state;
    assert_null(dir_watch_new(loop, "/nowhere/at/all", on_change, dir, &err));
    assert_non_null(strstr(err.message, "cannot watch /nowhere/at/all"));
    dir_watch_free(NULL);
    loop_run(loop);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tells_what_is_written_made_and_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_may_be_freed_by_its_own_call, setup, teardown),
        cmocka_unit_test_setup_teardown(test_says_what_cannot_be_watched, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
