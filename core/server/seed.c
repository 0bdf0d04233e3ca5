#include "server/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/crypto.h"

#define CHECKSUM_LEN (2 * CRYPTO_SHA256_LEN)

/* NUL-terminated. A missing file is OK with *is_there false. */
static enum status read_file(const char *path, struct buf *out, bool *is_there, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *is_there = fd >= 0;
    if (fd < 0)
        return errno == ENOENT ? OK : err_errno(err, errno, "%s", path);
    ssize_t n;
    while ((n = read(fd, buf_reserve(out, 65536), 65536)) > 0)
        out->len += (size_t)n;
    int errnum = errno;
    close(fd);
    if (n < 0)
        return err_errno(err, errnum, "%s", path);
    buf_byte(out, '\0');
    return OK;
}

/* PostgreSQL's position counts characters, from 1. */
static int line_at(const char *sql, int position)
{
    int line = 1;
    for (int i = 1; i < position && *sql; sql++) {
        line += *sql == '\n';
        i += ((unsigned char)sql[1] & 0xc0) != 0x80;
    }
    return line;
}

static enum status find_applied(struct pg_admin *admin, const char *path, struct slice checksum,
                                enum seed_outcome *outcome, struct err *err)
{
    static const char create[] =
        "CREATE TABLE IF NOT EXISTS chowk_seeds (file text PRIMARY KEY, checksum text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT now())";
    struct arena arena;
    struct slice *values;
    size_t n_values;
    int position;
    if (pg_admin_exec(admin, create, &position, err) != OK)
        return ERR;
    arena_create(&arena);
    enum status status = pg_admin_column(admin, "SELECT checksum FROM chowk_seeds WHERE file = $1",
                                         (const char *const[]){path}, 1, &arena, &values, &n_values, err);
    *outcome = SEED_NONE;
    if (status == OK && n_values > 0)
        *outcome = slice_eq(values[0], checksum) ? SEED_DONE : SEED_CHANGED;
    arena_destroy(&arena);
    return status;
}

static enum status run_seed(struct pg_admin *admin, const char *path, const char *sql, struct err *err)
{
    int position = 0;
    if (pg_admin_exec(admin, sql, &position, err) == OK)
        return OK;
    return position > 0 ? err_prefix(err, "%s:%d", path, line_at(sql, position)) : err_prefix(err, "%s", path);
}

static enum status remember(struct pg_admin *admin, const char *path, const char *checksum, struct err *err)
{
    struct arena arena;
    struct slice *values;
    size_t n_values;
    arena_create(&arena);
    enum status status =
        pg_admin_column(admin, "INSERT INTO chowk_seeds (file, checksum) VALUES ($1, $2) RETURNING file",
                        (const char *const[]){path, checksum}, 2, &arena, &values, &n_values, err);
    arena_destroy(&arena);
    return status;
}

static enum status apply(struct pg_admin *admin, const char *path, const char *sql, const char *checksum,
                         struct err *err)
{
    int position;
    if (pg_admin_exec(admin, "BEGIN", &position, err) != OK)
        return ERR;
    if (run_seed(admin, path, sql, err) == OK && remember(admin, path, checksum, err) == OK)
        return pg_admin_exec(admin, "COMMIT", &position, err);
    struct err ignored; /* the first error is the one to tell; closing rolls back as well */
    if (pg_admin_exec(admin, "ROLLBACK", &position, &ignored) != OK)
        return ERR;
    return ERR;
}

enum status seed_apply(struct pg_admin *admin, const char *path, enum seed_outcome *outcome, struct err *err)
{
    struct buf sql = {0};
    bool is_there;
    char checksum[CHECKSUM_LEN + 1] = "";
    unsigned char hash[CRYPTO_SHA256_LEN];
    *outcome = SEED_NONE;
    enum status status = read_file(path, &sql, &is_there, err);
    if (status == OK && is_there) {
        crypto_sha256(slice_of(sql.ptr, sql.len - 1), hash);
        crypto_hex(slice_of((const char *)hash, sizeof(hash)), checksum);
        status = find_applied(admin, path, slice_str(checksum), outcome, err);
        if (status == OK && *outcome == SEED_NONE) {
            status = apply(admin, path, sql.ptr, checksum, err);
            *outcome = SEED_APPLIED;
        }
    }
    buf_free(&sql);
    return status;
}
