/* What `chowk config` prints. The only place that turns configuration into text for eyes, so the only place where
 * masking has to be right: a secret leaves here as asterisks whatever its length, a URL without its password, and in
 * the free-form settings every value whose name sounds like a secret. */
#include "server/config_dump.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "server/config_units.h"

#define MASK "********"

/* `scheme://user:password@host` → the password masked; `password=…` of a query likewise. */
static void write_url(const char *url, struct buf *out)
{
    const char *start = strstr(url, "://");
    const char *host = start ? start + 3 : url;
    const char *slash = host + strcspn(host, "/?#");
    const char *at = memrchr(host, '@', (size_t)(slash - host));
    const char *colon = at ? memchr(host, ':', (size_t)(at - host)) : NULL;
    const char *rest = url;
    if (colon) {
        buf_append(out, url, (size_t)(colon + 1 - url));
        buf_lit(out, MASK);
        rest = at;
    }
    const char *password = strstr(rest, "password=");
    if (!password) {
        buf_append(out, rest, strlen(rest));
        return;
    }
    buf_append(out, rest, (size_t)(password - rest) + strlen("password="));
    buf_lit(out, MASK);
    password += strcspn(password, "&");
    buf_append(out, password, strlen(password));
}

static void write_items(const struct config_value *value, bool is_secret, struct buf *out)
{
    for (size_t i = 0; i < value->n_items; i++)
        buf_printf(out, "%s%s", i ? ", " : "", is_secret ? MASK : value->items[i]);
}

void config_mask(const struct config *config, enum config_key key, struct buf *out)
{
    const struct config_key_info *info = &config_keys[key];
    const struct config_value *value = &config->values[key];
    bool is_secret = info->flags & CONFIG_SECRET;
    if (!config_is_set(config, key)) {
        buf_lit(out, "-");
        return;
    }
    switch (info->type) {
    case CONFIG_URL:
        write_url(value->text, out);
        return;
    case CONFIG_INT:
    case CONFIG_BOOL:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        if (info->type == CONFIG_DURATION)
            duration_format(value->number, out);
        else if (info->type == CONFIG_SIZE)
            size_format(value->number, out);
        else
            buf_append(out, value->text, strlen(value->text));
        return;
    case CONFIG_LIST:
        write_items(value, is_secret, out);
        return;
    case CONFIG_TEXT:
    case CONFIG_ENUM:
    case CONFIG_TREE:
        buf_append(out, is_secret ? MASK : value->text, is_secret ? strlen(MASK) : strlen(value->text));
        return;
    }
    WRONG("config type");
}

static void write_row(struct slice name, struct slice value, struct slice where, struct buf *out)
{
    buf_printf(out, "%-34.*s %-44.*s %.*s\n", SLICE_FMT(name), SLICE_FMT(value), SLICE_FMT(where));
}

/* ---- settings, one row per leaf ------------------------------------------------------------------------------ */

enum { MAX_PATH = 256, MAX_LEVELS = 64 };

struct tree {
    struct buf *out;
    struct slice where;
    char path[MAX_PATH];
    size_t len;
    size_t levels[MAX_LEVELS]; /* path length when each container opened */
    size_t depth;
};

static bool sounds_secret(struct slice path)
{
    static const char *const words[] = {"secret", "password", "token", "private", "credential", "api_key", "apikey"};
    char text[MAX_PATH];
    snprintf(text, sizeof(text), "%.*s", SLICE_FMT(path));
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcasestr(text, words[i]))
            return true;
    return false;
}

static bool write_leaf(struct tree *tree, struct slice value)
{
    struct slice name = slice_of(tree->path, tree->len);
    bool is_masked = sounds_secret(name) && value.len > 0; /* an empty one is none, and worth seeing */
    write_row(name, is_masked ? SLICE(MASK) : value.len ? value : SLICE("\"\""), tree->where, tree->out);
    return true;
}

static bool on_null(void *data)
{
    return write_leaf(data, SLICE("null"));
}

static bool on_bool(void *data, bool value)
{
    return write_leaf(data, value ? SLICE("true") : SLICE("false"));
}

static bool on_number(void *data, double value)
{
    struct buf text = {0};
    bool is_written = json_write_number(&text, value) == OK && write_leaf(data, buf_as_slice(&text));
    buf_free(&text);
    return is_written;
}

static bool on_string(void *data, struct slice value)
{
    return write_leaf(data, value);
}

static bool on_key(void *data, struct slice name)
{
    struct tree *tree = data;
    tree->len = tree->levels[tree->depth - 1];
    if (tree->len + 1 + name.len >= MAX_PATH)
        return false;
    tree->path[tree->len++] = '.';
    memcpy(tree->path + tree->len, name.ptr, name.len);
    tree->len += name.len;
    return true;
}

static bool on_begin(void *data)
{
    struct tree *tree = data;
    if (tree->depth == MAX_LEVELS)
        return false;
    tree->levels[tree->depth++] = tree->len;
    return true;
}

static bool on_end(void *data, size_t n UNUSED)
{
    struct tree *tree = data;
    tree->len = tree->levels[--tree->depth];
    return true;
}

static void dump_settings(const struct config *config, struct slice where, struct buf *out)
{
    static const struct json_events events = {on_null,  on_bool, on_number, on_string, on_key,
                                              on_begin, on_end,  on_begin,  on_end};
    struct tree tree = {.out = out, .where = where, .path = "settings", .len = strlen("settings")};
    struct arena arena;
    arena_create(&arena);
    struct err err;
    if (json_read(slice_str(config_text(config, CONFIG_SETTINGS)), NULL, &events, &tree, &arena, &err) != OK)
        write_row(SLICE("settings"), SLICE("(too deep to show)"), where, out);
    arena_destroy(&arena);
}

/* ---- the two tables ------------------------------------------------------------------------------------------ */

void config_dump(const struct config *config, struct buf *out)
{
    struct buf value = {0}, where = {0};
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        buf_clear(&value);
        buf_clear(&where);
        config_where(config, (enum config_key)key, &where);
        if (key == CONFIG_SETTINGS && config_is_set(config, CONFIG_SETTINGS)) {
            dump_settings(config, buf_as_slice(&where), out);
            continue;
        }
        config_mask(config, (enum config_key)key, &value);
        write_row(slice_str(config_keys[key].name), buf_as_slice(&value), buf_as_slice(&where), out);
    }
    buf_free(&value);
    buf_free(&where);
}

static void write_shape(const struct config_key_info *info, struct buf *out)
{
    switch (info->type) {
    case CONFIG_TEXT:
        buf_lit(out, "string");
        return;
    case CONFIG_URL:
        buf_lit(out, "URL");
        return;
    case CONFIG_INT:
        buf_printf(out, "%lld..%lld", (long long)info->min, (long long)info->max);
        return;
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        (info->type == CONFIG_SIZE ? size_format : duration_format)(info->min, out);
        buf_lit(out, "..");
        (info->type == CONFIG_SIZE ? size_format : duration_format)(info->max, out);
        return;
    case CONFIG_BOOL:
        buf_lit(out, "true|false");
        return;
    case CONFIG_ENUM:
        buf_append(out, info->choices, strlen(info->choices));
        return;
    case CONFIG_LIST:
        buf_lit(out, "list of strings");
        return;
    case CONFIG_TREE:
        buf_lit(out, "table");
        return;
    }
    WRONG("config type");
}

void config_dump_keys(struct buf *out)
{
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        const struct config_key_info *info = &config_keys[key];
        buf_printf(out, "%s\n    %s\n    ", info->name, info->help);
        write_shape(info, out);
        buf_printf(out, "; default %s", info->fallback ? info->fallback : "unset");
        if (info->development_fallback)
            buf_printf(out, ", in development %s", info->development_fallback);
        if (info->env)
            buf_printf(out, "; %s overrides", info->env);
        buf_lit(out, "\n");
    }
}
