/* `chowk stop`: asks the master over its socket, then waits for the process itself to end, by a pidfd, so that whoever
 * runs next finds port and lock free. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "server/cli.h"
#include "server/ops.h"

enum {
    SILENCE_MS = 30000, /* a stopping master says something each second */
    EXIT_MS = 60000,    /* a `chowk dev` stops its databases after it has answered */
};

static void on_progress(void *data UNUSED, const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static int open_master(const char *run_dir, double *pid, struct err *err)
{
    struct buf result = {0};
    int fd = -1;
    struct ops_request request = {.dir = run_dir, .command = "ping", .timeout_ms = SILENCE_MS};
    if (ops_call(&request, &result, err) == OK) {
        if (ops_result_number(buf_as_slice(&result), "pid", pid))
            fd = pidfd_open((pid_t)*pid, 0);
        if (fd < 0)
            err_errno(err, errno, "cannot watch the master");
    }
    buf_free(&result);
    return fd;
}

static enum status stop(const char *run_dir, bool is_now, struct err *err)
{
    const char *args[] = {"--now"};
    double pid = 0;
    int fd = open_master(run_dir, &pid, err);
    if (fd < 0)
        return ERR;
    struct buf result = {0};
    struct ops_request request = {.dir = run_dir,
                                  .command = "stop",
                                  .args = args,
                                  .n_args = is_now,
                                  .timeout_ms = SILENCE_MS,
                                  .on_progress = on_progress};
    enum status status = ops_call(&request, &result, err);
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    /* A master that ended before it could answer has stopped as well. */
    if (status == OK || err->code == ERR_UNAVAILABLE)
        status = poll(&ended, 1, EXIT_MS) == 1
                     ? OK
                     : err_set(err, ERR_TIMEOUT, "pid %d has stopped serving but does not end", (int)pid);
    buf_free(&result);
    close(fd);
    if (status == OK)
        printf("stopped: pid %d\n", (int)pid);
    return status;
}

int cmd_stop(struct cli_args *args)
{
    struct err err = {0};
    bool is_now = cli_take_flag(args, "--now");
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    if (args->argc == 1 && chdir(args->argv[0]) != 0) {
        err_errno(&err, errno, "%s", args->argv[0]);
        return cli_fail(&err);
    }
    char *run_dir = ops_run_dir();
    enum status status = stop(run_dir, is_now, &err);
    free(run_dir);
    return status == OK ? CLI_OK : cli_fail(&err);
}
