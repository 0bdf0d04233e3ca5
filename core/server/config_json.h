/* The configuration as one flat JSON object {"listen":"…","http.deadline":30000,"settings":{…}}: what the master seals
 * for its workers and what Lua's chowk.config reads. Durations are milliseconds, sizes bytes; unset keys are null.
 * It holds the secrets: never print it. */
#pragma once

#include "server/config.h"

void config_write_json(const struct config *config, struct buf *out);
/* Of what config_write_json wrote; returns owned, or NULL. `settings` stays in the text, for Lua. */
struct config *config_read_json(struct slice text, struct err *err) MUST_CHECK;
