/* T1 for Redis: the connection is shared by every request of the worker, so a command that changes the connection's
 * state (SELECT, MULTI, SUBSCRIBE, …) would change it under its neighbours: it is refused with what to write instead.
 * One that blocks would hold them all up: it goes to a connection of its own. The same table knows which commands only
 * read, which decides what a lost reply means. A command that is not in it passes as a write. New rows: keep the order,
 * the test checks it. */
#include "data/redis_guard.h"

#include <stdlib.h>

#define IN_URL "is a property of the shared connection: put it into redis.url (redis://user:password@host:port/db)"
#define NO_MULTI                                                                                                       \
    "would put other requests' commands into your transaction: use redis.multi{ {\"SET\", k, v}, … }, or "           \
    "redis.script to decide on what it reads"
#define NO_SUB "would stop the shared connection from answering anybody: use redis.subscribe"
#define NO_STREAM "would stop the shared connection from answering anybody"
#define NO_BLOCK "would hold up every other request's commands"
#define NO_STATE "changes the shared connection under other requests' commands; leave it out"
#define NO_ADMIN "is an operator's command: run it with redis-cli"

enum rule { READ, REFUSE, CLIENT, TIMEOUT_FIRST, TIMEOUT_LAST, BLOCK_OPTION, SCRIPT };

static const struct row {
    const char *name;
    enum rule rule;
    const char *advice;
} table[] = {
    {"ASKING", REFUSE, NO_STATE},
    {"AUTH", REFUSE, IN_URL},
    {"BITCOUNT", READ, NULL},
    {"BITFIELD_RO", READ, NULL},
    {"BITPOS", READ, NULL},
    {"BLMOVE", TIMEOUT_LAST, NULL},
    {"BLMPOP", TIMEOUT_FIRST, NULL},
    {"BLPOP", TIMEOUT_LAST, NULL},
    {"BRPOP", TIMEOUT_LAST, NULL},
    {"BRPOPLPUSH", TIMEOUT_LAST, NULL},
    {"BZMPOP", TIMEOUT_FIRST, NULL},
    {"BZPOPMAX", TIMEOUT_LAST, NULL},
    {"BZPOPMIN", TIMEOUT_LAST, NULL},
    {"CLIENT", CLIENT, "with this subcommand " NO_STATE},
    {"COMMAND", READ, NULL},
    {"DBSIZE", READ, NULL},
    {"DEBUG", REFUSE, NO_ADMIN},
    {"DISCARD", REFUSE, NO_MULTI},
    {"DUMP", READ, NULL},
    {"ECHO", READ, NULL},
    {"EVALSHA_RO", READ, NULL},
    {"EVAL_RO", READ, NULL},
    {"EXEC", REFUSE, NO_MULTI},
    {"EXISTS", READ, NULL},
    {"EXPIRETIME", READ, NULL},
    {"FCALL_RO", READ, NULL},
    {"GEODIST", READ, NULL},
    {"GEOHASH", READ, NULL},
    {"GEOPOS", READ, NULL},
    {"GEORADIUSBYMEMBER_RO", READ, NULL},
    {"GEORADIUS_RO", READ, NULL},
    {"GEOSEARCH", READ, NULL},
    {"GET", READ, NULL},
    {"GETBIT", READ, NULL},
    {"GETRANGE", READ, NULL},
    {"HELLO", REFUSE, NO_STATE},
    {"HEXISTS", READ, NULL},
    {"HGET", READ, NULL},
    {"HGETALL", READ, NULL},
    {"HKEYS", READ, NULL},
    {"HLEN", READ, NULL},
    {"HMGET", READ, NULL},
    {"HRANDFIELD", READ, NULL},
    {"HSCAN", READ, NULL},
    {"HSTRLEN", READ, NULL},
    {"HVALS", READ, NULL},
    {"INFO", READ, NULL},
    {"KEYS", READ, NULL},
    {"LASTSAVE", READ, NULL},
    {"LCS", READ, NULL},
    {"LINDEX", READ, NULL},
    {"LLEN", READ, NULL},
    {"LPOS", READ, NULL},
    {"LRANGE", READ, NULL},
    {"MEMORY", READ, NULL},
    {"MGET", READ, NULL},
    {"MONITOR", REFUSE, NO_STREAM},
    {"MULTI", REFUSE, NO_MULTI},
    {"OBJECT", READ, NULL},
    {"PEXPIRETIME", READ, NULL},
    {"PFCOUNT", READ, NULL},
    {"PING", READ, NULL},
    {"PSUBSCRIBE", REFUSE, NO_SUB},
    {"PSYNC", REFUSE, NO_STREAM},
    {"PTTL", READ, NULL},
    {"PUNSUBSCRIBE", REFUSE, NO_SUB},
    {"QUIT", REFUSE, NO_STATE},
    {"RANDOMKEY", READ, NULL},
    {"READONLY", REFUSE, NO_STATE},
    {"READWRITE", REFUSE, NO_STATE},
    {"REPLCONF", REFUSE, NO_STREAM},
    {"RESET", REFUSE, NO_STATE},
    {"ROLE", READ, NULL},
    {"SAVE", REFUSE, NO_BLOCK ": BGSAVE"},
    {"SCAN", READ, NULL},
    {"SCARD", READ, NULL},
    {"SCRIPT", SCRIPT, "DEBUG " NO_ADMIN},
    {"SDIFF", READ, NULL},
    {"SELECT", REFUSE, IN_URL},
    {"SHUTDOWN", REFUSE, NO_ADMIN},
    {"SINTER", READ, NULL},
    {"SINTERCARD", READ, NULL},
    {"SISMEMBER", READ, NULL},
    {"SMEMBERS", READ, NULL},
    {"SMISMEMBER", READ, NULL},
    {"SORT_RO", READ, NULL},
    {"SRANDMEMBER", READ, NULL},
    {"SSCAN", READ, NULL},
    {"SSUBSCRIBE", REFUSE, NO_SUB},
    {"STRLEN", READ, NULL},
    {"SUBSCRIBE", REFUSE, NO_SUB},
    {"SUBSTR", READ, NULL},
    {"SUNION", READ, NULL},
    {"SUNSUBSCRIBE", REFUSE, NO_SUB},
    {"SYNC", REFUSE, NO_STREAM},
    {"TIME", READ, NULL},
    {"TTL", READ, NULL},
    {"TYPE", READ, NULL},
    {"UNSUBSCRIBE", REFUSE, NO_SUB},
    {"UNWATCH", REFUSE, NO_MULTI},
    {"WAIT", REFUSE, NO_BLOCK ": nothing here waits for replicas"},
    {"WAITAOF", REFUSE, NO_BLOCK ": nothing here waits for the disk"},
    {"WATCH", REFUSE, NO_MULTI},
    {"XINFO", READ, NULL},
    {"XLEN", READ, NULL},
    {"XPENDING", READ, NULL},
    {"XRANGE", READ, NULL},
    {"XREAD", BLOCK_OPTION, NULL},
    {"XREADGROUP", BLOCK_OPTION, NULL},
    {"XREVRANGE", READ, NULL},
    {"ZCARD", READ, NULL},
    {"ZCOUNT", READ, NULL},
    {"ZDIFF", READ, NULL},
    {"ZINTER", READ, NULL},
    {"ZINTERCARD", READ, NULL},
    {"ZLEXCOUNT", READ, NULL},
    {"ZMSCORE", READ, NULL},
    {"ZRANDMEMBER", READ, NULL},
    {"ZRANGE", READ, NULL},
    {"ZRANGEBYLEX", READ, NULL},
    {"ZRANGEBYSCORE", READ, NULL},
    {"ZRANK", READ, NULL},
    {"ZREVRANGE", READ, NULL},
    {"ZREVRANGEBYLEX", READ, NULL},
    {"ZREVRANGEBYSCORE", READ, NULL},
    {"ZREVRANK", READ, NULL},
    {"ZSCAN", READ, NULL},
    {"ZSCORE", READ, NULL},
    {"ZUNION", READ, NULL},
};

#define NAME_MAX_LEN 24 /* longer than any name above */

static int compare(const void *name, const void *row)
{
    return strcmp(name, ((const struct row *)row)->name);
}

static const struct row *find(struct slice name)
{
    char upper[NAME_MAX_LEN + 1];
    if (name.len > NAME_MAX_LEN)
        return NULL;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        upper[i] = c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
    }
    upper[name.len] = '\0';
    return bsearch(upper, table, ARRAY_LEN(table), sizeof table[0], compare);
}

/* BLOCK stands before STREAMS; behind it come keys and ids, which may be spelled "block". */
static size_t find_block_option(const struct slice *argv, size_t argc)
{
    for (size_t i = 1; i + 1 < argc && !slice_ieq(argv[i], SLICE("STREAMS")); i++) {
        if (slice_ieq(argv[i], SLICE("BLOCK")))
            return i + 1;
        if (slice_ieq(argv[i], SLICE("GROUP")))
            i += 2;
    }
    return 0;
}

static bool is_harmless_client(const struct slice *argv, size_t argc)
{
    return argc >= 2 && (slice_ieq(argv[1], SLICE("ID")) || slice_ieq(argv[1], SLICE("INFO")) ||
                         slice_ieq(argv[1], SLICE("LIST")) || slice_ieq(argv[1], SLICE("GETNAME")));
}

enum redis_effect redis_guard(const struct slice *argv, size_t argc, const char **advice)
{
    const struct row *row = find(argv[0]);
    if (!row)
        return REDIS_WRITES;
    if (row->advice)
        *advice = row->advice;
    switch (row->rule) {
    case READ:
        return REDIS_READS;
    case REFUSE:
        return REDIS_REFUSED;
    case TIMEOUT_FIRST:
    case TIMEOUT_LAST:
        return REDIS_BLOCKS;
    case CLIENT:
        return is_harmless_client(argv, argc) ? REDIS_READS : REDIS_REFUSED;
    case BLOCK_OPTION: /* XREADGROUP moves the group's cursor, so it is not a read */
        if (find_block_option(argv, argc) > 0)
            return REDIS_BLOCKS;
        return slice_ieq(argv[0], SLICE("XREAD")) ? REDIS_READS : REDIS_WRITES;
    case SCRIPT:
        return argc >= 2 && slice_ieq(argv[1], SLICE("DEBUG")) ? REDIS_REFUSED : REDIS_WRITES;
    }
    WRONG("redis_guard: rule");
}

struct redis_blocking redis_guard_blocking(const struct slice *argv, size_t argc)
{
    const struct row *row = find(argv[0]);
    CHECK(row);
    if (row->rule == TIMEOUT_FIRST || row->rule == TIMEOUT_LAST)
        return (struct redis_blocking){.timeout = argc < 2                     ? 0
                                                  : row->rule == TIMEOUT_FIRST ? 1
                                                                               : argc - 1,
                                       .resumes = true};
    bool reads = slice_ieq(argv[0], SLICE("XREAD")), is_tail = false;
    for (size_t i = 1; i < argc; i++)
        is_tail = is_tail || slice_eq(argv[i], SLICE("$"));
    return (struct redis_blocking){
        .timeout = find_block_option(argv, argc), .in_ms = true, .reads = reads, .resumes = !(reads && is_tail)};
}
