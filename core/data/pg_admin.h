/* BLOCKING connection for the command line (migrate, embedded start-up): one statement after the other, several
 * statements in one text allowed. Never used in a worker. */
#pragma once

#include "base/arena.h"
#include "base/err.h"

struct pg_admin;
struct pg_admin *pg_admin_open(const char *url, struct err *err); /* returns owned or NULL */
void pg_admin_close(struct pg_admin *admin);
/* err->message carries PostgreSQL's text; `position` (1-based character offset into sql, 0 if unknown) is set on ERR.
 */
enum status pg_admin_exec(struct pg_admin *admin, const char *sql, int *position, struct err *err) MUST_CHECK;
/* First column of each row, copied into arena; *values has *n_values entries ({NULL,0} for SQL NULL). */
enum status pg_admin_column(struct pg_admin *admin, const char *sql, const char *const *params, int n_params,
                            struct arena *arena, struct slice **values, size_t *n_values, struct err *err) MUST_CHECK;
