/* Statement texts: what a text may do (T1), and the bounded cache that remembers it. Private to data/pg_*.
 *
 * A text is classified once, by a scan that knows strings, quoted names, dollar quotes and comments; the cache
 * makes that free afterwards. The cache also gives each text a slot, under which every connection notes whether
 * it has the text prepared, so that evicting a text bounds the prepared statements of all connections at once. */
#pragma once

#include "base/list.h"
#include "base/map.h"

enum pg_class {
    PG_CLASS_READ,      /* shared read connections */
    PG_CLASS_WRITE,     /* shared write connections */
    PG_CLASS_EXCLUSIVE, /* autocommit, but on a connection of its own (DDL, DO, CALL, VACUUM) */
    PG_CLASS_TX,        /* only inside a transaction (LOCK, SET LOCAL, cursors) */
    PG_CLASS_REFUSED    /* nowhere */
};

struct pg_text {
    enum pg_class class;
    int n_params;          /* the highest $n */
    bool is_tainting;      /* may leave session state behind: its connection is closed afterwards (DO, CALL, TEMP) */
    const char *advice;    /* TX, REFUSED: what to write instead */
    const char *tx_advice; /* refused inside a transaction too, and why; else NULL */
    /* Leaves something in the session: refused under transaction pooling, where there is none, and why; else NULL */
    const char *session_advice;
};

void pg_classify(struct slice sql, struct pg_text *out);

#define PG_STMTS 256
#define PG_STMT_NO_SLOT PG_STMTS

struct pg_stmt {
    struct list lru;
    struct slice sql; /* NUL-terminated */
    uint32_t id;      /* a new one when it must be prepared again */
    char name[16];    /* on the server: "s<id>" */
    uint16_t slot;    /* PG_STMT_NO_SLOT: not cached, never prepared */
    /* Ran into a shared connection's timeout: goes to an exclusive one until then (T5). For a while only: the reason
     * may have been a cold cache or a busy machine, and the exclusive connections are few. */
    uint64_t slow_until_ms;
    uint8_t n_slow;  /* how often so, lately */
    unsigned n_refs; /* calls that use it now */
    unsigned n_uses;
    struct pg_text text;
    char bytes[];
};

struct pg_stmts {
    struct map by_text;
    struct list lru; /* most recently used first */
    unsigned len;
    uint32_t last_id;
    bool slots[PG_STMTS];
};

void pg_stmts_create(struct pg_stmts *stmts);
void pg_stmts_destroy(struct pg_stmts *stmts); /* no call may use one any more */
/* Found or classified and added; hold it until pg_stmt_unref. */
struct pg_stmt *pg_stmt_ref(struct pg_stmts *stmts, struct slice sql);
void pg_stmt_unref(struct pg_stmts *stmts, struct pg_stmt *stmt);
/* It ran into a timeout: 10 s away from the shared connections, four times longer with each repetition, at most 10 min.
 */
void pg_stmt_mark_slow(struct pg_stmt *stmt, uint64_t now_ms);
/* Its plan is stale: every connection prepares it anew. `seen_id` is the id that failed, so that one change of
 * schema renews once, however many calls saw it. */
void pg_stmt_renew(struct pg_stmts *stmts, struct pg_stmt *stmt, uint32_t seen_id);
