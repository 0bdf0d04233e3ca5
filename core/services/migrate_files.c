#include "services/migrate_files.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crypto.h"

#define MAX_FILE_BYTES (64 << 20)
#define MAX_FILES 9999

/* "0003_orders.sql": the number, four digits or more, becomes the version. */
static bool parse_name(const char *name, int *version)
{
    size_t n_digits = strspn(name, "0123456789"), len = strlen(name);
    int64_t number;
    if (n_digits < 4 || n_digits > 9 || name[n_digits] != '_' || len < n_digits + 6 || strcmp(name + len - 4, ".sql"))
        return false;
    for (const char *p = name + n_digits; p < name + len - 4; p++)
        if (!isalnum((unsigned char)*p) && *p != '_' && *p != '-')
            return false;
    if (!slice_to_int(slice_of(name, n_digits), 1, 999999999, &number))
        return false;
    *version = (int)number;
    return true;
}

static enum status read_all(int fd, char *out, size_t len)
{
    while (len > 0) {
        ssize_t n = read(fd, out, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ERR;
        out += n;
        len -= (size_t)n;
    }
    return OK;
}

static enum status read_file(int fd, struct migrate_file *file, struct arena *arena, struct err *err)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        return err_errno(err, errno, "%s", file->path);
    if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE_BYTES)
        return err_set(err, ERR_INVALID, "%s: not a file of at most %d MiB", file->path, MAX_FILE_BYTES >> 20);
    char *text = arena_alloc(arena, (size_t)st.st_size + 1);
    if (read_all(fd, text, (size_t)st.st_size) != OK)
        return err_errno(err, errno, "%s: read", file->path);
    text[st.st_size] = '\0';
    file->sql = slice_of(text, (size_t)st.st_size);
    if (memchr(text, '\0', file->sql.len))
        return err_set(err, ERR_INVALID, "%s: holds a NUL byte", file->path);
    return OK;
}

static void note_content(struct migrate_file *file)
{
    unsigned char hash[CRYPTO_SHA256_LEN];
    crypto_sha256(file->sql, hash);
    crypto_hex(slice_of((const char *)hash, sizeof hash), file->checksum);
    file->checksum[64] = '\0';
    size_t line_len = strcspn(file->sql.ptr, "\r\n");
    file->no_transaction = slice_eq(slice_trim(slice_of(file->sql.ptr, line_len)), SLICE("-- chowk: no transaction"));
}

static int by_version(const void *a, const void *b)
{
    const struct migrate_file *x = a, *y = b;
    return x->version != y->version ? (x->version < y->version ? -1 : 1) : strcmp(x->name, y->name);
}

static enum status find_files(DIR *handle, const char *dir, struct arena *arena, struct migrate_files *out,
                              struct err *err)
{
    for (struct dirent *entry; (entry = readdir(handle)) != NULL;) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        struct migrate_file *file = &out->items[out->n_items];
        *file = (struct migrate_file){.name = arena_copy(arena, slice_str(entry->d_name)).ptr,
                                      .path = arena_printf(arena, "%s/%s", dir, entry->d_name)};
        if (!parse_name(entry->d_name, &file->version))
            return err_set(err, ERR_INVALID, "%s: expected a name like 0003_orders.sql", file->path);
        if (++out->n_items > MAX_FILES)
            return err_set(err, ERR_INVALID, "%s: more than %d files", dir, MAX_FILES);
    }
    return OK;
}

static enum status check_numbers(const struct migrate_files *files, struct err *err)
{
    for (size_t i = 1; i < files->n_items; i++)
        if (files->items[i].version == files->items[i - 1].version)
            return err_set(err, ERR_INVALID, "%s: has the same number as %s", files->items[i].path,
                           files->items[i - 1].name);
    return OK;
}

enum status migrate_files_load(const char *dir, struct arena *arena, struct migrate_files *out, struct err *err)
{
    *out = (struct migrate_files){.items = arena_zalloc(arena, (MAX_FILES + 1) * sizeof *out->items)};
    size_t dir_len = strlen(dir);
    while (dir_len > 1 && dir[dir_len - 1] == '/')
        dir_len--;
    DIR *handle = opendir(dir);
    if (!handle)
        return err_errno(err, errno, "%s", dir);
    enum status status = find_files(handle, arena_copy(arena, slice_of(dir, dir_len)).ptr, arena, out, err);
    closedir(handle);
    if (status != OK)
        return ERR;
    qsort(out->items, out->n_items, sizeof *out->items, by_version);
    for (size_t i = 0; i < out->n_items && status == OK; i++) {
        int fd = open(out->items[i].path, O_RDONLY | O_CLOEXEC);
        status = read_file(fd, &out->items[i], arena, err);
        if (fd >= 0)
            close(fd);
        if (status == OK)
            note_content(&out->items[i]);
    }
    return status == OK ? check_numbers(out, err) : ERR;
}
