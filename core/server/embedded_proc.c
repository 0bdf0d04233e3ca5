/* The process of an embedded server: started unprivileged, in a session of its own, with nothing of ours but its log;
 * and bound to this thread's life by PR_SET_PDEATHSIG, which the kernel clears at setuid and so is set after it (T21).
 */
#include "server/embedded_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define MAX_LOG_BYTES (8 << 20) /* a larger log is begun anew at the start, the old one kept beside it */

void embedded_args_add(struct embedded_args *args, const char *text)
{
    CHECK(args->n + 1 < EMBEDDED_MAX_ARGS);
    args->argv[args->n++] = text;
    args->argv[args->n] = NULL;
}

void embedded_args_addf(struct embedded_args *args, const char *fmt, ...)
{
    char *at = args->text + args->used;
    size_t room = sizeof args->text - args->used;
    va_list list;
    va_start(list, fmt);
    int len = vsnprintf(at, room, fmt, list);
    va_end(list);
    CHECK(len >= 0 && (size_t)len < room);
    args->used += (size_t)len + 1;
    embedded_args_add(args, at);
}

void embedded_pause(uint32_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

static int open_log(const struct embedded_home *home)
{
    char old[PATH_MAX];
    if (embedded_log_size(home) > MAX_LOG_BYTES &&
        snprintf(old, sizeof old, "%s.old", home->log_path) < (int)sizeof old)
        (void)rename(home->log_path, old);
    return open(home->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

static bool become_user(const struct embedded_home *home)
{
    return !home->drops ||
           (setgroups((size_t)home->n_groups, home->groups) == 0 && setgid(home->gid) == 0 && setuid(home->uid) == 0);
}

static void reset_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int signum = 1; signum < NSIG; signum++)
        (void)signal(signum, SIG_DFL); /* ignored ones would stay ignored */
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the child. Comes back only if it could not become the server; errno says why. */
static void exec_server(const struct embedded_home *home, const struct embedded_args *args, int death_signal,
                        pid_t parent, int log_fd, int report_fd)
{
    static const char *const env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TZ=UTC", "HOME=/", NULL};
    int null_fd = open("/dev/null", O_RDONLY);
    if (setsid() < 0 || null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0 ||
        chdir("/") != 0)
        return;
    (void)close_range(3, (unsigned)report_fd - 1, 0);
    (void)close_range((unsigned)report_fd + 1, ~0u, 0);
    reset_signals();
    umask(077);
    if (!become_user(home) || prctl(PR_SET_PDEATHSIG, death_signal) != 0)
        return;
    errno = ESRCH;
    if (getppid() != parent) /* died before it could be noticed */
        return;
    /* execve changes neither; its prototype is older than const. */
    execve(args->argv[0], (char *const *)(uintptr_t)args->argv, (char *const *)(uintptr_t)env);
}

/* 0: the exec has happened; else why not. */
static int read_report(int fd)
{
    int errnum = 0;
    ssize_t n;
    do
        n = read(fd, &errnum, sizeof errnum);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof errnum ? errnum : 0;
}

static pid_t fork_server(const struct embedded_home *home, const struct embedded_args *args, int death_signal,
                         int log_fd, int report_fd)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    exec_server(home, args, death_signal, parent, log_fd, report_fd);
    int errnum = errno;
    (void)!write(report_fd, &errnum, sizeof errnum);
    _exit(127);
}

pid_t embedded_spawn(const struct embedded_home *home, const struct embedded_args *args, int death_signal,
                     struct err *err)
{
    int report[2] = {-1, -1}, report_fd = -1, errnum = 0;
    pid_t pid = -1;
    int log_fd = open_log(home);
    if (log_fd < 0 || pipe2(report, O_CLOEXEC) != 0 || (report_fd = fcntl(report[1], F_DUPFD_CLOEXEC, 10)) < 0)
        errnum = errno;
    else if ((pid = fork_server(home, args, death_signal, log_fd, report_fd)) < 0)
        errnum = errno;
    for (size_t i = 0; i < 3; i++) {
        int fd = (int[]){log_fd, report[1], report_fd}[i];
        if (fd >= 0)
            close(fd);
    }
    if (pid > 0 && (errnum = read_report(report[0])) != 0)
        (void)waitpid(pid, NULL, 0);
    if (report[0] >= 0)
        close(report[0]);
    if (errnum == 0)
        return pid;
    (void)err_errno(err, errnum, "%s (output: %s)", args->argv[0], home->log_path);
    return -1;
}

/* ---- watch and wait ------------------------------------------------------------------------------------------- */

bool embedded_has_exited(pid_t pid, int *exit_code)
{
    int status = 0;
    pid_t got;
    do
        got = waitpid(pid, &status, WNOHANG);
    while (got < 0 && errno == EINTR);
    if (exit_code)
        *exit_code = got == pid && WIFEXITED(status) ? WEXITSTATUS(status) : EMBEDDED_EXIT_UNKNOWN;
    if (got == pid)
        return true;
    return got < 0 && kill(pid, 0) != 0 && errno == ESRCH; /* not our child, or somebody else has reaped it */
}

/* A process that nobody reaps is a zombie: dead, but with a pid. */
static bool is_zombie(pid_t pid)
{
    char path[48], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return true;
    bool got = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    const char *paren = strrchr(line, ')');
    return got && paren && paren[1] == ' ' && paren[2] == 'Z';
}

bool embedded_wait(pid_t pid, uint32_t wait_ms, int *exit_code)
{
    for (uint64_t end = clock_ms() + wait_ms;; embedded_pause(EMBEDDED_LOOK_MS)) {
        if (embedded_has_exited(pid, exit_code) || is_zombie(pid))
            return true;
        if (clock_ms() >= end)
            return false;
    }
}

bool embedded_is_running(pid_t pid, const char *mark)
{
    char path[48], line[4096];
    if (pid <= 0)
        return false;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t len = fread(line, 1, sizeof line, file);
    fclose(file);
    return memmem(line, len, mark, strlen(mark)) != NULL; /* empty for a zombie */
}

/* ---- the log -------------------------------------------------------------------------------------------------- */

long embedded_log_size(const struct embedded_home *home)
{
    struct stat st;
    return stat(home->log_path, &st) == 0 ? (long)st.st_size : 0;
}

void embedded_log_tail(const struct embedded_home *home, long offset, char *out, size_t cap)
{
    char line[512];
    bool has_fatal = false;
    snprintf(out, cap, "no output");
    FILE *file = fopen(home->log_path, "re");
    if (!file)
        return;
    if (fseek(file, embedded_log_size(home) < offset ? 0 : offset, SEEK_SET) == 0)
        while (fgets(line, sizeof line, file)) {
            const char *fatal = strstr(line, "FATAL:");
            line[strcspn(line, "\n")] = '\0';
            if (line[0] && (fatal || !has_fatal))
                snprintf(out, cap, "%s", fatal ? fatal : line);
            has_fatal = has_fatal || fatal;
        }
    fclose(file);
}
