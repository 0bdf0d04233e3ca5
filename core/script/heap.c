/* LuaJIT has no emergency collection: an allocator that returns NULL is an error at once, also when most of the heap
 * is garbage. With its default pause the collector lets the heap double between two cycles, so a quarter of the cap is
 * what may live without care. Above that it is set to hurry, and above three quarters the heap is swept whole, each
 * time when half of the room that was left has gone: a few long collections instead of failing requests. */
#include "script/heap.h"

#include <string.h>

enum { KEEP_BYTES = 256 * 1024 }; /* of a size: the garbage of a collector's cycle, not of the worst hour */
enum { PAUSE = 200, STEP = 200, HURRIED_PAUSE = 110, HURRIED_STEP = 400 }; /* the first two: LuaJIT's defaults */

static void stay_calm_within(struct heap *heap, size_t from, size_t to)
{
    heap->calm_from = from;
    heap->calm = to - from;
}

void heap_create(struct heap *heap, size_t cap, struct heap_share *share)
{
    *heap = (struct heap){.cap = cap ? cap : SIZE_MAX, .limit = SIZE_MAX};
    heap->share = share ? share : &heap->alone;
    heap->judged = heap_room(heap);
    stay_calm_within(heap, 0, cap ? heap->judged / 4 : SIZE_MAX);
}

void heap_withdraw(struct heap *heap)
{
    heap->share->bytes -= heap->told;
    heap->told = 0;
    heap->share = &heap->alone;
}

/* ---- blocks --------------------------------------------------------------------------------------------------- */

static size_t index_of(size_t size)
{
    return (size + HEAP_STEP - 1) / HEAP_STEP;
}

static size_t size_at(size_t index)
{
    return index * HEAP_STEP;
}

static void *take(struct heap *heap, size_t size)
{
    size_t i = index_of(size);
    if (i >= HEAP_SIZES)
        return heap->alloc(heap->alloc_ud, NULL, 0, size);
    struct heap_kept *kept = &heap->kept[i];
    struct heap_block *block = kept->first;
    if (!block)
        return heap->alloc(heap->alloc_ud, NULL, 0, size_at(i));
    kept->first = block->next;
    kept->n--;
    return block;
}

static void give(struct heap *heap, void *ptr, size_t size)
{
    size_t i = index_of(size);
    struct heap_block *block = ptr;
    if (i >= HEAP_SIZES || heap->kept[i].n * i >= KEEP_BYTES / HEAP_STEP) {
        (void)heap->alloc(heap->alloc_ud, block, size, 0);
        return;
    }
    struct heap_kept *kept = &heap->kept[i];
    block->next = kept->first;
    kept->first = block;
    kept->n++;
}

static void *resize(struct heap *heap, void *block, size_t old_size, size_t new_size)
{
    size_t from = index_of(old_size), to = index_of(new_size);
    if (from >= HEAP_SIZES && to >= HEAP_SIZES)
        return heap->alloc(heap->alloc_ud, block, old_size, new_size);
    if (from == to)
        return block;
    void *other = take(heap, new_size);
    if (!other)
        return NULL;
    memcpy(other, block, old_size < new_size ? old_size : new_size);
    give(heap, block, old_size);
    return other;
}

void heap_trim(struct heap *heap)
{
    for (size_t i = 1; i < HEAP_SIZES; i++) {
        struct heap_kept *kept = &heap->kept[i];
        for (struct heap_block *block; (block = kept->first) != NULL; kept->n--) {
            kept->first = block->next;
            (void)heap->alloc(heap->alloc_ud, block, size_at(i), 0);
        }
    }
}

/* May it hold `more` bytes than it does? */
static inline bool admits(struct heap *heap, size_t more)
{
    if (heap->refuses && heap->refuses(heap, more))
        return false;
    if (heap->bytes + more <= heap->limit)
        return true;
    heap->has_refused = true;
    return false;
}

void *heap_alloc(void *ud, void *ptr, size_t old_size, size_t new_size)
{
    struct heap *heap = ud;
    if (new_size == 0) {
        heap->bytes -= old_size;
        if (ptr)
            give(heap, ptr, old_size);
        return NULL;
    }
    if (new_size > old_size && !admits(heap, new_size - old_size))
        return NULL;
    void *block = ptr ? resize(heap, ptr, old_size, new_size) : take(heap, new_size);
    if (block)
        heap->bytes += new_size - old_size;
    return block;
}

/* ---- the cap -------------------------------------------------------------------------------------------------- */

void heap_relieve(struct heap *heap, lua_State *L)
{
    size_t room = heap_room(heap), quarter = room / 4;
    heap->judged = room;
    if (heap->has_refused || heap->bytes > 3 * quarter) {
        lua_gc(L, LUA_GCCOLLECT, 0);
        heap_trim(heap);
    }
    heap->has_refused = false;
    bool is_tight = heap->bytes > quarter;
    lua_gc(L, LUA_GCSETPAUSE, is_tight ? HURRIED_PAUSE : PAUSE);
    lua_gc(L, LUA_GCSETSTEPMUL, is_tight ? HURRIED_STEP : STEP);
    if (!is_tight)
        stay_calm_within(heap, 0, quarter);
    else if (heap->bytes < 3 * quarter)
        stay_calm_within(heap, quarter / 2, 3 * quarter);
    else
        stay_calm_within(heap, quarter / 2,
                         heap->bytes < room ? heap->bytes + (room - heap->bytes) / 2 : heap->bytes + quarter / 2);
}
