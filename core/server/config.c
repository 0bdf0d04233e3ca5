/* Types, ranges and layers of the configuration.
 *
 * Owns: the table of keys, the check of one value against its row, the order of the layers (default < file <
 * environment < command) and the rules that need several keys. Every value, wherever it comes from, passes
 * config_set, so a range is checked in one place and reads the same in every message.
 * Must not: read files, evaluate Lua, print. A new key is a row of config_keys.tbl; a new rule between keys goes
 * into `rules` below. */
#include "server/config.h"

#include <sched.h>
#include <stdlib.h>

#include "net/addr.h"
#include "server/config_trust.h"
#include "server/config_units.h"
#include "services/seq_format.h"

const struct config_key_info config_keys[CONFIG_N_KEYS] = {
#define CONFIG_ROW(id, name, type, fallback, development_fallback, min, max, choices, env, flags, help)                \
    [CONFIG_##id] = {name, CONFIG_##type, fallback, development_fallback, min, max, choices, env, flags, help},
#include "server/config_keys.tbl"
#undef CONFIG_ROW
};

struct config *config_new(void)
{
    struct config *config = xalloc(sizeof(*config));
    config->file = "conf/chowk.lua";
    return config;
}

static void value_clear(struct config_value *value)
{
    free(value->text);
    for (size_t i = 0; i < value->n_items; i++)
        free(value->items[i]);
    free(value->items);
    *value = (struct config_value){0};
}

void config_free(struct config *config)
{
    if (!config)
        return;
    for (int key = 0; key < CONFIG_N_KEYS; key++)
        value_clear(&config->values[key]);
    free(config);
}

/* ---- one value against its row ---------------------------------------------------------------------------- */

static bool next_choice(struct slice *rest, struct slice *choice)
{
    if (rest->len == 0)
        return false;
    const char *bar = memchr(rest->ptr, '|', rest->len);
    size_t len = bar ? (size_t)(bar - rest->ptr) : rest->len;
    *choice = slice_of(rest->ptr, len);
    *rest = slice_of(rest->ptr + len + (bar ? 1 : 0), rest->len - len - (bar ? 1 : 0));
    return true;
}

static bool is_choice(const struct config_key_info *info, struct slice text, bool as_prefix)
{
    struct slice rest = slice_str(info->choices), choice;
    while (next_choice(&rest, &choice))
        if (as_prefix ? slice_has_prefix(text, choice) : slice_eq(text, choice))
            return true;
    return false;
}

static void write_choices(const struct config_key_info *info, struct buf *out)
{
    struct slice rest = slice_str(info->choices), choice;
    for (int i = 0; next_choice(&rest, &choice); i++)
        buf_printf(out, "%s\"%.*s\"", i ? " or " : "", SLICE_FMT(choice));
}

static void write_range(const struct config_key_info *info, void (*format)(int64_t, struct buf *), struct buf *out)
{
    format(info->min, out);
    buf_lit(out, "..");
    format(info->max, out);
}

static void write_expected(const struct config_key_info *info, struct buf *out)
{
    switch (info->type) {
    case CONFIG_TEXT:
        buf_lit(out, "a string");
        return;
    case CONFIG_URL:
        buf_lit(out, "a URL starting with ");
        write_choices(info, out);
        return;
    case CONFIG_INT:
        buf_printf(out, "%lld..%lld", (long long)info->min, (long long)info->max);
        return;
    case CONFIG_DURATION:
        buf_lit(out, "a duration such as \"30s\" within ");
        write_range(info, duration_format, out);
        return;
    case CONFIG_SIZE:
        buf_lit(out, "a size such as \"1MiB\" within ");
        write_range(info, size_format, out);
        return;
    case CONFIG_BOOL:
        buf_lit(out, "true or false");
        return;
    case CONFIG_ENUM:
        write_choices(info, out);
        return;
    case CONFIG_LIST:
        buf_lit(out, "a list of strings");
        return;
    case CONFIG_TREE:
        buf_lit(out, "a table");
        return;
    }
    WRONG("config type");
}

static void write_got(const struct config_key_info *info, const struct config_input *input, struct buf *out)
{
    bool is_string = input->kind == CONFIG_IN_STRING;
    if (input->kind == CONFIG_IN_LIST)
        buf_lit(out, "a list");
    else if ((info->flags & CONFIG_SECRET) && is_string)
        buf_lit(out, "another string"); /* a mistyped secret is still a secret */
    else
        buf_printf(out, is_string ? "\"%.*s\"" : "%.*s", (int)(input->text.len > 80 ? 80 : input->text.len),
                   input->text.ptr);
}

static enum status refuse(const struct config_key_info *info, const struct config_input *input, struct err *err)
{
    struct buf text = {0};
    write_expected(info, &text);
    buf_lit(&text, ", got ");
    write_got(info, input, &text);
    err_set(err, ERR_INVALID, "%s: expected %.*s", info->name, (int)text.len, text.ptr);
    buf_free(&text);
    return ERR;
}

static bool parse_bool(struct slice text, int64_t *out)
{
    bool is_true = slice_eq(text, SLICE("true"));
    if (!is_true && !slice_eq(text, SLICE("false")))
        return false;
    *out = is_true;
    return true;
}

/* A scalar's number (and whether the text is right at all); kinds are looked at because 30 is no duration and
 * "true" no boolean in the file, while environment variables are always strings. */
static bool scalar_is_valid(const struct config_key_info *info, const struct config_input *input, int64_t *number)
{
    bool is_string = input->kind == CONFIG_IN_STRING, is_number = input->kind == CONFIG_IN_NUMBER;
    bool is_outside = input->origin != CONFIG_FROM_FILE;
    switch (info->type) {
    case CONFIG_TEXT:
        return is_string && input->text.len > 0;
    case CONFIG_URL:
        return is_string && is_choice(info, input->text, true);
    case CONFIG_ENUM:
        return is_string && is_choice(info, input->text, false);
    case CONFIG_TREE:
        return input->kind == CONFIG_IN_OTHER;
    case CONFIG_INT:
        return (is_number || (is_string && is_outside)) && slice_to_int(input->text, info->min, info->max, number);
    case CONFIG_DURATION:
        return (is_string || is_number) && duration_parse(input->text, number) && *number >= info->min &&
               *number <= info->max;
    case CONFIG_SIZE:
        return (is_string || is_number) && size_parse(input->text, number) && *number >= info->min &&
               *number <= info->max;
    case CONFIG_BOOL:
        return (input->kind == CONFIG_IN_BOOL || (is_string && is_outside)) && parse_bool(input->text, number);
    case CONFIG_LIST:
        break;
    }
    WRONG("config type");
}

static void store(struct config_value *value, const struct config_input *input, int64_t number)
{
    struct config_value fresh = {
        .origin = input->origin, .line = input->line, .source = input->source, .number = number};
    if (input->kind == CONFIG_IN_LIST) {
        fresh.items = xalloc((input->n_items ? input->n_items : 1) * sizeof(char *));
        fresh.n_items = input->n_items;
        for (size_t i = 0; i < input->n_items; i++)
            fresh.items[i] = xstrndup(input->items[i].ptr, input->items[i].len);
    } else {
        fresh.text = xstrndup(input->text.ptr, input->text.len);
    }
    value_clear(value);
    *value = fresh;
}

/* One string where a list is expected: comma-separated, blanks around the commas dropped. */
static void store_split(struct config_value *value, const struct config_input *input)
{
    struct slice items[32], rest = input->text;
    size_t n_items = 0;
    while (rest.len > 0 && n_items < ARRAY_LEN(items)) {
        const char *comma = memchr(rest.ptr, ',', rest.len);
        size_t len = comma ? (size_t)(comma - rest.ptr) : rest.len;
        struct slice item = slice_trim(slice_of(rest.ptr, len));
        if (item.len > 0)
            items[n_items++] = item;
        rest = comma ? slice_of(comma + 1, rest.len - len - 1) : slice_of(rest.ptr + len, 0);
    }
    struct config_input list = *input;
    list.kind = CONFIG_IN_LIST;
    list.items = items;
    list.n_items = n_items;
    store(value, &list, 0);
}

enum status config_set(struct config *config, enum config_key key, const struct config_input *input, struct err *err)
{
    const struct config_key_info *info = &config_keys[key];
    int64_t number = 0;
    if (info->type == CONFIG_LIST) {
        if (input->kind == CONFIG_IN_STRING)
            store_split(&config->values[key], input);
        else if (input->kind == CONFIG_IN_LIST)
            store(&config->values[key], input, 0);
        else
            return refuse(info, input, err);
        return OK;
    }
    if (input->kind == CONFIG_IN_LIST || !scalar_is_valid(info, input, &number))
        return refuse(info, input, err);
    store(&config->values[key], input, number);
    return OK;
}

/* ---- layers ------------------------------------------------------------------------------------------------ */

static enum status set_string(struct config *config, enum config_key key, const char *text, enum config_origin origin,
                              const char *source, struct err *err)
{
    struct config_input input = {.kind = CONFIG_IN_STRING, .text = slice_str(text), .origin = origin, .source = source};
    return config_set(config, key, &input, err);
}

enum status config_set_command(struct config *config, enum config_key key, const char *text, const char *source,
                               struct err *err)
{
    return set_string(config, key, text, CONFIG_FROM_COMMAND, source, err);
}

/* PORT replaces the port of `listen`, wherever that came from; a Unix path gives way to 127.0.0.1. */
static enum status apply_port(struct config *config, const char *port, struct err *err)
{
    int64_t number;
    if (!slice_to_int(slice_str(port), 0, 65535, &number))
        return err_set(err, ERR_INVALID, "PORT: expected 0..65535, got \"%s\"", port);
    const char *listen = config_text(config, CONFIG_LISTEN);
    if (!listen)
        listen = config_keys[CONFIG_LISTEN].fallback;
    const char *colon = strrchr(listen, ':');
    struct buf text = {0};
    if (slice_has_prefix(slice_str(listen), SLICE("unix:")) || !colon)
        buf_printf(&text, "127.0.0.1:%d", (int)number);
    else
        buf_printf(&text, "%.*s:%d", (int)(colon - listen), listen, (int)number);
    buf_byte(&text, '\0');
    enum status status = set_string(config, CONFIG_LISTEN, text.ptr, CONFIG_FROM_ENV, "PORT", err);
    buf_free(&text);
    return status;
}

enum status config_set_env(struct config *config, const char *(*get)(const char *name), struct err *err)
{
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        const char *name = config_keys[key].env;
        const char *text = name ? get(name) : NULL;
        if (!text || !*text) /* an empty variable is how shells and compose files say "unset" */
            continue;
        if (set_string(config, (enum config_key)key, text, CONFIG_FROM_ENV, name, err) != OK)
            return err_prefix(err, "environment variable %s", name);
    }
    const char *port = get("PORT");
    return port && *port ? apply_port(config, port, err) : OK;
}

static enum status apply_defaults(struct config *config, struct err *err)
{
    bool development = config_is_development(config);
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        const struct config_key_info *info = &config_keys[key];
        if (config_is_set(config, (enum config_key)key))
            continue;
        const char *text = development && info->development_fallback ? info->development_fallback : info->fallback;
        if (key == CONFIG_ENVIRONMENT)
            text = info->fallback;
        if (text && set_string(config, (enum config_key)key, text, CONFIG_FROM_DEFAULT, NULL, err) != OK)
            return ERR;
    }
    return OK;
}

/* ---- rules between keys ------------------------------------------------------------------------------------ */

static enum status fail_at(const struct config *config, enum config_key key, struct err *err, const char *what)
{
    struct buf where = {0};
    config_where(config, key, &where);
    err_set(err, ERR_INVALID, "%.*s: %s: %s", (int)where.len, where.ptr, config_keys[key].name, what);
    buf_free(&where);
    return ERR;
}

static enum status check_listen(const struct config *config, struct err *err)
{
    struct addr addr;
    struct err why = {0};
    if (addr_parse(slice_str(config_text(config, CONFIG_LISTEN)), &addr, &why) == OK)
        return OK;
    return fail_at(config, CONFIG_LISTEN, err, why.message);
}

static bool holds(const struct config_value *value, const char *text)
{
    if (value->text && strcmp(value->text, text) == 0)
        return true;
    for (size_t i = 0; i < value->n_items; i++)
        if (strcmp(value->items[i], text) == 0)
            return true;
    return false;
}

static enum status check_production(const struct config *config, struct err *err)
{
    if (config_is_development(config))
        return OK;
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        const struct config_key_info *info = &config_keys[key];
        if (!(info->flags & CONFIG_DEVELOPMENT_ONLY) || !holds(&config->values[key], info->development_fallback))
            continue;
        return fail_at(config, (enum config_key)key, err,
                       "the development value is refused in production; set your own");
    }
    return OK;
}

static enum status check_pg_share(const struct config *config, struct err *err)
{
    struct config_pg_share share;
    struct err why = {0};
    if (config_pg_share(config, config_workers(config) + config_job_workers(config), &share, &why) == OK)
        return OK;
    return fail_at(config, CONFIG_PG_POOL_SIZE, err, why.message);
}

static const char *tree_or_null(const struct config *config, enum config_key key)
{
    return config_is_set(config, key) ? config_text(config, key) : "null";
}

static enum status check_sequences(const struct config *config, struct err *err)
{
    struct buf json = {0};
    struct err why = {0};
    struct seq_defs defs;
    const char *key = NULL;
    buf_printf(&json, "{\"seq.formats\":%s,\"seq.gapless\":%s,\"seq.periods\":%s}",
               tree_or_null(config, CONFIG_SEQ_FORMATS), tree_or_null(config, CONFIG_SEQ_GAPLESS),
               tree_or_null(config, CONFIG_SEQ_PERIODS));
    enum status status = seq_defs_read(buf_as_slice(&json), &defs, &key, &why);
    buf_free(&json);
    if (status == OK)
        return OK;
    enum config_key at = CONFIG_SEQ_FORMATS;
    CHECK(config_find(slice_str(key), &at));
    return fail_at(config, at, err, why.message);
}

static enum status check_trust(const struct config *config, struct err *err)
{
    struct http_trust trust;
    struct err why = {0};
    if (config_trust(config, &trust, &why) == OK)
        return OK;
    return fail_at(config, CONFIG_HTTP_TRUSTED_PROXIES, err, why.message);
}

enum status config_finish(struct config *config, struct err *err)
{
    static enum status (*const rules[])(const struct config *, struct err *) = {
        check_listen, check_production, check_pg_share, check_sequences, check_trust};
    if (apply_defaults(config, err) != OK)
        return ERR;
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        if (rules[i](config, err) != OK)
            return ERR;
    return OK;
}

/* ---- names -------------------------------------------------------------------------------------------------- */

bool config_find(struct slice name, enum config_key *out)
{
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        if (!slice_eq(name, slice_str(config_keys[key].name)))
            continue;
        *out = (enum config_key)key;
        return true;
    }
    return false;
}

/* Levenshtein distance, one row at a time. */
static size_t edit_distance(struct slice a, struct slice b)
{
    size_t row[64];
    if (b.len >= ARRAY_LEN(row))
        return SIZE_MAX;
    for (size_t j = 0; j <= b.len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t best = diagonal + (a.ptr[i - 1] != b.ptr[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[b.len];
}

struct slice config_suggest(struct slice name)
{
    struct slice best = {0};
    size_t best_distance = name.len / 3 + 2; /* beyond this it is another word, not a slip */
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        struct slice candidate = slice_str(config_keys[key].name);
        const char *dot = strrchr(candidate.ptr, '.');
        size_t distance = edit_distance(name, candidate);
        if (dot && slice_eq(name, slice_str(dot + 1))) /* the right key without its table */
            distance = 0;
        struct slice table = slice_of(candidate.ptr, dot ? (size_t)(dot - candidate.ptr) : 0);
        if (table.len && !slice_eq(name, table) && edit_distance(name, table) < distance) {
            candidate = table;
            distance = edit_distance(name, table);
        }
        if (distance < best_distance) {
            best = candidate;
            best_distance = distance;
        }
    }
    return best;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

bool config_is_set(const struct config *config, enum config_key key)
{
    return config->values[key].origin != CONFIG_FROM_NOWHERE;
}

int64_t config_number(const struct config *config, enum config_key key)
{
    return config->values[key].number;
}

const char *config_text(const struct config *config, enum config_key key)
{
    return config->values[key].text;
}

bool config_is_development(const struct config *config)
{
    const char *environment = config_text(config, CONFIG_ENVIRONMENT);
    return environment && strcmp(environment, "development") == 0;
}

void config_where(const struct config *config, enum config_key key, struct buf *out)
{
    const struct config_value *value = &config->values[key];
    switch (value->origin) {
    case CONFIG_FROM_NOWHERE:
        buf_lit(out, "unset");
        return;
    case CONFIG_FROM_DEFAULT:
        buf_lit(out, "default");
        return;
    case CONFIG_FROM_FILE:
        buf_append(out, config->file, strlen(config->file));
        if (value->line > 0)
            buf_printf(out, ":%d", value->line);
        return;
    case CONFIG_FROM_ENV:
    case CONFIG_FROM_COMMAND:
        buf_append(out, value->source, strlen(value->source));
        return;
    }
    WRONG("config origin");
}

static unsigned cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? (unsigned)n : 1;
}

unsigned config_workers(const struct config *config)
{
    int64_t n = config_number(config, CONFIG_WORKERS);
    if (n == 0)
        n = cores();
    return n > 256 ? 256 : (unsigned)n;
}

unsigned config_job_workers(const struct config *config)
{
    return config_is_set(config, CONFIG_PG_URL) ? (unsigned)config_number(config, CONFIG_JOBS_WORKERS) : 0;
}

/* ---- PostgreSQL connections --------------------------------------------------------------------------------- */

static unsigned explicit_or(const struct config *config, enum config_key key, unsigned otherwise)
{
    return config_is_set(config, key) ? (unsigned)config_number(config, key) : otherwise;
}

#define PG_POOL_DEFAULT 60 /* of PostgreSQL's default 100: the rest is for people, jobs and the next generation */
#define PG_TX_MAX 24       /* durable orders/s on 8, 16, 24, 32: 2 000, 4 000, 4 300, 3 500; commits share an fsync */

/* The machine's budget is divided evenly. Of a worker's share a sixth is for reads, a third for writes (at most 2 and
 * 4: T5 saw 5 018 orders/s on four, 3 877 on two), and the rest for transactions. */
enum status config_pg_share(const struct config *config, unsigned n_workers, struct config_pg_share *out,
                            struct err *err)
{
    bool has_budget = config_is_set(config, CONFIG_PG_POOL_SIZE);
    unsigned budget = explicit_or(config, CONFIG_PG_POOL_SIZE, PG_POOL_DEFAULT);
    if (!has_budget && budget < 3 * n_workers)
        budget = 3 * n_workers;
    unsigned share = budget / n_workers;
    unsigned read = share / 6 < 2 ? (share / 6 ? share / 6 : 1) : 2;
    unsigned write = share / 3 < 8 ? (share / 3 ? share / 3 : 1) : 8; /* each waits for its own fsync */
    out->read = explicit_or(config, CONFIG_PG_READ_CONNECTIONS, read);
    out->write = explicit_or(config, CONFIG_PG_WRITE_CONNECTIONS, write);
    unsigned tx = out->read + out->write < share ? share - out->read - out->write : 0;
    if (tx > PG_TX_MAX)
        tx = PG_TX_MAX;
    if (tx == 0 && !has_budget)
        tx = 1;
    out->tx = explicit_or(config, CONFIG_PG_TX_CONNECTIONS, tx);
    if (has_budget && (out->tx == 0 || out->read + out->write + out->tx > share))
        return err_set(err, ERR_INVALID, "%u connections for %u workers are too few: a worker needs %u", budget,
                       n_workers, out->read + out->write + (out->tx ? out->tx : 1));
    return OK;
}
