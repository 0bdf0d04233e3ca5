/* Brings a database up to the migration files. Everything is checked before the first statement runs: the files against
 * each other, then against the ledger (chowk_migrations, in the first schema of the search path). A session-level
 * advisory lock keeps two runners apart; it is given back at the end, and by PostgreSQL if we die.
 *
 * A file is sent statement by statement, as psql does, because then a failure has a line even when PostgreSQL gives no
 * position, and because CREATE INDEX CONCURRENTLY may not share its message with others. The ledger row is written in
 * the file's own transaction, so a file is applied and recorded, or neither. */
#include "services/migrate.h"

#include <stdlib.h>

#include "base/clock.h"
#include "services/migrate_files.h"
#include "services/sql_split.h"

#define LOCK_WAIT_MS 60000
#define LOCK_KEY "426953897835"                                           /* "chowk" in ASCII */
#define LOCK_WHERE "classid = 99 AND objid = 1752135531 AND objsubid = 1" /* the same key as pg_locks shows it */

struct applied {
    int version;
    struct slice name, checksum;
};

struct run {
    struct pg_admin *admin;
    const struct migrate_opts *opts;
    struct arena arena;
    struct migrate_files files;
    struct applied *applied; /* by version */
    size_t n_applied;
    const char *ledger; /* schema-qualified: a file may change the search path */
    bool has_ledger;
};

static enum status exec(struct run *run, const char *sql, struct err *err)
{
    int position;
    return pg_admin_exec(run->admin, sql, &position, err);
}

/* First column of the first row, or {NULL, 0}. */
static enum status value(struct run *run, const char *sql, struct slice *out, struct err *err)
{
    struct slice *values;
    size_t n;
    *out = (struct slice){0};
    if (pg_admin_column(run->admin, sql, NULL, 0, &run->arena, &values, &n, err) != OK)
        return ERR;
    if (n > 0)
        *out = values[0];
    return OK;
}

static void tell(const struct run *run, const struct migrate_file *file, const char *state, uint64_t ms)
{
    if (run->opts->on_file)
        run->opts->on_file(run->opts->data, file->path, state, ms);
}

/* ---- the lock ------------------------------------------------------------------------------------------------- */

static enum status lock_is_held(struct run *run, struct err *err)
{
    struct slice holder;
    struct err ignored;
    if (value(run,
              "SELECT 'process ' || l.pid || coalesce(' (' || nullif(a.application_name, '') || ')', '') "
              "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
              "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND " LOCK_WHERE,
              &holder, &ignored) != OK ||
        holder.len == 0)
        holder = SLICE("another process");
    return err_set(err, ERR_UNAVAILABLE, "migrate: %.*s is migrating this database; gave up waiting for it",
                   SLICE_FMT(holder));
}

static enum status lock(struct run *run, struct err *err)
{
    unsigned wait_ms = run->opts->lock_wait_ms ? run->opts->lock_wait_ms : LOCK_WAIT_MS;
    const char *set = arena_printf(&run->arena, "SET lock_timeout = %u; SET statement_timeout = 0", wait_ms);
    if (exec(run, set, err) != OK)
        return ERR;
    if (exec(run, "SELECT pg_advisory_lock(" LOCK_KEY ")", err) != OK)
        return strcmp(err->sqlstate, "55P03") == 0 ? lock_is_held(run, err) : ERR;
    return exec(run, "RESET lock_timeout; RESET statement_timeout", err);
}

static void unlock(struct run *run)
{
    struct err ignored; /* a broken connection has given it back already */
    (void)exec(run, "SELECT pg_advisory_unlock(" LOCK_KEY ")", &ignored);
}

/* ---- the ledger ----------------------------------------------------------------------------------------------- */

static enum status find_ledger(struct run *run, struct err *err)
{
    struct slice name, oid;
    if (value(run, "SELECT quote_ident(current_schema()) || '.chowk_migrations'", &name, err) != OK)
        return ERR;
    if (!name.ptr)
        return err_set(err, ERR_INVALID, "migrate: no schema of the search path exists");
    run->ledger = arena_copy(&run->arena, name).ptr;
    if (value(run, "SELECT to_regclass(quote_ident(current_schema()) || '.chowk_migrations')::text", &oid, err) != OK)
        return ERR;
    run->has_ledger = oid.ptr != NULL;
    return OK;
}

static enum status create_ledger(struct run *run, struct err *err)
{
    const char *sql = arena_printf(&run->arena,
                                   "CREATE TABLE IF NOT EXISTS %s (version integer PRIMARY KEY, name text NOT NULL, "
                                   "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), "
                                   "ms integer NOT NULL)",
                                   run->ledger);
    if (!run->has_ledger && exec(run, sql, err) != OK)
        return ERR;
    run->has_ledger = true;
    return OK;
}

/* "3 9f86…d0 0003_orders.sql" */
static bool parse_applied(struct slice row, struct applied *out)
{
    const char *space = row.ptr ? memchr(row.ptr, ' ', row.len) : NULL;
    int64_t version;
    if (!space || !slice_to_int(slice_of(row.ptr, (size_t)(space - row.ptr)), INT32_MIN, INT32_MAX, &version))
        return false;
    struct slice rest = slice_of(space + 1, row.len - (size_t)(space + 1 - row.ptr));
    const char *second = memchr(rest.ptr, ' ', rest.len);
    if (!second)
        return false;
    size_t checksum_len = (size_t)(second - rest.ptr);
    *out = (struct applied){.version = (int)version,
                            .checksum = slice_of(rest.ptr, checksum_len),
                            .name = slice_of(second + 1, rest.len - checksum_len - 1)};
    return true;
}

static enum status read_ledger(struct run *run, struct err *err)
{
    struct slice *rows;
    if (!run->has_ledger)
        return OK;
    const char *sql = arena_printf(
        &run->arena, "SELECT version || ' ' || checksum || ' ' || name FROM %s ORDER BY version", run->ledger);
    if (pg_admin_column(run->admin, sql, NULL, 0, &run->arena, &rows, &run->n_applied, err) != OK)
        return ERR;
    run->applied = arena_alloc(&run->arena, (run->n_applied + 1) * sizeof *run->applied);
    for (size_t i = 0; i < run->n_applied; i++)
        if (!parse_applied(rows[i], &run->applied[i]))
            return err_set(err, ERR_INVALID, "migrate: %s has a row that is not ours", run->ledger);
    return OK;
}

static const struct applied *find_applied(const struct run *run, int version)
{
    for (size_t i = 0; i < run->n_applied; i++)
        if (run->applied[i].version == version)
            return &run->applied[i];
    return NULL;
}

static bool has_file(const struct run *run, int version)
{
    for (size_t i = 0; i < run->files.n_items; i++)
        if (run->files.items[i].version == version)
            return true;
    return false;
}

static enum status check_ledger(const struct run *run, struct err *err)
{
    int newest = run->n_applied > 0 ? run->applied[run->n_applied - 1].version : 0;
    for (size_t i = 0; i < run->n_applied; i++)
        if (!has_file(run, run->applied[i].version))
            return err_set(err, ERR_INVALID, "%s/%.*s: was applied to this database and is missing", run->opts->dir,
                           SLICE_FMT(run->applied[i].name));
    for (size_t i = 0; i < run->files.n_items; i++) {
        const struct migrate_file *file = &run->files.items[i];
        const struct applied *applied = find_applied(run, file->version);
        if (!applied && file->version < newest)
            return err_set(err, ERR_INVALID, "%s: comes before %04d, which is applied already: give it a higher number",
                           file->path, newest);
        if (applied && !slice_eq(applied->checksum, slice_str(file->checksum)))
            return err_set(err, ERR_INVALID, "%s: has changed since it was applied: write a new file instead",
                           file->path);
    }
    return OK;
}

/* ---- one file ------------------------------------------------------------------------------------------------- */

/* The line of the `position`-th character of a statement, psql's way. */
static int line_of(const struct sql_statement *statement, int position)
{
    int line = statement->line;
    const char *p = statement->text.ptr, *end = p + statement->text.len;
    for (int n = 1; n < position && p < end; n++) {
        line += *p == '\n';
        for (p++; p < end && ((unsigned char)*p & 0xC0) == 0x80;)
            p++;
    }
    return line;
}

static enum status run_statement(struct run *run, const struct migrate_file *file,
                                 const struct sql_statement *statement, struct err *err)
{
    int position = 0;
    char *sql = xstrndup(statement->text.ptr, statement->text.len);
    enum status status = pg_admin_exec(run->admin, sql, &position, err);
    free(sql);
    if (status == OK)
        return OK;
    return err_prefix(err, "%s:%d", file->path, line_of(statement, position));
}

static bool is_transaction_control(const struct sql_statement *statement)
{
    static const struct slice words[] = {{"BEGIN", 5}, {"START", 5}, {"COMMIT", 6}, {"END", 3}, {"ABORT", 5}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (slice_ieq(statement->keyword, words[i]))
            return true;
    if (!slice_ieq(statement->keyword, SLICE("ROLLBACK")))
        return false;
    struct slice rest = slice_of(statement->text.ptr + 8, statement->text.len - 8);
    rest = slice_trim(rest); /* ROLLBACK TO SAVEPOINT stays inside */
    return rest.len < 3 || !slice_ieq(slice_of(rest.ptr, 3), SLICE("TO "));
}

static enum status check_file(const struct migrate_file *file, struct err *err)
{
    struct sql_split split = {.rest = file->sql};
    struct sql_statement statement;
    while (!file->no_transaction && sql_split_next(&split, &statement))
        if (is_transaction_control(&statement))
            return err_set(err, ERR_INVALID,
                           "%s:%d: %.*s in a file that is one transaction: leave it out, or let the first line be "
                           "\"-- chowk: no transaction\"",
                           file->path, statement.line, SLICE_FMT(statement.keyword));
    return OK;
}

static enum status run_statements(struct run *run, const struct migrate_file *file, uint64_t *ms, struct err *err)
{
    struct sql_split split = {.rest = file->sql};
    struct sql_statement statement;
    uint64_t start = clock_ms();
    while (sql_split_next(&split, &statement))
        if (run_statement(run, file, &statement, err) != OK)
            return ERR;
    *ms = clock_ms() - start;
    const char *sql =
        arena_printf(&run->arena, "INSERT INTO %s (version, name, checksum, ms) VALUES (%d, '%s', '%s', %d)",
                     run->ledger, file->version, file->name, file->checksum, (int)*ms);
    if (exec(run, sql, err) != OK) /* the name is of [0-9A-Za-z_-] */
        return err_prefix(err, "%s: the ledger", file->path);
    return OK;
}

static enum status apply(struct run *run, const struct migrate_file *file, struct err *err)
{
    uint64_t ms = 0;
    struct err ignored;
    if (file->no_transaction) {
        if (run_statements(run, file, &ms, err) != OK) {
            struct err cause = *err;
            return err_set(err, cause.code, "%s (the file runs without a transaction: what came before stays)",
                           cause.message);
        }
    } else {
        if (exec(run, "BEGIN", err) != OK)
            return err_prefix(err, "%s", file->path);
        if (run_statements(run, file, &ms, err) != OK) {
            (void)exec(run, "ROLLBACK", &ignored);
            return ERR;
        }
        /* Deferred constraints fail here. */
        if (exec(run, "COMMIT", err) != OK)
            return err_prefix(err, "%s: COMMIT", file->path);
    }
    (void)exec(run, "RESET ALL", &ignored); /* a SET must not leak into the next file */
    tell(run, file, "applied", ms);
    return OK;
}

/* ---- all files ------------------------------------------------------------------------------------------------ */

static enum status apply_pending(struct run *run, struct err *err)
{
    for (size_t i = 0; i < run->files.n_items; i++)
        if (!find_applied(run, run->files.items[i].version) && check_file(&run->files.items[i], err) != OK)
            return ERR;
    for (size_t i = 0; i < run->files.n_items; i++) {
        const struct migrate_file *file = &run->files.items[i];
        if (find_applied(run, file->version))
            tell(run, file, "done", 0);
        else if (run->opts->dry_run)
            tell(run, file, "pending", 0);
        else if (apply(run, file, err) != OK)
            return ERR;
    }
    return OK;
}

static enum status run_locked(struct run *run, struct err *err)
{
    if (find_ledger(run, err) != OK)
        return ERR;
    if (!run->opts->dry_run && create_ledger(run, err) != OK)
        return ERR;
    if (read_ledger(run, err) != OK || check_ledger(run, err) != OK)
        return ERR;
    return apply_pending(run, err);
}

enum status migrate_run(struct pg_admin *admin, const struct migrate_opts *opts, struct err *err)
{
    struct run run = {.admin = admin, .opts = opts};
    arena_create(&run.arena);
    enum status status = migrate_files_load(opts->dir, &run.arena, &run.files, err);
    if (status == OK && !opts->dry_run) {
        status = lock(&run, err);
        if (status == OK) {
            status = run_locked(&run, err);
            unlock(&run);
        }
    } else if (status == OK) {
        status = run_locked(&run, err);
    }
    arena_destroy(&run.arena);
    return status;
}

enum status migrate_status(struct pg_admin *admin, const struct migrate_opts *opts, struct err *err)
{
    struct run run = {.admin = admin, .opts = opts};
    arena_create(&run.arena);
    enum status status = migrate_files_load(opts->dir, &run.arena, &run.files, err);
    if (status == OK)
        status = find_ledger(&run, err);
    if (status == OK)
        status = read_ledger(&run, err);
    for (size_t i = 0; status == OK && i < run.files.n_items; i++) {
        const struct migrate_file *file = &run.files.items[i];
        tell(&run, file, find_applied(&run, file->version) ? "done" : "pending", 0);
    }
    if (status == OK)
        status = check_ledger(&run, err);
    arena_destroy(&run.arena);
    return status;
}
