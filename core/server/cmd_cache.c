/* `chowk cache`: what the running server's cache holds and does, and forgetting by hand. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "server/cli.h"
#include "server/ops.h"

enum { SILENCE_MS = 15000 };

static bool on_key(void *data UNUSED, struct slice name)
{
    printf("%-16.*s ", SLICE_FMT(name));
    return true;
}

static bool on_number(void *data UNUSED, double value)
{
    printf("%.0f\n", value);
    return true;
}

static bool on_bool(void *data UNUSED, bool value)
{
    puts(value ? "yes" : "no");
    return true;
}

static enum status print_stats(struct slice json, struct err *err)
{
    static const struct json_events events = {.on_key = on_key, .on_number = on_number, .on_bool = on_bool};
    struct arena arena;
    arena_create(&arena);
    enum status status = json_read(json, NULL, &events, NULL, &arena, err);
    arena_destroy(&arena);
    return status;
}

static void print_purged(struct slice json)
{
    bool is_behind = json.len && memmem(json.ptr, json.len, "\"l2_behind\":true", 16);
    puts(is_behind ? "purged; Redis is away and will be told when it is back" : "purged");
}

int cmd_cache(struct cli_args *args)
{
    struct err err = {0};
    struct buf result = {0};
    bool is_json = cli_take_flag(args, "--json");
    const char *words[OPS_MAX_ARGS] = {"stats"};
    size_t n = 1;
    bool is_all = cli_take_flag(args, "--all"), is_tag = cli_take_flag(args, "--tag");
    bool is_purge = args->argc > 0 && strcmp(args->argv[0], "purge") == 0;
    if (args->argc > OPS_MAX_ARGS - 2 || (args->argc > 0 && !is_purge && strcmp(args->argv[0], "stats") != 0))
        return cli_misuse(args, "expected stats or purge");
    if (is_purge ? is_all + is_tag > 1 || (args->argc > 1) == is_all : args->argc > 1 || is_all || is_tag)
        return cli_misuse(args, "expected stats, purge KEY…, purge --tag TAG… or purge --all");
    if (is_purge) {
        words[0] = "purge";
        if (is_all || is_tag)
            words[n++] = is_all ? "--all" : "--tag";
        for (int i = 1; i < args->argc; i++)
            words[n++] = args->argv[i];
    }
    char *run_dir = ops_run_dir();
    struct ops_request request = {
        .dir = run_dir, .command = "cache", .args = words, .n_args = n, .timeout_ms = SILENCE_MS};
    enum status status = ops_call(&request, &result, &err);
    free(run_dir);
    if (status == OK && is_json)
        printf("%.*s\n", SLICE_FMT(buf_as_slice(&result)));
    else if (status == OK && is_purge)
        print_purged(buf_as_slice(&result));
    else if (status == OK)
        status = print_stats(buf_as_slice(&result), &err);
    buf_free(&result);
    return status == OK ? CLI_OK : cli_fail(&err);
}
