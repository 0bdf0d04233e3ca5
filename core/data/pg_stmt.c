/* The cache of statement texts: one per worker, bounded, least recently used goes first. It must never drop a
 * text that a call still uses; when all of them are in use, a text lives outside the cache for its call. */
#include "data/pg_stmt.h"

#include <stdio.h>
#include <stdlib.h>

void pg_stmts_create(struct pg_stmts *stmts)
{
    *stmts = (struct pg_stmts){0};
    list_init(&stmts->lru);
}

static void stmt_drop(struct pg_stmts *stmts, struct pg_stmt *stmt)
{
    map_remove(&stmts->by_text, stmt->sql);
    list_remove(&stmt->lru);
    stmts->slots[stmt->slot] = false;
    stmts->len--;
    free(stmt);
}

void pg_stmts_destroy(struct pg_stmts *stmts)
{
    while (!list_is_empty(&stmts->lru)) {
        struct pg_stmt *stmt = container_of(stmts->lru.next, struct pg_stmt, lru);
        CHECK(stmt->n_refs == 0);
        stmt_drop(stmts, stmt);
    }
    map_free(&stmts->by_text);
}

/* A free slot, evicting if there is none; PG_STMT_NO_SLOT if every text is in use. */
static uint16_t slot_acquire(struct pg_stmts *stmts)
{
    if (stmts->len == PG_STMTS) {
        struct list *node = stmts->lru.prev;
        while (node != &stmts->lru && container_of(node, struct pg_stmt, lru)->n_refs)
            node = node->prev;
        if (node == &stmts->lru)
            return PG_STMT_NO_SLOT;
        stmt_drop(stmts, container_of(node, struct pg_stmt, lru));
    }
    for (uint16_t slot = 0; slot < PG_STMTS; slot++)
        if (!stmts->slots[slot])
            return slot;
    WRONG("a free slot exists when fewer than PG_STMTS are cached");
}

static void stmt_name(struct pg_stmts *stmts, struct pg_stmt *stmt)
{
    stmt->id = ++stmts->last_id;
    snprintf(stmt->name, sizeof(stmt->name), "s%u", stmt->id);
}

static struct pg_stmt *stmt_add(struct pg_stmts *stmts, struct slice sql)
{
    struct pg_stmt *stmt = xalloc(sizeof(*stmt) + sql.len + 1);
    memcpy(stmt->bytes, sql.ptr, sql.len);
    stmt->sql = slice_of(stmt->bytes, sql.len);
    stmt_name(stmts, stmt);
    pg_classify(stmt->sql, &stmt->text);
    stmt->slot = slot_acquire(stmts);
    if (stmt->slot == PG_STMT_NO_SLOT)
        return stmt;
    stmts->slots[stmt->slot] = true;
    stmts->len++;
    list_push_front(&stmts->lru, &stmt->lru);
    map_put(&stmts->by_text, stmt->sql, stmt);
    return stmt;
}

struct pg_stmt *pg_stmt_ref(struct pg_stmts *stmts, struct slice sql)
{
    struct pg_stmt *stmt = map_get(&stmts->by_text, sql);
    if (!stmt) {
        stmt = stmt_add(stmts, sql);
    } else if (stmts->lru.next != &stmt->lru) {
        list_remove(&stmt->lru);
        list_push_front(&stmts->lru, &stmt->lru);
    }
    stmt->n_refs++;
    stmt->n_uses++;
    return stmt;
}

void pg_stmt_unref(struct pg_stmts *stmts, struct pg_stmt *stmt)
{
    (void)stmts;
    CHECK(stmt->n_refs > 0);
    if (--stmt->n_refs == 0 && stmt->slot == PG_STMT_NO_SLOT)
        free(stmt);
}

void pg_stmt_mark_slow(struct pg_stmt *stmt, uint64_t now_ms)
{
    enum { SLOW_MS = 10000, SLOW_MAX_MS = 600000 };
    if (stmt->slow_until_ms > now_ms) /* calls that were in flight together count once */
        return;
    if (now_ms > stmt->slow_until_ms + SLOW_MAX_MS)
        stmt->n_slow = 0;
    uint64_t ms = (uint64_t)SLOW_MS << (2 * stmt->n_slow);
    stmt->n_slow += ms < SLOW_MAX_MS;
    stmt->slow_until_ms = now_ms + (ms < SLOW_MAX_MS ? ms : SLOW_MAX_MS);
}

void pg_stmt_renew(struct pg_stmts *stmts, struct pg_stmt *stmt, uint32_t seen_id)
{
    if (stmt->id == seen_id)
        stmt_name(stmts, stmt);
}
