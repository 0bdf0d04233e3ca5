#include "services/limit_redis.h"

#include <stdio.h>

#include "base/crypto.h"

/* The arithmetic of limit_count.c. A log is a sorted set of times, a window pair and a GCRA bucket a hash and a number.
 * Reply: four integers for each key: allowed, remaining, retry_us, reset_us. Numbers stay below 2^53. */
const char limit_script_source[] =
    "local now = tonumber(ARGV[1])\n"
    "if now == 0 then local t = redis.call('TIME') now = t[1] * 1000000 + t[2] end\n"
    "local q, exact, out, all, counts = tonumber(ARGV[2]), 108, {}, true, {}\n"
    "local function rule(i)\n"
    "  local a = 2 + (i - 1) * 4\n"
    "  return ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])\n"
    "end\n"
    "local function test(i, q)\n"
    "  local kind, limit, burst, window = rule(i)\n"
    "  local key = KEYS[i]\n"
    "  if kind == 'gcra' then\n"
    "    local unit = math.floor(window / limit)\n"
    "    local used = math.max(0, tonumber(redis.call('GET', key) or 0) - now)\n"
    "    local room, wanted = unit * burst, unit * q\n"
    "    local ok = used + wanted <= room\n"
    "    return ok, math.max(0, math.floor((room - used) / unit)),\n"
    "      ok and 0 or wanted <= room and used + wanted - room or window, used\n"
    "  end\n"
    "  if limit <= exact then\n"
    "    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))\n"
    "    local n = redis.call('ZCARD', key)\n"
    "    local function left(at)\n"
    "      return tonumber(redis.call('ZRANGE', key, at, at, 'WITHSCORES')[2]) + window - now\n"
    "    end\n"
    "    local ok, many, retry = n + q <= limit, n + q - limit, 0\n"
    "    if not ok then retry = many <= n and left(many - 1) or window end\n"
    "    counts[i] = n\n"
    "    return ok, math.max(0, limit - n), retry, n > 0 and left(0) or 0\n"
    "  end\n"
    "  local start = now - now % window\n"
    "  local h = redis.call('HMGET', key, 's', 'p', 'c')\n"
    "  local s, p, c = tonumber(h[1] or 0), tonumber(h[2] or 0), tonumber(h[3] or 0)\n"
    "  if s ~= start then p = s + window == start and c or 0 c = 0 end\n"
    "  counts[i] = { start, p, c }\n"
    "  local rest = start + window - now\n"
    "  local function wait(n, room, rest)\n"
    "    return math.max(0, rest - (n > room and math.floor(room * window / n) or window))\n"
    "  end\n"
    "  local used = c + math.ceil(p * rest / window)\n"
    "  local ok, retry = used + q <= limit, 0\n"
    "  if not ok then\n"
    "    if q > limit then retry = window\n"
    "    elseif c + q <= limit then retry = wait(p, limit - c - q, rest)\n"
    "    else retry = rest + wait(c, limit - q, window) end\n"
    "  end\n"
    "  return ok, math.max(0, limit - used), retry, used > 0 and rest or 0\n"
    "end\n"
    "local function charge(i)\n"
    "  local kind, limit, burst, window = rule(i)\n"
    "  local key, ms = KEYS[i], math.ceil(window / 1000)\n"
    "  if kind == 'gcra' then\n"
    "    local from = math.max(now, tonumber(redis.call('GET', key) or 0))\n"
    "    local full = from + math.floor(window / limit) * q\n"
    "    redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))\n"
    "  elseif limit <= exact then\n"
    "    for j = 1, q do\n"
    "      local score = string.format('%.0f', now)\n"
    "      redis.call('ZADD', key, score, score .. ':' .. counts[i] + j)\n"
    "    end\n"
    "    redis.call('PEXPIRE', key, ms)\n"
    "  else\n"
    "    local w = counts[i]\n"
    "    redis.call('HSET', key, 's', string.format('%.0f', w[1]), 'p', w[2], 'c', w[3] + q)\n"
    "    redis.call('PEXPIRE', key, ms * 2)\n"
    "  end\n"
    "end\n"
    "local function note(i, ok, remaining, retry, reset)\n"
    "  local at = (i - 1) * 4\n"
    "  out[at + 1], out[at + 2], out[at + 3], out[at + 4] = ok and 1 or 0, remaining, math.ceil(retry), "
    "math.ceil(reset)\n"
    "  return ok\n"
    "end\n"
    "for i = 1, #KEYS do all = note(i, test(i, q)) and all end\n"
    "if all and q > 0 then\n"
    "  for i = 1, #KEYS do charge(i) note(i, test(i, 0)) end\n"
    "end\n"
    "return out\n";

/* Appends printf text to args->text and returns it. */
PRINTF_LIKE(3, 4)
static struct slice add_text(struct limit_script_args *args, size_t *used, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    char *at = args->text + *used;
    int len = vsnprintf(at, sizeof(args->text) - *used, fmt, list);
    va_end(list);
    CHECK(len >= 0 && (size_t)len < sizeof(args->text) - *used);
    *used += (size_t)len + 1;
    return slice_of(at, (size_t)len);
}

void limit_script_args_create(struct limit_script_args *out, const char *prefix, const struct limit_demand *demands,
                              size_t n, uint32_t quantity, uint64_t now_us)
{
    size_t used = 0;
    CHECK(n <= LIMIT_DEMANDS_MAX);
    out->n_keys = out->n_args = 0;
    out->args[out->n_args++] = add_text(out, &used, "%llu", (unsigned long long)now_us);
    out->args[out->n_args++] = add_text(out, &used, "%u", quantity);
    for (size_t i = 0; i < n; i++) {
        const struct limit_rule *rule = demands[i].rule;
        unsigned char hash[CRYPTO_SHA256_LEN];
        char hex[32];
        crypto_sha256(demands[i].key, hash);
        crypto_hex(slice_of((const char *)hash, sizeof(hex) / 2), hex);
        out->keys[out->n_keys++] =
            add_text(out, &used, "%.64slimit:%s:%.*s", prefix, rule->name, (int)sizeof(hex), hex);
        out->args[out->n_args++] = rule->algorithm == LIMIT_GCRA ? SLICE("gcra") : SLICE("window");
        out->args[out->n_args++] = add_text(out, &used, "%u", rule->limit);
        out->args[out->n_args++] = add_text(out, &used, "%u", rule->burst);
        out->args[out->n_args++] = add_text(out, &used, "%llu", (unsigned long long)rule->window_us);
    }
}

enum status limit_script_read(const struct redis_value *value, struct limit_verdict *verdicts, size_t n,
                              struct err *err)
{
    if (value->type != REDIS_ARRAY || value->n_items != n * 4)
        return err_set(err, ERR_REDIS, "limit: Redis' script gave another answer than ours");
    for (size_t i = 0; i < n; i++) {
        const struct redis_value *four = &value->items[i * 4];
        verdicts[i] = (struct limit_verdict){.is_allowed = four[0].integer == 1,
                                             .remaining = (uint32_t)four[1].integer,
                                             .retry_us = (uint64_t)four[2].integer,
                                             .reset_us = (uint64_t)four[3].integer};
    }
    return OK;
}
