/* The timer heap: every deadline of the process in one binary heap, ordered by (due, order of arming).
 *
 * It owns the array, never a timer: timers are embedded in their owners, who stop them before they go away.
 * timer->heap_slot is the timer's place in the array, which makes stopping and re-arming O(log n).
 *
 * A timer whose deadline has passed is stored as due now. So whatever a firing timer arms sorts behind all
 * that was due before, and the fence in timer_heap_fire can leave it for the next turn: a timer that always
 * re-arms itself in the past can starve neither io nor the other timers. */
#include "net/timer.h"

#include <stdlib.h>

#include "net/loop_priv.h"

static bool is_before(const struct timer_entry *a, const struct timer_entry *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void place(struct timer_heap *heap, uint32_t slot, struct timer_entry entry)
{
    heap->entries[slot] = entry;
    entry.timer->heap_slot = slot;
}

/* Both find the place of `entry`, given that `slot` is free. */
static void sift_up(struct timer_heap *heap, uint32_t slot, struct timer_entry entry)
{
    while (slot > 1 && is_before(&entry, &heap->entries[slot / 2])) {
        place(heap, slot, heap->entries[slot / 2]);
        slot /= 2;
    }
    place(heap, slot, entry);
}

static void sift_down(struct timer_heap *heap, uint32_t slot, struct timer_entry entry)
{
    for (uint32_t child; (child = slot * 2) <= heap->len; slot = child) {
        if (child < heap->len && is_before(&heap->entries[child + 1], &heap->entries[child]))
            child++;
        if (!is_before(&heap->entries[child], &entry))
            break;
        place(heap, slot, heap->entries[child]);
    }
    place(heap, slot, entry);
}

static void sift(struct timer_heap *heap, uint32_t slot, struct timer_entry entry)
{
    if (slot > 1 && is_before(&entry, &heap->entries[slot / 2]))
        sift_up(heap, slot, entry);
    else
        sift_down(heap, slot, entry);
}

static void remove_slot(struct timer_heap *heap, uint32_t slot)
{
    heap->entries[slot].timer->heap_slot = 0;
    struct timer_entry last = heap->entries[heap->len--];
    if (slot <= heap->len)
        sift(heap, slot, last);
}

static void make_room(struct timer_heap *heap)
{
    if (heap->len + 1 < heap->cap)
        return;
    heap->cap = heap->cap ? heap->cap * 2 : 64;
    heap->entries = xrealloc(heap->entries, heap->cap * sizeof(heap->entries[0]));
}

void timer_arm(struct loop *loop, struct timer *timer, uint64_t due_ms, void (*fn)(struct timer *timer))
{
    struct timer_heap *heap = loop_timers(loop);
    uint64_t now_ms = loop_now(loop);
    timer->due_ms = due_ms < now_ms ? now_ms : due_ms;
    timer->fn = fn;
    struct timer_entry entry = {.due_ms = timer->due_ms, .order = heap->order++, .timer = timer};
    if (timer->heap_slot) {
        CHECK(timer->heap_slot <= heap->len && heap->entries[timer->heap_slot].timer == timer);
        sift(heap, timer->heap_slot, entry);
        return;
    }
    make_room(heap);
    sift_up(heap, ++heap->len, entry);
}

void timer_stop(struct loop *loop, struct timer *timer)
{
    if (!timer->heap_slot)
        return;
    struct timer_heap *heap = loop_timers(loop);
    CHECK(timer->heap_slot <= heap->len && heap->entries[timer->heap_slot].timer == timer);
    remove_slot(heap, timer->heap_slot);
}

bool timer_heap_first(const struct timer_heap *heap, uint64_t *due_ms)
{
    *due_ms = heap->len ? heap->entries[1].due_ms : 0;
    return heap->len > 0;
}

void timer_heap_fire(struct timer_heap *heap, struct loop *loop)
{
    uint64_t now_ms = loop_now(loop), fence = heap->order;
    while (heap->len && heap->entries[1].due_ms <= now_ms && heap->entries[1].order < fence) {
        struct timer *timer = heap->entries[1].timer;
        remove_slot(heap, 1);
        timer->fn(timer);
    }
}

void timer_heap_destroy(struct timer_heap *heap)
{
    CHECK(heap->len == 0);
    free(heap->entries);
    *heap = (struct timer_heap){0};
}
