#include "server/last_words.h"

#include <signal.h>
#include <sys/resource.h>

#include "script/where.h"
#include "server/watchdog.h"

enum { LAST_SAMPLE = 5, STACK_BYTES = 64 * 1024 };

static struct scoreboard_slot *own;
static volatile sig_atomic_t n_samples;

static void on_ask(int signum UNUSED, siginfo_t *info UNUSED, void *context)
{
    (void)where_sample(&own->report, context, ++n_samples >= LAST_SAMPLE);
}

static void on_fault(int signum, siginfo_t *info, void *context)
{
    where_escape();
    where_crash(&own->report, context, signum, info->si_code, (uintptr_t)info->si_addr);
    signal(signum, SIG_DFL);
    raise(signum); /* delivered when this handler returns */
}

static void handle(int signum, void (*fn)(int signum, siginfo_t *info, void *context), int flags)
{
    struct sigaction action = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    sigaction(signum, &action, NULL);
}

void last_words_install(struct scoreboard_slot *slot, bool dumps_core)
{
    static char stack[STACK_BYTES];
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct rlimit core;
    own = slot;
    frames_prepare();
    if (getrlimit(RLIMIT_CORE, &core) == 0) {
        core.rlim_cur = dumps_core ? core.rlim_max : 0;
        setrlimit(RLIMIT_CORE, &core);
    }
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof(stack)}, NULL);
    handle(WATCHDOG_SIGNAL, on_ask, SA_RESTART | SA_NODEFER);
    handle(SIGABRT, on_fault, SA_ONSTACK | SA_NODEFER);
#ifndef __SANITIZE_ADDRESS__ /* which reports faults itself */
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        handle(faults[i], on_fault, SA_ONSTACK | SA_NODEFER);
#else
    (void)faults;
#endif
}
