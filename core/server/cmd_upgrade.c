#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/cli.h"
#include "server/ops.h"

static void on_progress(void *data UNUSED, const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static int upgrade(const char *run_dir, struct err *err)
{
    struct buf result = {0};
    double pid = 0, old_pid = 0, ms = 0;
    struct ops_request request = {.dir = run_dir, .command = "upgrade", .on_progress = on_progress};
    int code = CLI_FAILED;
    if (ops_call(&request, &result, err) != OK) { /* a master that dies closes the socket: no need of a deadline */
        code = cli_fail(err);
    } else {
        ops_result_number(buf_as_slice(&result), "pid", &pid);
        ops_result_number(buf_as_slice(&result), "old_pid", &old_pid);
        ops_result_number(buf_as_slice(&result), "ms", &ms);
        printf("upgraded: pid %.0f serves after %.0f ms, pid %.0f finishes what it has begun\n", pid, ms, old_pid);
        code = CLI_OK;
    }
    buf_free(&result);
    return code;
}

int cmd_upgrade(struct cli_args *args)
{
    struct err err = {0};
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    if (args->argc == 1 && chdir(args->argv[0]) != 0) {
        err_errno(&err, errno, "%s", args->argv[0]);
        return cli_fail(&err);
    }
    char *run_dir = ops_run_dir();
    int code = upgrade(run_dir, &err);
    free(run_dir);
    return code;
}
