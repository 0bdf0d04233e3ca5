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
};
/* ERR: message reads "migrations/0003_orders.sql:42: <PostgreSQL's text>"; a changed applied file is an error too. */
enum status migrate_run(struct pg_admin *admin, const struct migrate_opts *opts, struct err *err) MUST_CHECK;
enum status migrate_status(struct pg_admin *admin, const struct migrate_opts *opts, struct err *err) MUST_CHECK;
