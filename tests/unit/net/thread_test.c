/* A thread beside the loop hears no signal that is sent, and the handlers hear what it does wrong itself. */
#include "net/net_help.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/thread.h"

static void *note_mask(void *data)
{
    pthread_sigmask(SIG_SETMASK, NULL, data);
    return data;
}

static void test_signals_are_the_loops(void **state)
{
    pthread_t thread;
    sigset_t mask;
    void *result;
    (void)state;
    assert_int_equal(thread_start(&thread, "test", note_mask, &mask), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, &mask);
    static const int sent[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGUSR1, SIGUSR2, SIGPIPE};
    for (size_t i = 0; i < ARRAY_LEN(sent); i++)
        assert_true(sigismember(&mask, sent[i]));
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_false(sigismember(&mask, SIGTERM)); /* the loop's own is as it was */
}

static void on_fault(int signum)
{
    stack_t stack;
    (void)signum;
    _exit(sigaltstack(NULL, &stack) == 0 && stack.ss_flags == SS_ONSTACK ? 42 : 43);
}

static void *fault(void *data)
{
    raise(*(const int *)data);
    return NULL;
}

static int exit_code_of_fault(int signum)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
        pthread_t thread;
        sigaction(signum, &action, NULL);
        if (thread_start(&thread, "test", fault, &signum) == 0)
            pthread_join(thread, NULL);
        _exit(44); /* raised, blocked, pending for ever */
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_faults_reach_their_handler(void **state)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        assert_int_equal(exit_code_of_fault(faults[i]), 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals_are_the_loops),
        cmocka_unit_test(test_faults_reach_their_handler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
