/* See checker.h. The answer counts only together with an exit status that agrees: a process that says "fine" and then
 * crashes while it closes its state has failed. */
#include "server/checker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/timer.h"
#include "server/check.h"

struct checker {
    struct checker_opts opts;
    pid_t pid;
    int control;
    struct timer timer;
    bool is_late, is_stopped;
};

enum { GRACE_MS = 500 }; /* beyond the deadline the process gives itself, which is told with file and line */

static void on_timeout(struct timer *timer)
{
    struct checker *checker = container_of(timer, struct checker, timer);
    checker->is_late = true;
    kill(checker->pid, SIGKILL);
}

struct checker *checker_start(const struct checker_opts *opts, struct err *err)
{
    int pair[2];
    char n_processes[16];
    if (control_pair(pair, err) != OK)
        return NULL;
    snprintf(n_processes, sizeof(n_processes), "%u", opts->n_processes);
    const char *argv[] = {"chowk", CHECK_ROLE, n_processes, NULL};
    const int fds[] = {pair[1], opts->config_fd};
    pid_t pid = spawn_self(&(struct spawn_opts){.argv = argv, .fds = fds, .n_fds = ARRAY_LEN(fds)}, err);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return NULL;
    }
    struct checker *checker = xalloc(sizeof(*checker));
    *checker = (struct checker){.opts = *opts, .pid = pid, .control = pair[0]};
    timer_arm(opts->loop, &checker->timer, loop_now(opts->loop) + opts->timeout_ms + GRACE_MS, on_timeout);
    return checker;
}

static void release(struct checker *checker)
{
    timer_stop(checker->opts.loop, &checker->timer);
    close(checker->control);
    free(checker);
}

static void describe_end(const struct checker *checker, int status, char *out, size_t size)
{
    if (checker->is_late || (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU))
        snprintf(out, size, "the new code was not checked within %.1f s (reload.timeout): its process was killed",
                 (double)checker->opts.timeout_ms / 1000);
    else if (WIFSIGNALED(status))
        snprintf(out, size, "the process that checked the new code was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "the process that checked the new code ended with status %d", WEXITSTATUS(status));
}

static void finish(struct checker *checker, int status)
{
    struct control_message message = {.fd = -1};
    struct reload_checked result = {.bundle_fd = -1};
    char why[CONTROL_TEXT_MAX + 1];
    enum status received = control_receive(checker->control, &message);
    if (received == OK && message.type == CONTROL_READY && message.fd >= 0 && status == 0) {
        result.bundle_fd = message.fd;
        result.n_routes = message.value;
        snprintf(result.hash, sizeof(result.hash), "%.*s", (int)sizeof(result.hash) - 1, message.text);
    } else {
        if (received == OK && message.fd >= 0)
            close(message.fd);
        if (received == OK && message.type == CONTROL_FAIL)
            snprintf(why, sizeof(why), "%s", message.text);
        else
            describe_end(checker, status, why, sizeof(why));
        result.error = why;
    }
    struct checker_opts opts = checker->opts;
    release(checker);
    opts.done(opts.data, &result);
}

static void finish_stopped(struct checker *checker)
{
    struct checker_opts opts = checker->opts;
    release(checker);
    opts.done(opts.data, NULL);
}

void checker_reap(struct checker *checker)
{
    int status;
    if (!checker || waitpid(checker->pid, &status, WNOHANG) != checker->pid)
        return;
    if (checker->is_stopped)
        finish_stopped(checker);
    else
        finish(checker, status);
}

void checker_stop(struct checker *checker)
{
    if (!checker)
        return;
    checker->is_stopped = true;
    kill(checker->pid, SIGKILL);
}

void checker_free(struct checker *checker)
{
    if (!checker)
        return;
    kill(checker->pid, SIGKILL);
    release(checker);
}
