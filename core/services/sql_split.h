/* Cuts a file of SQL into its statements, as psql does: a semicolon inside quotes, dollar quotes, comments, parentheses
 * or a BEGIN ATOMIC body does not end one. Pure; errors are left for PostgreSQL to find. */
#pragma once

#include "base/slice.h"

struct sql_statement {
    struct slice text;    /* from its first word to before the semicolon; borrowed */
    struct slice keyword; /* its first word, as written */
    int line;             /* of its first word, 1-based */
};

struct sql_split { /* zeroed but for `rest` = the file: at the beginning */
    struct slice rest;
    int line; /* lines before `rest` */
};

/* False: only blanks and comments are left. */
bool sql_split_next(struct sql_split *split, struct sql_statement *out);
