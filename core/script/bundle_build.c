/* Building a bundle: walks the application's tree once, compiles each Lua file in a throw-away state, writes the
 * layout of bundle_priv.h. Runs no application code. BLOCKING: master and `check` only, never a worker's loop. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "script/bundle.h"
#include "script/bundle_priv.h"

#define MAX_DEPTH 16
#define MAX_FILES 10000
#define MAX_FILE (4u << 20)

struct file {
    char *module, *chunk; /* owned */
    struct buf source, code;
};
struct builder {
    char app_dir[PATH_MAX]; /* real path */
    const char *root;
    struct file *files; /* owned */
    size_t n_files, cap;
    lua_State *L;
    struct err *err;
};

bool bundle_skips_dir(const char *name, int depth)
{
    static const char *const skipped[] = {"var", "spec", "tests", "node_modules"};
    for (size_t i = 0; i < ARRAY_LEN(skipped); i++)
        if (strcmp(name, skipped[i]) == 0)
            return true;
    /* `chowk` is the library's own name, conf/chowk.lua is the operator's and may hold secrets. */
    return depth == 0 && (strcmp(name, "chowk") == 0 || strcmp(name, "conf") == 0);
}

/* "store/routes/init.lua" → "store.routes"; returns owned. */
static char *module_name(const char *relative)
{
    size_t len = strlen(relative) - 4;
    if (len >= 5 && memcmp(relative + len - 5, "/init", 5) == 0)
        len -= 5;
    char *name = xstrndup(relative, len);
    for (char *p = name; *p; p++)
        if (*p == '/')
            *p = '.';
    return name;
}

static enum status read_source(struct builder *b, const char *path, const char *shown, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(b->err, errno, "%s", shown);
    ssize_t n;
    while ((n = read(fd, buf_reserve(out, 65536), 65536)) > 0 && out->len <= MAX_FILE)
        out->len += (size_t)n;
    int errnum = errno;
    close(fd);
    if (n < 0)
        return err_errno(b->err, errnum, "%s", shown);
    return n > 0 ? err_set(b->err, ERR_INVALID, "%s: larger than %u MiB", shown, MAX_FILE >> 20) : OK;
}

static int append_code(lua_State *L, const void *bytes, size_t len, void *data)
{
    (void)L;
    buf_append(data, bytes, len);
    return 0;
}

static enum status compile_file(struct builder *b, struct file *file)
{
    char name[PATH_MAX + 1];
    snprintf(name, sizeof name, "@%s", file->chunk);
    /* Text only: a file of bytecode in the tree is refused (T22). */
    if (luaL_loadbufferx(b->L, file->source.ptr ? file->source.ptr : "", file->source.len, name, "t") != 0) {
        enum status rc = err_set(b->err, ERR_INVALID, "%s", lua_tostring(b->L, -1));
        lua_settop(b->L, 0);
        return rc;
    }
    lua_dump(b->L, append_code, &file->code);
    lua_settop(b->L, 0);
    return OK;
}

static enum status add_file(struct builder *b, const char *path, const char *relative)
{
    if (b->n_files == MAX_FILES)
        return err_set(b->err, ERR_INVALID, "more than %d Lua files below %s", MAX_FILES, b->app_dir);
    if (b->n_files == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 64;
        b->files = xrealloc(b->files, b->cap * sizeof *b->files);
    }
    struct buf chunk = {0};
    buf_printf(&chunk, "%s%s%s", b->root, b->root[0] ? "/" : "", relative);
    struct file *file = &b->files[b->n_files++];
    *file = (struct file){.module = module_name(relative), .chunk = xstrndup(chunk.ptr, chunk.len)};
    buf_free(&chunk);
    if (read_source(b, path, file->chunk, &file->source) != OK)
        return ERR;
    return compile_file(b, file);
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* A link may point anywhere inside the application, nowhere else. */
static bool is_inside_app(const struct builder *b, const char *path)
{
    char real[PATH_MAX];
    size_t len = strlen(b->app_dir);
    return realpath(path, real) && strncmp(real, b->app_dir, len) == 0 && (real[len] == '/' || real[len] == '\0');
}

static enum status walk(struct builder *b, const char *dir, const char *relative, int depth);

static enum status visit(struct builder *b, const char *dir, const char *relative, const char *name, int depth)
{
    char path[PATH_MAX], rel[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    int m = snprintf(rel, sizeof rel, "%s%s%s", relative, relative[0] ? "/" : "", name);
    if (n >= (int)sizeof path || m >= (int)sizeof rel)
        return err_set(b->err, ERR_INVALID, "%s: path too long", name);
    struct stat link, st;
    if (lstat(path, &link) < 0 || stat(path, &st) < 0) /* gone meanwhile, or a dangling link */
        return OK;
    if (S_ISLNK(link.st_mode) && !is_inside_app(b, path))
        return OK;
    if (S_ISDIR(st.st_mode))
        return bundle_skips_dir(name, depth) ? OK : walk(b, path, rel, depth + 1);
    if (S_ISREG(st.st_mode) && has_suffix(name, ".lua"))
        return add_file(b, path, rel);
    return OK;
}

static enum status walk(struct builder *b, const char *dir, const char *relative, int depth)
{
    if (depth > MAX_DEPTH)
        return err_set(b->err, ERR_INVALID, "%s: more than %d directories deep (a link to its parent?)", dir,
                       MAX_DEPTH);
    DIR *handle = opendir(dir);
    if (!handle)
        return err_errno(b->err, errno, "%s", dir);
    enum status rc = OK;
    struct dirent *entry;
    while (rc == OK && (entry = readdir(handle)))
        if (entry->d_name[0] != '.')
            rc = visit(b, dir, relative, entry->d_name, depth);
    closedir(handle);
    return rc;
}

static int by_module(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    int order = strcmp(x->module, y->module);
    return order ? order : strcmp(x->chunk, y->chunk);
}

/* store.lua and store/init.lua would both be "store". */
static enum status check_twins(struct builder *b)
{
    for (size_t i = 1; i < b->n_files; i++)
        if (strcmp(b->files[i - 1].module, b->files[i].module) == 0)
            return err_set(b->err, ERR_INVALID, "%s and %s are both module \"%s\"", b->files[i - 1].chunk,
                           b->files[i].chunk, b->files[i].module);
    return OK;
}

static void hash_sources(const struct builder *b, unsigned char out[CRYPTO_SHA256_LEN])
{
    struct buf all = {0};
    for (size_t i = 0; i < b->n_files; i++) {
        buf_append(&all, b->files[i].chunk, strlen(b->files[i].chunk) + 1);
        buf_printf(&all, "%zu:", b->files[i].source.len);
        buf_slice(&all, buf_as_slice(&b->files[i].source));
    }
    crypto_sha256(buf_as_slice(&all), out);
    buf_free(&all);
}

static struct bundle_range put(struct buf *out, struct slice bytes)
{
    struct bundle_range range = {out->len, bytes.len};
    buf_slice(out, bytes);
    return range;
}

static void write_bundle(const struct builder *b, struct buf *out)
{
    struct bundle_head head = {.version = BUNDLE_VERSION, .n_entries = (uint32_t)b->n_files};
    memcpy(head.magic, BUNDLE_MAGIC, sizeof head.magic);
    hash_sources(b, head.source_hash);
    size_t start = sizeof head, entries_len = b->n_files * sizeof(struct bundle_entry);
    struct bundle_entry *entries = xalloc(entries_len + 1);
    buf_clear(out);
    memset(buf_reserve(out, start + entries_len), 0, start + entries_len);
    out->len = start + entries_len;
    for (size_t i = 0; i < b->n_files; i++) {
        entries[i].module = put(out, slice_str(b->files[i].module));
        entries[i].chunk = put(out, slice_str(b->files[i].chunk));
        entries[i].code = put(out, buf_as_slice(&b->files[i].code));
    }
    if (entries_len)
        memcpy(out->ptr + start, entries, entries_len);
    free(entries);
    crypto_sha256(slice_of(out->ptr + start, out->len - start), head.payload_sum);
    memcpy(out->ptr, &head, sizeof head);
}

static void builder_destroy(struct builder *b)
{
    for (size_t i = 0; i < b->n_files; i++) {
        free(b->files[i].module);
        free(b->files[i].chunk);
        buf_free(&b->files[i].source);
        buf_free(&b->files[i].code);
    }
    free(b->files);
    if (b->L)
        lua_close(b->L);
}

enum status bundle_build(const char *app_dir, const char *root, struct buf *out, struct err *err)
{
    struct builder b = {.err = err, .root = strcmp(root, ".") == 0 ? "" : root};
    if (!realpath(app_dir, b.app_dir))
        return err_errno(err, errno, "%s", app_dir);
    char start[PATH_MAX * 2];
    snprintf(start, sizeof start, "%s%s%s", b.app_dir, b.root[0] ? "/" : "", b.root);
    if (access(start, R_OK | X_OK) != 0)
        return err_errno(err, errno, "app.root: %s", start);
    b.L = luaL_newstate();
    CHECK(b.L);
    enum status rc = walk(&b, start, "", 0);
    if (rc == OK && b.n_files)
        qsort(b.files, b.n_files, sizeof *b.files, by_module);
    if (rc == OK)
        rc = check_twins(&b);
    if (rc == OK)
        write_bundle(&b, out);
    builder_destroy(&b);
    return rc;
}
