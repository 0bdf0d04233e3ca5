#include "server/last_words.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "script/where.h"
#include "server/config_log.h"
#include "server/watchdog.h"

enum { LAST_SAMPLE = 5, STACK_BYTES = 64 * 1024, LOG_MS = 200 };

static struct scoreboard_slot *own;
static volatile sig_atomic_t n_samples;

static void on_ask(int signum UNUSED, siginfo_t *info UNUSED, void *context)
{
    uint64_t beat_ms = own->beat_ms;
    if (own->asked_beat_ms != beat_ms) { /* its loop has turned since it was last asked */
        where_forget(&own->report);
        n_samples = 0;
        own->asked_beat_ms = beat_ms;
    }
    (void)where_sample(&own->report, context, ++n_samples >= LAST_SAMPLE);
}

static void on_fault(int signum, siginfo_t *info, void *context)
{
    where_escape();
    where_crash(&own->report, context, signum, info->si_code, (uintptr_t)info->si_addr);
    config_log_drain(LOG_MS); /* what led here is worth reading */
    signal(signum, SIG_DFL);
    raise(signum); /* delivered when this handler returns */
}

/* Only write(2) and what lies on this stack: the heap may be what is broken. */
static void say(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
}

static void say_number(uint64_t number, unsigned base)
{
    char digits[24], *at = digits + sizeof(digits);
    *--at = '\0';
    do {
        *--at = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    say(at);
}

static void on_master_fault(int signum, siginfo_t *info, void *context)
{
    static struct frames frames; /* once in a life */
    frames_capture(&frames, context);
    say("chowk: the master crashed: signal ");
    say_number((uint64_t)signum, 10);
    say(", address 0x");
    say_number((uintptr_t)info->si_addr, 16);
    for (uint32_t i = 0; i < frames.n; i++) {
        say(i == 0 ? "; " : " < ");
        say(frames.at[i].module);
        say("+0x");
        say_number(frames.at[i].offset, 16);
    }
    say("\n");
    signal(signum, SIG_DFL);
    raise(signum); /* delivered when this handler returns */
}

static void handle(int signum, void (*fn)(int signum, siginfo_t *info, void *context), int flags)
{
    struct sigaction action = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    sigaction(signum, &action, NULL);
}

static void handle_faults(void (*fn)(int signum, siginfo_t *info, void *context), bool dumps_core)
{
    static char stack[STACK_BYTES];
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct rlimit core;
    frames_prepare();
    if (getrlimit(RLIMIT_CORE, &core) == 0) {
        core.rlim_cur = dumps_core ? core.rlim_max : 0;
        setrlimit(RLIMIT_CORE, &core);
    }
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof(stack)}, NULL);
    handle(SIGABRT, fn, SA_ONSTACK | SA_NODEFER);
#ifndef __SANITIZE_ADDRESS__ /* which reports faults itself */
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        handle(faults[i], fn, SA_ONSTACK | SA_NODEFER);
#else
    (void)faults;
#endif
}

void last_words_install(struct scoreboard_slot *slot, bool dumps_core)
{
    own = slot;
    handle_faults(on_fault, dumps_core);
    handle(WATCHDOG_SIGNAL, on_ask, SA_RESTART | SA_NODEFER);
}

void last_words_install_master(bool dumps_core)
{
    handle_faults(on_master_fault, dumps_core);
}
