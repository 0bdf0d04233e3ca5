#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/cli.h"
#include "server/ops.h"

enum { SILENCE_MS = 3900 * 1000 }; /* reload.timeout may be an hour; a master that dies closes the socket at once */

static void print(struct slice result, bool is_rollback)
{
    struct buf hash = {0};
    double generation = 0, routes = 0, ms = 0;
    ops_result_text(result, "hash", &hash);
    ops_result_number(result, "generation", &generation);
    ops_result_number(result, "routes", &routes);
    ops_result_number(result, "ms", &ms);
    printf("%s: code %.*s, generation %.0f", is_rollback ? "rolled back" : "reloaded", SLICE_FMT(buf_as_slice(&hash)),
           generation);
    if (routes > 0)
        printf(", %.0f route%s", routes, routes == 1 ? "" : "s");
    printf(", %.0f ms\n", ms);
    buf_free(&hash);
}

static int reload(const char *run_dir, bool is_rollback, struct err *err)
{
    const char *args[] = {"--rollback"};
    struct buf result = {0}, error = {0};
    struct ops_request request = {
        .dir = run_dir, .command = "reload", .args = args, .n_args = is_rollback, .timeout_ms = SILENCE_MS};
    int code = CLI_FAILED;
    if (ops_call(&request, &result, err) != OK) {
        code = cli_fail(err);
    } else if (ops_result_text(buf_as_slice(&result), "error", &error) && error.len > 0) {
        fprintf(stderr, "%.*s\n", SLICE_FMT(buf_as_slice(&error)));
    } else {
        print(buf_as_slice(&result), is_rollback);
        code = CLI_OK;
    }
    buf_free(&result);
    buf_free(&error);
    return code;
}

int cmd_reload(struct cli_args *args)
{
    struct err err = {0};
    bool is_rollback = cli_take_flag(args, "--rollback");
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    if (args->argc == 1 && chdir(args->argv[0]) != 0) {
        err_errno(&err, errno, "%s", args->argv[0]);
        return cli_fail(&err);
    }
    char *run_dir = ops_run_dir();
    int code = reload(run_dir, is_rollback, &err);
    free(run_dir);
    return code;
}
