/* Counts that several processes share: exact among them, all or none, bounded, and alive after a holder's death. */
#include "services/limit_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND 1000000ull

static const struct limit_rule ten = {.name = "ten", .limit = 10, .window_us = 900 * SECOND};
static const struct limit_rule two = {.name = "two", .limit = 2, .window_us = 900 * SECOND};
static const struct limit_rule hundred = {.name = "hundred", .limit = 100, .window_us = 900 * SECOND};

static struct limit_store open_store(int fd, uint32_t n_keys)
{
    struct limit_store store;
    struct err err = {0};
    assert_int_equal(limit_store_open(&store, fd, n_keys, &err), OK);
    return store;
}

static struct limit_demand demand(const struct limit_rule *rule, const char *key)
{
    return (struct limit_demand){rule, slice_str(key)};
}

static bool is_allowed(struct limit_store *store, const struct limit_demand *demands, size_t n, uint64_t now_us)
{
    struct limit_verdict verdicts[LIMIT_DEMANDS_MAX];
    assert_int_equal(limit_store_check(store, demands, n, 1, now_us, verdicts), OK);
    return limit_is_allowed(verdicts, n);
}

static void test_keys_and_rules_count_apart(void **state)
{
    struct limit_store store = open_store(-1, 1024);
    (void)state;
    for (int i = 0; i < 10; i++)
        assert_true(is_allowed(&store, (struct limit_demand[]){demand(&ten, "a")}, 1, SECOND));
    assert_false(is_allowed(&store, (struct limit_demand[]){demand(&ten, "a")}, 1, SECOND));
    assert_true(is_allowed(&store, (struct limit_demand[]){demand(&ten, "b")}, 1, SECOND));
    assert_true(is_allowed(&store, (struct limit_demand[]){demand(&hundred, "a")}, 1, SECOND));
    struct limit_rule other = ten; /* the same name with another window, as after a change of the configuration */
    other.window_us++;
    assert_true(is_allowed(&store, (struct limit_demand[]){demand(&other, "a")}, 1, SECOND));
    assert_true(is_allowed(&store, (struct limit_demand[]){demand(&ten, "a")}, 1, 902 * SECOND));
    limit_store_close(&store);
}

static void test_charges_all_or_none(void **state)
{
    struct limit_store store = open_store(-1, 1024);
    struct limit_demand both[] = {demand(&ten, "ip"), demand(&two, "account")};
    struct limit_verdict verdicts[2];
    (void)state;
    assert_true(is_allowed(&store, both, 2, SECOND));
    assert_true(is_allowed(&store, both, 2, SECOND));
    for (int i = 0; i < 20; i++)
        assert_false(is_allowed(&store, both, 2, SECOND));
    assert_int_equal(limit_store_check(&store, both, 2, 0, SECOND, verdicts), OK);
    assert_int_equal(verdicts[0].remaining, 8); /* the refusals of `two` cost nothing here */
    assert_int_equal(verdicts[1].remaining, 0);
    limit_store_close(&store);
}

static void test_remembers_no_more_than_it_may(void **state)
{
    struct limit_store store = open_store(-1, 512);
    char key[32];
    (void)state;
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof(key), "attacker %d", i);
        assert_true(is_allowed(&store, (struct limit_demand[]){demand(&ten, key)}, 1, SECOND + (uint64_t)i));
    }
    assert_in_range(store.n_evicted, 20000 - 512, 20000);
    limit_store_close(&store);
}

/* Eight processes, one key: together exactly what is allowed. */
static void test_is_exact_among_processes(void **state)
{
    struct err err = {0};
    int fd = limit_segment_create(1024, &err), n_allowed = 0;
    pid_t pids[8];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
        pids[i] = fork();
        if (pids[i] > 0)
            continue;
        struct limit_store store = open_store(fd, 1024);
        int n = 0;
        for (int j = 0; j < 500; j++) {
            struct limit_verdict verdict;
            struct limit_demand one = demand(&hundred, "shared");
            while (limit_store_check(&store, &one, 1, 1, SECOND, &verdict) == AGAIN)
                ;
            n += verdict.is_allowed;
        }
        _exit(n);
    }
    for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status));
        n_allowed += WEXITSTATUS(status);
    }
    assert_int_equal(n_allowed, 100);
    close(fd);
}

/* A process dies in the middle of checks, again and again: at worst its part is emptied, and nobody is stuck. */
static void test_survives_a_holder_that_dies(void **state)
{
    struct err err = {0};
    int fd = limit_segment_create(64, &err);
    struct limit_store store = open_store(fd, 64);
    struct limit_verdict verdict;
    (void)state;
    for (int i = 0; i < 200 || (store.n_orphaned == 0 && i < 20000); i++) { /* until one has died within */
        pid_t pid = fork();
        if (pid == 0) {
            for (;;) {
                struct limit_demand one = demand(&hundred, "k");
                (void)!limit_store_check(&store, &one, 1, 1, SECOND, &verdict);
            }
        }
        usleep(500);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        struct limit_demand one = demand(&hundred, "k");
        assert_int_equal(limit_store_check(&store, &one, 1, 0, SECOND, &verdict), OK);
    }
    assert_true(store.n_orphaned > 0); /* else this test tried nothing */
    limit_store_close(&store);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_and_rules_count_apart),    cmocka_unit_test(test_charges_all_or_none),
        cmocka_unit_test(test_remembers_no_more_than_it_may), cmocka_unit_test(test_is_exact_among_processes),
        cmocka_unit_test(test_survives_a_holder_that_dies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
