#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/list.h"

#define THING_MAGIC 0x7417e5u

struct thing {
    unsigned magic;
    struct list node;
};

/* Runs fn in a child; returns the signal that ended it, and what it wrote to stderr. */
static int signal_of(void (*fn)(void), char *said, size_t size)
{
    int fds[2], status;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        dup2(fds[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(fds[1]);
    size_t len = 0;
    for (ssize_t n; len < size - 1 && (n = read(fds[0], said + len, size - 1 - len)) > 0;)
        len += (size_t)n;
    said[len] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void break_check(void)
{
    volatile int one = 1;
    CHECK(one == 2);
}

static void cast_wrong_magic(void)
{
    struct thing wrong = {.magic = THING_MAGIC + 1}, *thing;
    void *data = &wrong;
    CAST_OBJ(thing, data, THING_MAGIC);
    (void)thing;
}

static void test_check_aborts_and_says_where(void **state)
{
    (void)state;
    char said[512];
    assert_int_equal(signal_of(break_check, said, sizeof said), SIGABRT);
    assert_non_null(strstr(said, "base_test.c"));
    assert_non_null(strstr(said, "one == 2"));
}

static void test_cast_obj_refuses_other_magic(void **state)
{
    (void)state;
    char said[512];
    assert_int_equal(signal_of(cast_wrong_magic, said, sizeof said), SIGABRT);
    struct thing right = {.magic = THING_MAGIC}, *thing;
    void *data = &right;
    CAST_OBJ(thing, data, THING_MAGIC);
    assert_ptr_equal(thing, &right);
}

static void test_alloc(void **state)
{
    (void)state;
    unsigned char *zeroed = xalloc(64);
    for (int i = 0; i < 64; i++)
        assert_int_equal(zeroed[i], 0);
    memset(zeroed, 7, 64);
    zeroed = xrealloc(zeroed, 4096);
    assert_int_equal(zeroed[63], 7);
    free(zeroed);
    void *nothing = xalloc(0);
    assert_non_null(nothing);
    free(nothing);
    char *copy = xstrndup("abcdef", 3);
    assert_string_equal(copy, "abc");
    free(copy);
    copy = xstrndup(NULL, 0);
    assert_string_equal(copy, "");
    free(copy);
    void *tried = try_alloc(16);
    assert_non_null(tried);
    free(tried);
}

static void test_list(void **state)
{
    (void)state;
    struct list head;
    struct thing a = {.magic = THING_MAGIC}, b = a, c = a;
    list_init(&head);
    assert_true(list_is_empty(&head));
    assert_null(list_pop(&head));
    list_push(&head, &b.node);
    list_push(&head, &c.node);
    list_push_front(&head, &a.node);
    struct thing *expected[] = {&a, &b, &c};
    int i = 0;
    list_each (node, &head) {
        assert_ptr_equal(container_of(node, struct thing, node), expected[i++]);
        if (i == 2)
            list_remove(node);
    }
    assert_int_equal(i, 3);
    assert_false(list_is_linked(&b.node));
    list_remove(&b.node); /* safe twice */
    struct thing never = {0};
    list_remove(&never.node); /* and on one that never was in a list */
    assert_ptr_equal(list_pop(&head), &a.node);
    assert_ptr_equal(list_pop(&head), &c.node);
    assert_true(list_is_empty(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check_aborts_and_says_where),
        cmocka_unit_test(test_cast_obj_refuses_other_magic),
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
