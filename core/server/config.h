/* The typed configuration: one value per row of config_keys.tbl, with where it came from. Built once, before anything
 * starts (config_load.h), then read-only; the master hands it to its workers as JSON (config_json.h).
 * This file knows types, ranges and layers; it knows neither Lua nor files. */
#pragma once

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

enum config_type {
    CONFIG_TEXT,
    CONFIG_URL, /* choices = accepted schemes; the password is masked */
    CONFIG_INT,
    CONFIG_DURATION, /* number = milliseconds */
    CONFIG_SIZE,     /* number = bytes */
    CONFIG_BOOL,     /* number = 0 or 1 */
    CONFIG_ENUM,     /* text = one of choices */
    CONFIG_LIST,     /* items = strings */
    CONFIG_TREE,     /* text = JSON */
};

enum config_flag {
    CONFIG_SECRET = 1,           /* never printed */
    CONFIG_DEVELOPMENT_ONLY = 2, /* its development default is refused in production */
};

enum config_key {
#define CONFIG_ROW(id, ...) CONFIG_##id,
#include "server/config_keys.tbl"
#undef CONFIG_ROW
    CONFIG_N_KEYS
};

struct config_key_info {
    const char *name;
    enum config_type type;
    const char *fallback, *development_fallback; /* as an operator would write them; NULL = unset */
    int64_t min, max;
    const char *choices; /* "a|b" */
    const char *env;     /* environment variable, or NULL */
    unsigned flags;
    const char *help;
};
extern const struct config_key_info config_keys[CONFIG_N_KEYS];

enum config_origin { CONFIG_FROM_NOWHERE, CONFIG_FROM_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_ENV, CONFIG_FROM_COMMAND };

struct config_value {
    enum config_origin origin;
    int line;           /* in the file; 0 = unknown */
    const char *source; /* the environment variable or command; borrowed for ever */
    int64_t number;
    char *text; /* owned */
    char **items;
    size_t n_items; /* owned */
};

struct config {
    struct config_value values[CONFIG_N_KEYS];
    const char *file; /* "conf/chowk.lua" as it reads in messages; borrowed for ever */
};

struct config *config_new(void); /* everything unset; returns owned */
void config_free(struct config *config);

/* What somebody wrote for a key, before its type is known. */
struct config_input {
    enum { CONFIG_IN_STRING, CONFIG_IN_NUMBER, CONFIG_IN_BOOL, CONFIG_IN_LIST, CONFIG_IN_OTHER } kind;
    struct slice text;         /* STRING, NUMBER (decimal), BOOL ("true"), OTHER ("a table") */
    const struct slice *items; /* LIST */
    size_t n_items;
    enum config_origin origin;
    int line;
    const char *source;
};

/* Checks and stores. ERR (ERR_INVALID): `pg.pool_size: expected 1..1000, got "ten"`, without where. */
enum status config_set(struct config *config, enum config_key key, const struct config_input *input,
                       struct err *err) MUST_CHECK;
/* The layers above the file: environment variables, PORT among them. ERR names the variable. */
enum status config_set_env(struct config *config, const char *(*get)(const char *name), struct err *err) MUST_CHECK;
/* A value decided by the command itself (`chowk dev`): `source` is what `chowk config` prints. */
enum status config_set_command(struct config *config, enum config_key key, const char *text, const char *source,
                               struct err *err) MUST_CHECK;
/* Last step: defaults of the environment for what is unset, then the rules between keys (production refuses
 * development secrets, the address parses). ERR says where the offending value came from. */
enum status config_finish(struct config *config, struct err *err) MUST_CHECK;

/* Finds a key by its dotted name; false if there is none. */
bool config_find(struct slice name, enum config_key *out) MUST_CHECK;
/* The key, or the table of keys, that `name` was probably meant to be; empty: none. Lives for ever. */
struct slice config_suggest(struct slice name);

bool config_is_set(const struct config *config, enum config_key key);
int64_t config_number(const struct config *config, enum config_key key);   /* 0 if unset */
const char *config_text(const struct config *config, enum config_key key); /* NULL if unset; borrowed */
bool config_is_development(const struct config *config);
/* "conf/chowk.lua:12", "DATABASE_URL", "default": where the value came from. */
void config_where(const struct config *config, enum config_key key, struct buf *out);

/* Workers to run: the key, or one per core this process may use. */
unsigned config_workers(const struct config *config);
/* Processes that run jobs: none without PostgreSQL, which is where jobs are. */
unsigned config_job_workers(const struct config *config);

/* Connections of one worker, from pg.pool_size (a budget of the machine) and the explicit keys. ERR: the budget gives
 * some worker no connection for reads, writes or transactions. */
struct config_pg_share {
    unsigned read, write, tx;
};
enum status config_pg_share(const struct config *config, unsigned n_workers, struct config_pg_share *out,
                            struct err *err) MUST_CHECK;
