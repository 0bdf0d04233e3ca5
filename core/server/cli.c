/* Finds the command, answers --help, tells misuse from failure. What a command does is in its own file; a new one is a
 * row in `commands` and a cmd_<name>.c. */
#include "server/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct cli_command commands[] = {
    {"serve", "[DIR]", "serve the application in DIR (default: here)",
     "Reads DIR/conf/chowk.lua, starts one worker per core and serves until TERM,\n"
     "which drains. A second TERM stops at once. It never starts a database: give it\n"
     "DATABASE_URL and REDIS_URL, or pg.url and redis.url.\n",
     cmd_serve},
    {"dev", "[DIR]", "for development, with a private PostgreSQL and Redis if need be",
     "Development settings: two workers, text log, fixed development secrets. An\n"
     "application with a migrations/ directory gets a private PostgreSQL and Redis\n"
     "below DIR/var for each of DATABASE_URL and REDIS_URL that is not given, has its\n"
     "migrations applied, and migrations/seed.sql once. Ctrl-C stops everything; the\n"
     "data stays.\n",
     cmd_dev},
    {"reload", "[--rollback] [DIR]", "load edited code into the running server, without losing a request",
     "The new code is compiled, run and tested (app.self_test) in a process of its\n"
     "own first; then every worker takes it over, or none. What is wrong is printed\n"
     "as file:line, with exit code 1, and the code that serves stays.\n"
     "  --rollback   return to the code before the last reload\n",
     cmd_reload},
    {"check", "[--dev] [DIR]", "load configuration, code and routes, and say what is wrong",
     "Exits 1 with file:line for the first mistake. Connects to nothing.\n"
     "  --dev   as `chowk dev` would load it\n",
     cmd_check},
    {"routes", "[--dev] [DIR]", "list the routes: method, pattern, where they are declared, summary",
     "  --dev   as `chowk dev` would load it\n", cmd_routes},
    {"stop", "[--now] [DIR]", "stop the server of the application in DIR, and wait until it is gone",
     "As TERM does: it turns readiness off, goes on accepting for stop.lame_duck,\n"
     "then finishes what is in flight.\n"
     "  --now   cut what is in flight\n",
     cmd_stop},
    {"status", "[--json] [DIR]", "show what the server that runs here does",
     "Workers, generation, rates and latencies of the last seconds, connection pools.\n"
     "Exits 1 when none runs.\n"
     "  --json   the same for programs; the admin listener's GET /status gives it too\n",
     cmd_status},
    {"upgrade", "[DIR]", "replace the running server by the binary that is on the disk now",
     "As USR2 does: starts it beside the old one, on the same sockets and shared\n"
     "memory, with configuration and code as they are now. When all its workers are\n"
     "ready the old one finishes what it has begun; if they do not become ready\n"
     "within upgrade.timeout, the old one goes on, and this exits 1 with the reason.\n",
     cmd_upgrade},
    {"migrate", "[status | new NAME | --dry-run]", "apply the SQL migrations that are missing",
     "Works on DATABASE_URL or pg.url; without one, on the application's private\n"
     "PostgreSQL, started if need be.\n"
     "  status      list every migration and whether it is applied\n"
     "  new NAME    create the next numbered file in migrations/\n"
     "  --dry-run   list what would be applied\n",
     cmd_migrate},
    {"cache", "[stats | purge KEY… | purge --tag TAG… | purge --all]", "figures of the running server's cache; forget",
     "Speaks to the server of the application here. purge forgets on all machines\n"
     "that share the Redis.\n"
     "  --json   the answer as JSON\n",
     cmd_cache},
    {"jobs", "[list [WHICH] | dead | retry ID|all | cancel ID] [--json]",
     "look into the queue of background jobs, and revive what died",
     "Works on DATABASE_URL or pg.url, as migrate does.\n"
     "  list     what waits or runs; WHICH: a state or a queue\n"
     "  dead     what was discarded after its last attempt, with its last error\n"
     "  retry    enqueues a dead job again, with all its attempts\n"
     "  cancel   a job that waits\n",
     cmd_jobs},
    {"webhook", "[list [waiting] | replay ID | replay all] [--json]", "show webhooks that were parked, and replay them",
     "Works on DATABASE_URL or pg.url, as migrate does. A parked webhook is stored,\n"
     "but could not be applied; its reason is below it.\n"
     "  list      what is parked; with waiting: also what is still to be tried\n"
     "  replay    applies a stored webhook again, whether it was parked or applied;\n"
     "            all: those that are parked\n",
     cmd_webhook},
    {"run", "[--dev] FILE [ARGS]", "run a Lua file with the application's services",
     "The file runs as a handler would: pg, redis and the application's modules are\n"
     "there, calls may wait. ARGS are its `...`. What it returns is printed; an error\n"
     "exits 1.\n"
     "  --dev   with development settings\n",
     cmd_run},
    {"config", "[--dev] [--keys] [DIR]", "print the effective configuration, secrets masked",
     "One line per key: name, value, where the value came from.\n"
     "  --dev    as `chowk dev` would see it\n"
     "  --keys   every key with type, range, default and meaning\n",
     cmd_config},
    {"version", "", "print the version", NULL, cmd_version},
};

static void print_list(FILE *out)
{
    fprintf(out, "usage: chowk [-C DIR] COMMAND [ARGS]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n-C DIR works in DIR. `chowk COMMAND --help` says more.\n");
}

static void print_help(const struct cli_command *command, FILE *out)
{
    fprintf(out, "usage: chowk %s%s%s\n\n%s\n", command->name, *command->usage ? " " : "", command->usage,
            command->summary);
    if (command->help)
        fprintf(out, "\n%s", command->help);
}

static const struct cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

bool cli_take_flag(struct cli_args *args, const char *name)
{
    for (int i = 0; i < args->argc && strcmp(args->argv[i], "--") != 0; i++) {
        if (strcmp(args->argv[i], name) != 0)
            continue;
        memmove(&args->argv[i], &args->argv[i + 1], (size_t)(args->argc - i - 1) * sizeof(char *));
        args->argc--;
        return true;
    }
    return false;
}

enum status cli_check_operands(const struct cli_args *args, int min, int max)
{
    for (int i = 0; i < args->argc; i++) {
        if (args->argv[i][0] != '-' || !args->argv[i][1])
            continue;
        cli_misuse(args, "unknown option %s", args->argv[i]);
        return ERR;
    }
    if (args->argc >= min && args->argc <= max)
        return OK;
    if (args->argc < min)
        cli_misuse(args, "an argument is missing");
    else
        cli_misuse(args, "unexpected argument \"%s\"", args->argv[max]);
    return ERR;
}

int cli_misuse(const struct cli_args *args, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "chowk %s: ", args->command->name);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: chowk %s%s%s\n", args->command->name, *args->command->usage ? " " : "",
            args->command->usage);
    return CLI_MISUSE;
}

int cli_fail(const struct err *err)
{
    fprintf(stderr, "%s\n", err->message);
    if (err->detail[0])
        fprintf(stderr, "%s\n", err->detail);
    return CLI_FAILED;
}

static bool is_help(const char *arg)
{
    return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0;
}

/* --help counts wherever it stands, except among the arguments of the file that `run` runs. */
static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (is_help(argv[i]))
            return true;
        if (argv[i][0] != '-' && strstr(argv[i], ".lua"))
            return false;
    }
    return false;
}

static int unknown_command(const char *name)
{
    fprintf(stderr, "chowk: no command \"%s\"\n\n", name);
    print_list(stderr);
    return CLI_MISUSE;
}

static int help(int argc, char **argv)
{
    const struct cli_command *command = argc > 0 ? find_command(argv[0]) : NULL;
    if (argc > 0 && !command)
        return unknown_command(argv[0]);
    if (command)
        print_help(command, stdout);
    else
        print_list(stdout);
    return CLI_OK;
}

static int run_command(int argc, char **argv)
{
    const struct cli_command *command = find_command(argv[0]);
    if (!command)
        return unknown_command(argv[0]);
    if (wants_help(argc - 1, argv + 1)) {
        print_help(command, stdout);
        return CLI_OK;
    }
    struct cli_args args = {.command = command, .argc = argc - 1, .argv = argv + 1};
    return command->run(&args);
}

int cli_main(int argc, char **argv)
{
    argc--, argv++;
    if (argc == 1 && strcmp(argv[0], "-C") == 0) {
        fprintf(stderr, "chowk: -C: a directory is missing\n");
        return CLI_MISUSE;
    }
    if (argc >= 2 && strcmp(argv[0], "-C") == 0) {
        if (chdir(argv[1]) != 0) {
            fprintf(stderr, "chowk: cannot work in %s: %m\n", argv[1]);
            return CLI_FAILED;
        }
        argc -= 2, argv += 2;
    }
    if (argc == 0) {
        print_list(stderr);
        return CLI_MISUSE;
    }
    if (is_help(argv[0]) || strcmp(argv[0], "help") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(argv[0], "--version") == 0) {
        argv[0] = (char[]){"version"};
        return run_command(1, argv);
    }
    return run_command(argc, argv);
}
