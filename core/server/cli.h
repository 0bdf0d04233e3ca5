/* The command line: one table of commands, each in a cmd_<name>.c of its own.
 * Exit codes everywhere: 0 fine, 1 failed, 2 misused. */
#pragma once

#include "base/base.h"
#include "base/err.h"

#define CHOWK_VERSION "0.2.0"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_MISUSE = 2 };

struct cli_command;
struct cli_args { /* what follows the command's name; options are taken out as they are asked for */
    const struct cli_command *command;
    int argc;
    char **argv;
};

struct cli_command {
    const char *name;
    const char *usage;   /* "[DIR]" */
    const char *summary; /* one line, for the list */
    const char *help;    /* paragraphs, for --help; NULL: the summary is all */
    int (*run)(struct cli_args *args);
};

int cli_main(int argc, char **argv);

/* True if the option is there; takes it out. Options stand anywhere before "--". */
bool cli_take_flag(struct cli_args *args, const char *name);
/* After the flags: OK if what is left are min..max operands; else says so on stderr (exit with CLI_MISUSE). */
enum status cli_check_operands(const struct cli_args *args, int min, int max) MUST_CHECK;
int cli_misuse(const struct cli_args *args, const char *fmt, ...) PRINTF_LIKE(2, 3); /* returns CLI_MISUSE */
int cli_fail(const struct err *err);                                                 /* prints it; returns CLI_FAILED */

/* The commands, in the order of the list. */
int cmd_serve(struct cli_args *args);
int cmd_dev(struct cli_args *args);
int cmd_reload(struct cli_args *args);
int cmd_check(struct cli_args *args);
int cmd_routes(struct cli_args *args);
int cmd_migrate(struct cli_args *args);
int cmd_jobs(struct cli_args *args);
int cmd_webhook(struct cli_args *args);
int cmd_run(struct cli_args *args);
int cmd_stop(struct cli_args *args);
int cmd_upgrade(struct cli_args *args);
int cmd_cache(struct cli_args *args);
int cmd_status(struct cli_args *args);
int cmd_config(struct cli_args *args);
int cmd_version(struct cli_args *args);
