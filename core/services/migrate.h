/* Migrations: numbered SQL files applied in order, once, under an advisory lock, with a checksum ledger
 * (table chowk_migrations). One file, one transaction, unless its first line says `-- chowk: no transaction`. BLOCKING.
 */
#pragma once

#include "base/err.h"
#include "data/pg_admin.h"

struct migrate_opts {
    const char *dir;                                                               /* migrations/ */
    bool dry_run;                                                                  /* list what would run */
    void (*on_file)(void *data, const char *file, const char *state, uint64_t ms); /* "applied", "pending", "done" */
    void *data;
    uint32_t lock_wait_ms; /* for another process that is migrating; 0 = 60 000 */
};
/* Files are NNNN_name.sql; other names that begin with no digit (seed.sql, README) are left alone. Refused before
 * anything runs: two files of one number, an applied file that changed or is missing, a new file numbered below an
 * applied one, BEGIN or COMMIT inside a file that is one transaction. Files before a failing one stay applied. ERR:
 * message reads "migrations/0003_orders.sql:42: <PostgreSQL's text>", the line being that of the error's position, else
 * of its statement. */
enum status migrate_run(struct pg_admin *admin, const struct migrate_opts *opts, struct err *err) MUST_CHECK;
/* Calls on_file for each, "done" or "pending"; then ERR as above if the files do not fit the ledger. Takes no lock. */
enum status migrate_status(struct pg_admin *admin, const struct migrate_opts *opts, struct err *err) MUST_CHECK;
