/* Development data: migrations/seed.sql, applied once, remembered by checksum in the table chowk_seeds. BLOCKING. */
#pragma once

#include "base/err.h"
#include "data/pg_admin.h"

enum seed_outcome {
    SEED_NONE,    /* there is no such file */
    SEED_DONE,    /* applied before, unchanged */
    SEED_APPLIED, /* now */
    SEED_CHANGED, /* changed since it was applied: left alone, because a seed is no migration */
};

/* One transaction. ERR: "migrations/seed.sql:42: <PostgreSQL's text>". */
enum status seed_apply(struct pg_admin *admin, const char *path, enum seed_outcome *outcome,
                       struct err *err) MUST_CHECK;
