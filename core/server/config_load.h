/* Reads an application's configuration: conf/chowk.lua, then the environment, then what the command decided, then
 * defaults. The current directory is the application's. */
#pragma once

#include "server/config.h"

struct config_overrides {
    bool development;   /* `chowk dev`: environment = "development", whatever the file says */
    const char *source; /* the command, for `chowk config`: "chowk dev" */
};

/* Returns owned, or NULL: err reads `conf/chowk.lua:12: pg.pool_size: expected 1..1000, got "ten"`. */
struct config *config_load(const struct config_overrides *overrides, struct err *err) MUST_CHECK;
/* Only conf/chowk.lua (fine if there is none). Of several mistakes the first line's is reported. */
enum status config_load_file(struct config *config, struct err *err) MUST_CHECK;
