#include "server/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

extern char **environ;

/* Between fork and exec: only what is async-signal-safe, for the parent may have threads. */
NORETURN static void run_child(const struct spawn_opts *opts, pid_t parent)
{
    int high[SPAWN_MAX_FDS];
    sigset_t none;
    signal(SIGTERM, SIG_DFL); /* until exec the handlers are the parent's, and would tell the parent */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    /* First out of the way, then into place: a source may sit on another's target. */
    for (int i = 0; i < opts->n_fds; i++)
        if ((high[i] = fcntl(opts->fds[i], F_DUPFD_CLOEXEC, 64)) < 0)
            _exit(127);
    for (int i = 0; i < opts->n_fds; i++)
        if (dup2(high[i], SPAWN_FIRST_FD + i) < 0)
            _exit(127);
    close_range((unsigned)(SPAWN_FIRST_FD + opts->n_fds), ~0U, 0);
    if (opts->death_signal && (setsid() < 0 || prctl(PR_SET_PDEATHSIG, opts->death_signal) != 0 || getppid() != parent))
        _exit(127);
    /* exec takes char *const[] for historical reasons and changes nothing. */
    union {
        const char *const *in;
        char *const *out;
    } argv = {.in = opts->argv}, env = {.in = opts->env};
    if (opts->dir && chdir(opts->dir) != 0)
        _exit(126);
    execve(opts->path ? opts->path : "/proc/self/exe", argv.out, opts->env ? env.out : environ);
    _exit(127);
}

pid_t spawn_self(const struct spawn_opts *opts, struct err *err)
{
    CHECK(opts->n_fds <= SPAWN_MAX_FDS);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        run_child(opts, parent);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        err_errno(err, errno, "fork");
    return pid;
}
