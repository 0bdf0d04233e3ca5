#include "script/run.h"

#include <stdio.h>

#include "server/cli.h"
#include "server/loaded.h"

struct result {
    struct loop *loop;
    bool is_running, is_done;
    int code;
};

static void on_done(void *data, const char *message, const char *trace)
{
    struct result *result = data;
    fflush(stdout);
    if (message) {
        fprintf(stderr, "%s\n", message);
        if (trace)
            fprintf(stderr, "%s\n", trace);
    }
    result->is_done = true;
    result->code = message ? CLI_FAILED : CLI_OK;
    if (result->is_running)
        loop_stop(result->loop);
}

static int run(struct loaded *loaded, struct cli_args *args)
{
    struct result result = {.loop = loaded->host.loop};
    run_file(loaded->host.vm, args->argv[0], args->argc - 1, args->argv + 1, on_done, &result);
    result.is_running = true;
    if (!result.is_done)
        loop_run(result.loop);
    if (!result.is_done)
        fprintf(stderr, "%s: waits for something that cannot come\n", args->argv[0]);
    return result.is_done ? result.code : CLI_FAILED;
}

static bool take_leading_flag(struct cli_args *args, const char *name)
{
    if (args->argc == 0 || strcmp(args->argv[0], name) != 0)
        return false;
    args->argc--, args->argv++;
    return true;
}

int cmd_run(struct cli_args *args)
{
    struct err err = {0};
    struct app app;
    struct loaded loaded;
    bool development = take_leading_flag(args, "--dev"); /* what follows the file is the file's */
    if (args->argc == 0)
        return cli_misuse(args, "a file is missing");
    if (args->argv[0][0] == '-')
        return cli_misuse(args, "unknown option %s", args->argv[0]);
    enum status status = app_open(&app, NULL, development, "--dev", &err);
    if (status == OK)
        status = app_start_pg(&app, true, &err);
    if (status == OK)
        status = app_start_redis(&app, true, &err);
    if (status == OK)
        status = loaded_open(&loaded, &app, true, &err);
    int code = CLI_FAILED;
    if (status == OK) {
        code = run(&loaded, args);
        loaded_close(&loaded);
    }
    app_close(&app);
    return status == OK ? code : cli_fail(&err);
}
