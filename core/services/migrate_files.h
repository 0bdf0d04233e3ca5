/* The migration files of a directory, read and checked, in order. BLOCKING. Implementation detail of migrate.c. */
#pragma once

#include "base/arena.h"
#include "base/err.h"

struct migrate_file {
    int version;
    const char *name; /* "0003_orders.sql" */
    const char *path; /* as messages show it: "migrations/0003_orders.sql" */
    struct slice sql; /* NUL-terminated */
    char checksum[65];
    bool no_transaction; /* its first line says so */
};
struct migrate_files {
    struct migrate_file *items; /* by version */
    size_t n_items;
};

/* All memory is the arena's. */
enum status migrate_files_load(const char *dir, struct arena *arena, struct migrate_files *out,
                               struct err *err) MUST_CHECK;
