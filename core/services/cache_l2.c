/* See cache_l2.h. The scripts are the protocol; the C around them writes arguments and reads answers.
 *
 * Epochs are unique values, not counts: INCR of `clock`, which begins at the time, so that after a FLUSHALL none comes
 * back. A key's epoch needs to outlive a load only; a tag's outlives every value that carries it, and each token
 * prolongs it. `seq` counts messages, for who was away and asks whether he missed any. */
#include "services/cache_l2.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"

enum { N_SLOTS = 16384 };

#define KEY_EPOCH_MS "7200000"    /* loads are stored for an hour at most (cache.c) */
#define TAG_EPOCH_MS "3456000000" /* 40 days; values live 30 at most */

#define COMMON                                                                                                         \
    "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"                                 \
    "local function count(key) local n = redis.call('INCR', key)\n"                                                    \
    "  if n < 1e12 then n = now * 1000 redis.call('SET', key, string.format('%.0f', n)) end\n"                         \
    "  return string.format('%.0f', n) end\n"

/* KEYS: v, k, clock, t:, t:<tag> …  ARGV: mode, "t:" with the namespace */
static const char LOOKUP[] =
    COMMON "if ARGV[1] ~= 'token' then\n"
           "  local v = redis.call('GET', KEYS[1])\n"
           "  local stop = v and string.find(v, '\\n', 1, true)\n"
           "  if stop then\n"
           "    local f = {} for word in string.gmatch(string.sub(v, 1, stop), '%S+') do f[#f + 1] = word end\n"
           "    local ok = redis.call('GET', KEYS[4]) == f[4]\n"
           "    for i = 5, #f - 1, 2 do ok = ok and redis.call('GET', ARGV[2] .. f[i]) == f[i + 1] end\n"
           "    if ok and tonumber(f[3]) > now then\n"
           "      return {1, tonumber(f[1]), tonumber(f[2]) - now, tonumber(f[3]) - now, string.sub(v, stop + 1)} end\n"
           "  end\n"
           "end\n"
           "if ARGV[1] == 'get' then return {0} end\n"
           "local function epoch(key, life) local e = redis.call('GET', key)\n"
           "  if e then redis.call('PEXPIRE', key, life) return e end\n"
           "  e = count(KEYS[3]) redis.call('SET', key, e, 'PX', life) return e end\n"
           "local out = {0, epoch(KEYS[2], " KEY_EPOCH_MS ")}\n"
           "for i = 4, #KEYS do out[#out + 1] = epoch(KEYS[i], " TAG_EPOCH_MS ") end\n"
           "return out\n";

/* KEYS: v, k, t:, t:<tag> …  ARGV: kind, fresh ms, life ms, value, then the token, then the tags' names */
static const char STORE[] = COMMON
    "for i = 2, #KEYS do if redis.call('GET', KEYS[i]) ~= ARGV[i + 3] then return 0 end end\n"
    "local head = {ARGV[1], string.format('%.0f', now + ARGV[2]), string.format('%.0f', now + ARGV[3]), ARGV[6]}\n"
    "for i = 4, #KEYS do head[#head + 1] = ARGV[#KEYS + i] head[#head + 1] = ARGV[i + 3] end\n"
    "redis.call('SET', KEYS[1], table.concat(head, ' ') .. '\\n' .. ARGV[4], 'PX', ARGV[3])\n"
    "return 1\n";

/* KEYS: clock, seq, v, k, v, k …, t …  ARGV: number of keys, channel, node, names */
static const char FORGET[] =
    COMMON "local n = tonumber(ARGV[1])\n"
           "for i = 1, n do redis.call('DEL', KEYS[1 + 2 * i])\n"
           "  redis.call('SET', KEYS[2 + 2 * i], count(KEYS[1]), 'PX', " KEY_EPOCH_MS ") end\n"
           "for i = 3 + 2 * n, #KEYS do redis.call('SET', KEYS[i], count(KEYS[1]), 'PX', " TAG_EPOCH_MS ") end\n"
           "local seq = count(KEYS[2])\n"
           "redis.call('PUBLISH', ARGV[2], seq .. ' ' .. ARGV[3] .. '\\n' .. ARGV[4])\n"
           "return seq\n";

void cache_l2_create(struct cache_l2 *l2, struct redis *redis, const char *name_space)
{
    *l2 = (struct cache_l2){.redis = redis};
    snprintf(l2->name_space, sizeof(l2->name_space), "%s", name_space);
    redis_script_create(&l2->lookup, slice_str(LOOKUP));
    redis_script_create(&l2->store, slice_str(STORE));
    redis_script_create(&l2->forget, slice_str(FORGET));
}

/* ---- arguments ----------------------------------------------------------------------------------------------- */

/* "chowk:v:<key>" */
static struct slice name_in(const struct cache_l2 *l2, struct arena *arena, const char *kind, struct slice name)
{
    size_t len = strlen(l2->name_space) + 1 + strlen(kind);
    char *text = arena_alloc(arena, len + name.len + 1);
    snprintf(text, len + 1, "%s:%s", l2->name_space, kind);
    if (name.len)
        memcpy(text + len, name.ptr, name.len);
    return slice_of(text, len + name.len);
}

static struct slice number(struct arena *arena, uint64_t n)
{
    return slice_str(arena_printf(arena, "%" PRIu64, n));
}

uint32_t cache_l2_slot(struct slice key)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < key.len; i++)
        hash = (hash ^ (unsigned char)key.ptr[i]) * 16777619u;
    return (hash ^ hash >> 16) % N_SLOTS;
}

static struct slice epoch_of_key(const struct cache_l2 *l2, struct arena *arena, struct slice key)
{
    return name_in(l2, arena, "k:", number(arena, cache_l2_slot(key)));
}

/* The epochs a subject depends on, as KEYS: k, t:, t:<tag> … Returns how many. */
static size_t add_epochs(const struct cache_l2 *l2, struct arena *arena, const struct cache_subject *subject,
                         struct slice *keys)
{
    keys[0] = epoch_of_key(l2, arena, subject->key);
    keys[1] = name_in(l2, arena, "t:", SLICE(""));
    for (size_t i = 0; i < subject->n_tags; i++)
        keys[2 + i] = name_in(l2, arena, "t:", subject->tags[i]);
    return 2 + subject->n_tags;
}

struct redis_op *cache_l2_lookup(struct cache_l2 *l2, enum cache_l2_mode mode, const struct cache_subject *subject,
                                 uint64_t deadline_ms, redis_done_fn done, void *data)
{
    static const char *const modes[] = {[CACHE_L2_GET] = "get", [CACHE_L2_FETCH] = "fetch", [CACHE_L2_TOKEN] = "token"};
    struct slice keys[CACHE_STAMPS_MAX + 2], epochs[CACHE_STAMPS_MAX];
    struct arena arena;
    arena_create(&arena);
    size_t n = add_epochs(l2, &arena, subject, epochs);
    keys[0] = name_in(l2, &arena, "v:", subject->key);
    keys[1] = epochs[0];
    keys[2] = name_in(l2, &arena, "clock", SLICE(""));
    memcpy(&keys[3], &epochs[1], (n - 1) * sizeof(*keys));
    struct slice args[] = {slice_str(modes[mode]), name_in(l2, &arena, "t:", SLICE(""))};
    struct redis_script_call call = {.keys = keys,
                                     .n_keys = n + 2,
                                     .args = args,
                                     .n_args = ARRAY_LEN(args),
                                     .deadline_ms = deadline_ms,
                                     .done = done,
                                     .data = data};
    struct redis_op *op = redis_script_run(l2->redis, &l2->lookup, &call);
    arena_destroy(&arena);
    return op;
}

struct redis_op *cache_l2_store(struct cache_l2 *l2, const struct cache_l2_item *item, uint64_t deadline_ms,
                                redis_done_fn done, void *data)
{
    struct slice keys[CACHE_STAMPS_MAX + 1], args[4 + 2 * CACHE_STAMPS_MAX];
    const struct cache_subject *subject = &item->subject;
    struct arena arena;
    arena_create(&arena);
    keys[0] = name_in(l2, &arena, "v:", subject->key);
    size_t n = add_epochs(l2, &arena, subject, &keys[1]), n_args = 0;
    CHECK(item->token->n == n);
    args[n_args++] = number(&arena, item->kind);
    args[n_args++] = number(&arena, item->fresh_ms);
    args[n_args++] = number(&arena, item->life_ms);
    args[n_args++] = item->value;
    for (size_t i = 0; i < n; i++)
        args[n_args++] = slice_str(item->token->epochs[i]);
    for (size_t i = 0; i < subject->n_tags; i++)
        args[n_args++] = subject->tags[i];
    struct redis_script_call call = {.keys = keys,
                                     .n_keys = n + 1,
                                     .args = args,
                                     .n_args = n_args,
                                     .deadline_ms = deadline_ms,
                                     .done = done,
                                     .data = data};
    struct redis_op *op = redis_script_run(l2->redis, &l2->store, &call);
    arena_destroy(&arena);
    return op;
}

static void add_name(struct buf *out, char kind, struct slice name)
{
    buf_printf(out, "%c%zu:", kind, name.len);
    buf_slice(out, name);
}

struct redis_op *cache_l2_forget(struct cache_l2 *l2, const struct cache_names *names, uint64_t node,
                                 uint64_t deadline_ms, redis_done_fn done, void *data)
{
    struct arena arena;
    struct buf payload = {0}, channel = {0};
    size_t n_keys = 0;
    arena_create(&arena);
    struct slice *keys = arena_alloc(&arena, (2 + 2 * names->n_keys + names->n_tags) * sizeof(*keys));
    keys[n_keys++] = name_in(l2, &arena, "clock", SLICE(""));
    keys[n_keys++] = name_in(l2, &arena, "seq", SLICE(""));
    for (size_t i = 0; i < names->n_keys; i++) {
        keys[n_keys++] = name_in(l2, &arena, "v:", names->keys[i]);
        keys[n_keys++] = epoch_of_key(l2, &arena, names->keys[i]);
        add_name(&payload, 'k', names->keys[i]);
    }
    for (size_t i = 0; i < names->n_tags; i++) {
        keys[n_keys++] = name_in(l2, &arena, "t:", names->tags[i]);
        add_name(&payload, 't', names->tags[i]);
    }
    cache_l2_channel(l2, &channel);
    struct slice args[] = {number(&arena, names->n_keys), buf_as_slice(&channel), number(&arena, node),
                           buf_as_slice(&payload)};
    struct redis_script_call call = {.keys = keys,
                                     .n_keys = n_keys,
                                     .args = args,
                                     .n_args = ARRAY_LEN(args),
                                     .deadline_ms = deadline_ms,
                                     .done = done,
                                     .data = data};
    struct redis_op *op = redis_script_run(l2->redis, &l2->forget, &call);
    buf_free(&payload);
    buf_free(&channel);
    arena_destroy(&arena);
    return op;
}

/* Redis' channels know no databases, its keys do. */
void cache_l2_channel(const struct cache_l2 *l2, struct buf *out)
{
    buf_printf(out, "%s:forget:%d", l2->name_space, redis_db(l2->redis));
}

struct redis_op *cache_l2_last_seq(struct cache_l2 *l2, uint64_t deadline_ms, redis_done_fn done, void *data)
{
    struct arena arena;
    arena_create(&arena);
    struct slice argv[] = {SLICE("GET"), name_in(l2, &arena, "seq", SLICE(""))};
    struct redis_call call = {.argv = argv, .argc = 2, .deadline_ms = deadline_ms, .done = done, .data = data};
    struct redis_op *op = redis_command(l2->redis, &call);
    arena_destroy(&arena);
    return op;
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

static bool read_token(const struct redis_value *value, struct cache_token *token)
{
    token->n = value->n_items - 1;
    if (token->n > CACHE_STAMPS_MAX)
        return false;
    for (size_t i = 0; i < token->n; i++) {
        struct slice epoch = value->items[i + 1].str;
        if (epoch.len >= CACHE_EPOCH_MAX)
            return false;
        memcpy(token->epochs[i], epoch.ptr, epoch.len);
        token->epochs[i][epoch.len] = '\0';
    }
    return true;
}

bool cache_l2_read(const struct redis_value *value, struct cache_l2_answer *out)
{
    *out = (struct cache_l2_answer){.is_hit = false};
    if (value->type != REDIS_ARRAY || value->n_items == 0)
        return false;
    const struct redis_value *items = value->items;
    if (items[0].integer == 0)
        return read_token(value, &out->token);
    if (value->n_items != 5 || items[1].integer < 0 || items[1].integer >= CACHE_N_KINDS)
        return false;
    out->is_hit = true;
    out->kind = (enum cache_kind)items[1].integer;
    out->fresh_ms = items[2].integer;
    out->left_ms = items[3].integer;
    out->value = items[4].str;
    return true;
}

static bool cut_number(struct slice *text, char end, int64_t max, int64_t *out)
{
    const char *stop = text->len ? memchr(text->ptr, end, text->len) : NULL;
    if (!stop || !slice_to_int(slice_of(text->ptr, (size_t)(stop - text->ptr)), 0, max, out))
        return false;
    text->len -= (size_t)(stop + 1 - text->ptr);
    text->ptr = stop + 1;
    return true;
}

bool cache_news_read(struct slice payload, struct cache_news *out)
{
    int64_t seq;
    if (!cut_number(&payload, ' ', INT64_MAX, &seq))
        return false;
    const char *stop = payload.len ? memchr(payload.ptr, '\n', payload.len) : NULL;
    char node[24];
    if (!stop || (size_t)(stop - payload.ptr) >= sizeof(node))
        return false;
    memcpy(node, payload.ptr, (size_t)(stop - payload.ptr));
    node[stop - payload.ptr] = '\0';
    *out = (struct cache_news){.seq = (uint64_t)seq, .node = strtoull(node, NULL, 10)};
    out->names = slice_of(stop + 1, payload.len - (size_t)(stop + 1 - payload.ptr));
    return true;
}

bool cache_news_next(struct cache_news *news, bool *is_tag, struct slice *name)
{
    struct slice rest = news->names;
    int64_t len;
    if (rest.len == 0 || (rest.ptr[0] != 'k' && rest.ptr[0] != 't'))
        return false;
    *is_tag = rest.ptr[0] == 't';
    rest = slice_of(rest.ptr + 1, rest.len - 1);
    if (!cut_number(&rest, ':', CACHE_KEY_MAX, &len) || (size_t)len > rest.len)
        return false;
    *name = slice_of(rest.ptr, (size_t)len);
    news->names = slice_of(rest.ptr + len, rest.len - (size_t)len);
    return true;
}
