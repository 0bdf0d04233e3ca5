/* Commands whose verbs are one statement each, straight on the database, so that they work whether a server runs or
 * not: `chowk jobs`, `chowk webhook`. */
#pragma once

#include "server/cli.h"

struct cli_verb {
    const char *name;
    bool takes_operand, needs_operand;
    const char *sql;      /* one text column; $1 is the operand, '' without one */
    const char *sql_json; /* with --json; NULL: the verb has none */
    const char *header, *nothing;
};

/* Runs the verb that args name (none: the first), and prints its rows. A verb that needs an operand and finds nothing
 * has failed. Returns the exit code. BLOCKING */
int cli_rows_run(struct cli_args *args, const struct cli_verb *verbs, size_t n_verbs);
