#include "net/thread.h"

#include <signal.h>
#include <stdlib.h>

enum { SIGNAL_STACK_BYTES = 64 * 1024 };

struct start {
    void *(*run)(void *data);
    void *data;
    char stack[SIGNAL_STACK_BYTES];
};

static void *run_thread(void *data)
{
    struct start *start = data;
    sigaltstack(&(stack_t){.ss_sp = start->stack, .ss_size = sizeof(start->stack)}, NULL);
    void *result = start->run(start->data);
    sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
    free(start);
    return result;
}

int thread_start(pthread_t *thread, const char *name, void *(*run)(void *data), void *data)
{
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    sigset_t blocked, before;
    struct start *start = xalloc(sizeof(*start));
    start->run = run;
    start->data = data;
    sigfillset(&blocked);
    for (size_t i = 0; i < ARRAY_LEN(own_faults); i++)
        sigdelset(&blocked, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int rc = pthread_create(thread, NULL, run_thread, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        free(start);
    else
        pthread_setname_np(*thread, name);
    return rc;
}
