/* Wake-ups: who is meant is woken, once or more, and nobody else; those that are gone cost nothing. */
#include "net/wake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>
#include <unistd.h>

static void count(void *data)
{
    ++*(int *)data;
}

static void test_wakes(void **state)
{
    (void)state;
    struct err err = {0};
    struct loop *loop = loop_new();
    uint64_t group = 0x1234567800000000u + (uint64_t)getpid();
    int n_a = 0, n_b = 0, n_far = 0;
    struct wake *a = wake_new(loop, group, 1, count, &n_a, &err), *b = wake_new(loop, group, 2, count, &n_b, &err);
    struct wake *far = wake_new(loop, group + 1, 1, count, &n_far, &err); /* of another server */
    assert_true(a && b && far);
    assert_null(wake_new(loop, group, 1, count, &n_a, &err)); /* a number twice */
    wake_send(a, 2);
    wake_send(a, 77); /* nobody */
    while (n_b == 0)
        assert_true(loop_turn(loop, true));
    for (int i = 0; i < 100000; i++) /* more than a socket holds: does not block */
        wake_send(b, 1);
    while (n_a == 0)
        assert_true(loop_turn(loop, true));
    pid_t pid = fork();
    if (pid == 0) { /* from another process */
        wake_send(b, 2);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    int before = n_b;
    while (n_b == before)
        assert_true(loop_turn(loop, true));
    assert_int_equal(n_far, 0);
    wake_free(a);
    wake_send(b, 1); /* gone */
    wake_free(b);
    wake_free(far);
    loop_run(loop);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wakes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
