#include "net/net_help.h"

#include <dirent.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/names.h"

/* A resolver of our own stands before libc's. It answers `*.example` with 192.0.2.1 and 2001:db8::1, hangs on
 * "slow.example" until the test lets it go, and knows nothing else. */
#define N_THREADS 4 /* at most, in names.c */
static sem_t let_go, has_begun;
static int n_look_ups; /* touched by the thread while the test waits */

static struct addrinfo *make_info(int family, const void *sa, size_t len, struct addrinfo *next)
{
    struct addrinfo *ai = xalloc(sizeof(*ai) + len);
    *ai = (struct addrinfo){.ai_family = family, .ai_addrlen = (socklen_t)len, .ai_next = next};
    ai->ai_addr = (struct sockaddr *)(ai + 1);
    memcpy(ai->ai_addr, sa, len);
    return ai;
}

int getaddrinfo(const char *host, const char *service UNUSED, const struct addrinfo *hints UNUSED,
                struct addrinfo **found)
{
    __atomic_add_fetch(&n_look_ups, 1, __ATOMIC_SEQ_CST);
    if (strcmp(host, "slow.example") == 0) {
        sem_post(&has_begun);
        while (sem_wait(&let_go) != 0)
            ;
    }
    if (!strstr(host, ".example"))
        return EAI_NONAME;
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr);
    inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr);
    *found = make_info(AF_INET, &v4, sizeof(v4), make_info(AF_INET6, &v6, sizeof(v6), NULL));
    return 0;
}

void freeaddrinfo(struct addrinfo *ai)
{
    while (ai) {
        struct addrinfo *next = ai->ai_next;
        free(ai);
        ai = next;
    }
}

struct answer {
    int n_calls;
    bool may_come;
    char texts[NAMES_MAX_ADDRS][ADDR_TEXT_MAX];
    size_t n_addrs;
    struct err err;
    struct names *free_this;
};

static struct loop *loop;
static struct names *names;

static void on_answer(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err)
{
    struct answer *answer = data;
    assert_true(answer->may_come);
    answer->n_calls++;
    answer->n_addrs = n_addrs;
    assert_true((err == NULL) == (n_addrs > 0));
    if (err)
        answer->err = *err;
    for (size_t i = 0; i < n_addrs; i++)
        addr_text(&addrs[i], answer->texts[i]);
    if (answer->free_this)
        names_free(answer->free_this);
}

static struct names_query *ask(const char *host, int port, struct answer *answer)
{
    answer->may_come = false;
    struct names_query *query = names_resolve(names, host, port, on_answer, answer);
    answer->may_come = true;
    return query;
}

static int count_resolver_threads(void)
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; (entry = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        n += fgets(name, sizeof(name), file) && strcmp(name, "names\n") == 0;
        fclose(file);
    }
    closedir(tasks);
    return n;
}

static void wait_for_thread_to_end(void)
{
    for (uint64_t start = clock_ms(); clock_ms() - start < 10000; sched_yield())
        if (count_resolver_threads() == 0)
            return;
    fail_msg("the resolver's thread did not end");
}

static int setup(void **state UNUSED)
{
    n_look_ups = 0;
    assert_int_equal(sem_init(&let_go, 0, 0), 0);
    assert_int_equal(sem_init(&has_begun, 0, 0), 0);
    loop = loop_new();
    names = names_new(loop);
    return 0;
}

static int teardown(void **state UNUSED)
{
    if (names)
        names_free(names);
    loop_free(loop);
    wait_for_thread_to_end();
    return 0;
}

static void test_numeric_and_localhost_need_no_thread(void **state UNUSED)
{
    struct answer v4 = {0}, v6 = {0}, local = {0};
    ask("10.1.2.3", 80, &v4);
    ask("2001:db8::5", 443, &v6);
    ask("LocalHost", 5432, &local);
    loop_turn(loop, true);
    assert_int_equal(v4.n_calls + v6.n_calls + local.n_calls, 3);
    assert_string_equal(v4.texts[0], "10.1.2.3:80");
    assert_string_equal(v6.texts[0], "[2001:db8::5]:443");
    assert_int_equal(local.n_addrs, 2);
    assert_string_equal(local.texts[0], "127.0.0.1:5432");
    assert_string_equal(local.texts[1], "[::1]:5432");
    assert_int_equal(count_resolver_threads(), 0);
    assert_int_equal(n_look_ups, 0);
}

static void test_names_are_looked_up_on_the_thread(void **state UNUSED)
{
    struct answer good = {0}, bad = {0};
    ask("db.example", 5432, &good);
    ask("nowhere.invalid", 80, &bad);
    loop_run(loop); /* ends when nothing is pending: an idle resolver does not hold the loop */
    assert_int_equal(good.n_calls, 1);
    assert_int_equal(good.n_addrs, 2);
    assert_string_equal(good.texts[0], "192.0.2.1:5432");
    assert_string_equal(good.texts[1], "[2001:db8::1]:5432");
    assert_int_equal(bad.n_calls, 1);
    assert_int_equal(bad.err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(bad.err.message, "resolve \"nowhere.invalid\": "));
}

static void test_nonsense_is_refused_later(void **state UNUSED)
{
    static char long_name[300];
    memset(long_name, 'x', sizeof(long_name) - 1);
    struct answer answers[3] = {0};
    ask("", 80, &answers[0]);
    ask("db.example", 65536, &answers[1]);
    ask(long_name, 80, &answers[2]);
    loop_turn(loop, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(answers[i].n_calls, 1);
        assert_int_equal(answers[i].err.code, ERR_INVALID);
    }
    assert_int_equal(n_look_ups, 0);
}

/* All threads but one hang. */
static void occupy(struct answer answers[N_THREADS - 1])
{
    for (int i = 0; i < N_THREADS - 1; i++) {
        ask("slow.example", 80, &answers[i]);
        sem_wait(&has_begun);
    }
}

static void test_a_slow_name_holds_up_no_other(void **state UNUSED)
{
    struct answer slow[N_THREADS - 1] = {0}, quick[10] = {0};
    occupy(slow);
    assert_int_equal(count_resolver_threads(), N_THREADS - 1);
    for (size_t i = 0; i < ARRAY_LEN(quick); i++)
        ask("db.example", 80, &quick[i]);
    for (size_t i = 0; i < ARRAY_LEN(quick); i++)
        RUN_UNTIL(loop, quick[i].n_calls == 1);
    assert_int_equal(count_resolver_threads(), N_THREADS);
    for (int i = 0; i < N_THREADS - 1; i++) {
        assert_int_equal(slow[i].n_calls, 0);
        sem_post(&let_go);
    }
    loop_run(loop);
    assert_int_equal(slow[0].n_calls + slow[1].n_calls + slow[2].n_calls, 3);
}

static void test_cancelled_queries_are_not_answered(void **state UNUSED)
{
    struct answer others[N_THREADS - 1] = {0}, slow = {0}, queued = {0}, numeric = {0}, last = {0};
    occupy(others);
    struct names_query *running = ask("slow.example", 80, &slow);
    sem_wait(&has_begun);
    struct names_query *waiting = ask("queued.example", 80, &queued);
    struct names_query *immediate = ask("127.0.0.1", 80, &numeric);
    ask("last.example", 80, &last);
    names_cancel(running);
    names_cancel(waiting);
    names_cancel(immediate);
    for (int i = 0; i < N_THREADS; i++)
        sem_post(&let_go);
    RUN_UNTIL(loop, last.n_calls == 1);
    assert_int_equal(slow.n_calls + queued.n_calls + numeric.n_calls, 0);
    loop_run(loop);
    assert_int_equal(n_look_ups, N_THREADS + 1); /* the queued one was never begun */
}

static void test_queue_is_bounded(void **state UNUSED)
{
    static struct answer answers[300];
    memset(answers, 0, sizeof(answers));
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        ask("slow.example", 80, &answers[i]);
    loop_turn(loop, true);
    size_t n_refused = 0;
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        n_refused += answers[i].n_calls == 1 && answers[i].err.code == ERR_QUEUE_FULL;
    assert_int_equal(n_refused, ARRAY_LEN(answers) - 256);
    for (size_t i = 0; i < 256; i++)
        sem_post(&let_go);
    loop_run(loop);
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        assert_int_equal(answers[i].n_calls, 1);
}

static void test_free_cancels_what_is_pending_and_does_not_wait(void **state UNUSED)
{
    struct answer others[N_THREADS - 1] = {0}, running = {0}, queued = {0}, numeric = {0};
    occupy(others);
    ask("slow.example", 80, &running);
    sem_wait(&has_begun);
    assert_int_equal(count_resolver_threads(), N_THREADS);
    ask("queued.example", 80, &queued);
    ask("127.0.0.1", 80, &numeric);
    names_free(names); /* while the look-up hangs */
    names = NULL;
    assert_int_equal(running.err.code, ERR_CANCELLED);
    assert_int_equal(queued.err.code, ERR_CANCELLED);
    assert_int_equal(numeric.err.code, ERR_CANCELLED);
    loop_turn(loop, false);
    for (int i = 0; i < N_THREADS; i++)
        sem_post(&let_go);
    wait_for_thread_to_end();
    assert_int_equal(n_look_ups, N_THREADS);
    assert_int_equal(running.n_calls + queued.n_calls + numeric.n_calls, 3);
}

static void test_free_inside_an_answer(void **state UNUSED)
{
    struct answer slow[N_THREADS - 1] = {0}, first = {.free_this = names}, others[20] = {0};
    occupy(slow); /* so that the rest is answered in order */
    ask("first.example", 80, &first);
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        ask("other.example", 80, &others[i]);
    while (__atomic_load_n(&n_look_ups, __ATOMIC_SEQ_CST) < N_THREADS + 10)
        sched_yield(); /* so that finished jobs without a query come in the same batch */
    RUN_UNTIL(loop, first.n_calls == 1);
    names = NULL;
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        assert_int_equal(others[i].n_calls, 1);
        assert_int_equal(others[i].err.code, ERR_CANCELLED);
    }
    for (int i = 0; i < N_THREADS - 1; i++) {
        assert_int_equal(slow[i].err.code, ERR_CANCELLED);
        sem_post(&let_go);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_numeric_and_localhost_need_no_thread),
        T(test_names_are_looked_up_on_the_thread),
        T(test_nonsense_is_refused_later),
        T(test_a_slow_name_holds_up_no_other),
        T(test_cancelled_queries_are_not_answered),
        T(test_queue_is_bounded),
        T(test_free_cancels_what_is_pending_and_does_not_wait),
        T(test_free_inside_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
