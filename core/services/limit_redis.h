/* One check as one atomic script in Redis, by Redis' clock, so that machines whose clocks differ count alike. Keys are
 * "<prefix>limit:<rule>:<hash of the key>": no address or e-mail is kept as text. */
#pragma once

#include "data/redis.h"
#include "services/limit.h"

#define LIMIT_KEY_MAX 160

extern const char limit_script_source[];

/* The script's keys and arguments for these demands; text is kept in `text`. */
struct limit_script_args {
    struct slice keys[LIMIT_DEMANDS_MAX], args[2 + LIMIT_DEMANDS_MAX * 4];
    size_t n_keys, n_args;
    char text[LIMIT_DEMANDS_MAX * (LIMIT_KEY_MAX + 4 * 21) + 64];
};
/* now_us: 0 = Redis' own clock; tests name a time. */
void limit_script_args_create(struct limit_script_args *out, const char *prefix, const struct limit_demand *demands,
                              size_t n, uint32_t quantity, uint64_t now_us);
/* ERR: not the script's reply. */
enum status limit_script_read(const struct redis_value *value, struct limit_verdict *verdicts, size_t n,
                              struct err *err) MUST_CHECK;
