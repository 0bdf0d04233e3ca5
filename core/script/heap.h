/* The Lua heap of one VM: counts its bytes, caps it, and keeps the collector ahead of the cap (T8).
 *
 * The cap is the worker's: what its other VMs hold (generations that finish what they began) is not there for this one.
 * But a quarter always is, so that new code can answer while old code holds all the rest.
 *
 * Memory is refused only while a resume runs: there a refusal is a Lua error in the activity that asked too much, while
 * a push of the core's own, outside a protected call, would end the process. So the cap may be passed by what the core
 * itself needs to answer that request, and the next resume finds the heap swept. */
#pragma once

#include <lua.h>

#include "base/base.h"

/* Freed blocks are kept by size, for the next value of that size: most of what a request makes and leaves is small, and
 * a general allocator splits and joins blocks in between. A block may be older than this heap (LuaJIT makes the state
 * with its own allocator), so no more is taken of it than every allocator gives: its size up to the next 8 bytes. */
enum { HEAP_STEP = 8, HEAP_LARGEST = 2048, HEAP_SIZES = HEAP_LARGEST / HEAP_STEP + 1 };

struct heap_kept {
    struct heap_block { /* at the block's own beginning */
        struct heap_block *next;
    } * first;
    unsigned n;
};

struct heap_share { /* between the VMs of one worker; the loop's own */
    size_t bytes;   /* held after the last resume of each */
};

struct heap {
    lua_Alloc alloc; /* the wrapped allocator */
    void *alloc_ud;
    size_t bytes, limit;             /* limit: SIZE_MAX but while a resume runs */
    size_t cap;                      /* of all VMs of the share; SIZE_MAX: none */
    struct heap_share *share, alone; /* the second if it shares with nobody */
    size_t told;                     /* of bytes, how many share->bytes contains */
    size_t judged;                   /* heap_room when the next two were chosen */
    size_t calm_from, calm; /* heap_settle has nothing to do while bytes is in calm_from … calm_from + calm */
    bool has_refused;       /* since the last heap_settle */
    bool (*refuses)(struct heap *heap, size_t more); /* asked first: a guard on code that is loaded; NULL: none */
    struct heap_kept kept[HEAP_SIZES];               /* they do not count in bytes; 256 KiB of each size at most */
};

/* `share` is borrowed until heap_withdraw; NULL: none. */
void heap_create(struct heap *heap, size_t cap /* bytes; 0 = none */, struct heap_share *share);
void heap_withdraw(struct heap *heap); /* it runs no more: what it holds is about to be freed */
void *heap_alloc(void *ud /* struct heap */, void *ptr, size_t old_size, size_t new_size); /* a lua_Alloc */
void heap_trim(struct heap *heap);                                                         /* gives back what is kept */

/* What this one may hold. */
static inline size_t heap_room(const struct heap *heap)
{
    size_t others = heap->share->bytes - heap->told, quarter = heap->cap / 4;
    return others < heap->cap - quarter ? heap->cap - others : quarter;
}

/* Around lua_resume. */
static inline void heap_enter(struct heap *heap)
{
    heap->limit = heap_room(heap);
}
static inline void heap_leave(struct heap *heap)
{
    heap->limit = SIZE_MAX;
    heap->share->bytes += heap->bytes - heap->told;
    heap->told = heap->bytes;
}

void heap_relieve(struct heap *heap, lua_State *L);
/* After what ran has let go of its values: collects after a refusal, or when little is left below the cap. */
static inline void heap_settle(struct heap *heap, lua_State *L)
{
    bool is_calm = heap->bytes - heap->calm_from <= heap->calm; /* also false when below calm_from: unsigned */
    if (heap->has_refused || !is_calm || heap_room(heap) < heap->judged - heap->judged / 8)
        heap_relieve(heap, L);
}
