#include "server/early_stop.h"

#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t n_signals, has_terminal, wants_reopen;

bool early_stop_is_hangup(void)
{
    return has_terminal && tcgetpgrp(STDIN_FILENO) < 0;
}

static void on_signal(int signum)
{
    if (signum == SIGHUP && !early_stop_is_hangup())
        return;
    if (n_signals++ > 0)
        _exit(128 + signum);
}

static void on_usr1(int signum UNUSED)
{
    wants_reopen = 1;
}

void early_stop_catch(void)
{
    has_terminal = isatty(STDIN_FILENO);
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &action, NULL);
    action.sa_handler = on_usr1;
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGUSR2, SIG_IGN); /* an upgrade of a server that starts: not death, which is the default */
}

bool early_stop_wants_reopen(void)
{
    return wants_reopen;
}

bool early_stop_is_wanted(void)
{
    return n_signals > 0;
}
