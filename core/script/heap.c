/* LuaJIT has no emergency collection: an allocator that returns NULL is an error at once, also when most of the heap
 * is garbage. With its default pause the collector lets the heap double between two cycles, so a quarter of the cap is
 * what may live without care. Above that it is set to hurry, and above three quarters the heap is swept whole, each
 * time when half of the room that was left has gone: a few long collections instead of failing requests. */
#include "script/heap.h"

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

void *heap_alloc(void *ud, void *ptr, size_t old_size, size_t new_size)
{
    struct heap *heap = ud;
    size_t bytes = heap->bytes - old_size + new_size;
    if (heap->refuses && new_size > old_size && heap->refuses(heap, new_size - old_size))
        return NULL;
    if (bytes > heap->limit && new_size > old_size) {
        heap->has_refused = true;
        return NULL;
    }
    void *block = heap->alloc(heap->alloc_ud, ptr, old_size, new_size);
    if (block || new_size == 0)
        heap->bytes = bytes;
    return block;
}

void heap_relieve(struct heap *heap, lua_State *L)
{
    size_t room = heap_room(heap), quarter = room / 4;
    heap->judged = room;
    if (heap->has_refused || heap->bytes > 3 * quarter)
        lua_gc(L, LUA_GCCOLLECT, 0);
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
