/* The Lua heap of one VM: counts its bytes, caps it, and keeps the collector ahead of the cap (T8).
 *
 * Memory is refused only while a resume runs: there a refusal is a Lua error in the activity that asked too much, while
 * a push of the core's own, outside a protected call, would end the process. So the cap may be passed by what the core
 * itself needs to answer that request, and the next resume finds the heap swept. */
#pragma once

#include <lua.h>

#include "base/base.h"

struct heap {
    lua_Alloc alloc; /* the wrapped allocator */
    void *alloc_ud;
    size_t bytes, limit;    /* limit: SIZE_MAX but while a resume runs */
    size_t cap;             /* SIZE_MAX: none */
    size_t calm_from, calm; /* heap_settle has nothing to do while bytes is in calm_from … calm_from + calm */
    bool has_refused;       /* since the last heap_settle */
    bool (*refuses)(struct heap *heap, size_t more); /* asked first: a guard on code that is loaded; NULL: none */
};

void heap_create(struct heap *heap, size_t cap /* bytes; 0 = none */);
void *heap_alloc(void *ud /* struct heap */, void *ptr, size_t old_size, size_t new_size); /* a lua_Alloc */

/* Around lua_resume. */
static inline void heap_enter(struct heap *heap)
{
    heap->limit = heap->cap;
}
static inline void heap_leave(struct heap *heap)
{
    heap->limit = SIZE_MAX;
}

void heap_relieve(struct heap *heap, lua_State *L);
/* After what ran has let go of its values: collects after a refusal, or when little is left below the cap. */
static inline void heap_settle(struct heap *heap, lua_State *L)
{
    if (heap->has_refused || heap->bytes - heap->calm_from > heap->calm) /* also when below calm_from: unsigned */
        heap_relieve(heap, L);
}
