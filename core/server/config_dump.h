/* Prints the configuration for people: effective values with their origin, secrets masked; and the table of keys. */
#pragma once

#include "server/config.h"

void config_dump(const struct config *config, struct buf *out);
void config_dump_keys(struct buf *out); /* every key: type, range, default, help */
/* One value as it may be shown: secrets are "********", a URL keeps all but its password. */
void config_mask(const struct config *config, enum config_key key, struct buf *out);
