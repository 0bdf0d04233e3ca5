/* `chowk status`: what the running master says of itself and its workers. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/cli.h"
#include "server/ops.h"

enum { SILENCE_MS = 10000 };

static enum status ask(const char *run_dir, bool is_json, struct buf *out, struct err *err)
{
    const char *const args[] = {is_json ? "--json" : isatty(STDOUT_FILENO) ? "--colour" : "--plain"};
    struct ops_request request = {
        .dir = run_dir, .command = "status", .args = args, .n_args = 1, .timeout_ms = SILENCE_MS};
    struct buf result = {0};
    enum status status = ops_call(&request, &result, err);
    if (status == OK && is_json)
        buf_printf(out, "%.*s\n", SLICE_FMT(buf_as_slice(&result)));
    else if (status == OK && !ops_result_text(buf_as_slice(&result), "text", out))
        status = err_set(err, ERR_INVALID, "the master's answer has no text");
    buf_free(&result);
    return status;
}

int cmd_status(struct cli_args *args)
{
    struct err err = {0};
    struct buf out = {0};
    bool is_json = cli_take_flag(args, "--json");
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    if (args->argc == 1 && chdir(args->argv[0]) != 0) {
        (void)err_set(&err, ERR_SYSTEM, "cannot work in %s", args->argv[0]);
        return cli_fail(&err);
    }
    char *run_dir = ops_run_dir();
    enum status status = ask(run_dir, is_json, &out, &err);
    if (status == OK)
        fwrite(out.ptr, 1, out.len, stdout);
    free(run_dir);
    buf_free(&out);
    return status == OK ? CLI_OK : cli_fail(&err);
}
