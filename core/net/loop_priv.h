/* What the files of net/ share about the loop; nobody above includes this. libuv's own header stays in the
 * .c files, so that a libuv type never travels upwards by accident. */
#pragma once

#include "base/buf.h"
#include "net/loop.h"
#include "net/timer.h"

struct uv_loop_s;
struct uv_loop_s *loop_uv(struct loop *loop); /* borrows */

/* The first call in every libuv callback: reads the turn's clock if nobody did since the poll returned. */
void loop_enter(struct loop *loop);

/* Handles that users hold: +1 when made, -1 when freed, so that loop_free can prove that none is left. */
void loop_count_handle(struct loop *loop, int change);

/* The one buffer all streams receive into: valid until the next recv, so a reader hands its bytes on at once. */
#define LOOP_READ_BUFFER 65536
char *loop_read_buffer(struct loop *loop); /* borrows; LOOP_READ_BUFFER bytes */

/* Buffers of streams that hold bytes for less than a turn, many of them at a time: more than malloc keeps at hand. */
struct buf loop_spare_take(struct loop *loop);            /* empty; owned by the caller */
void loop_spare_give(struct loop *loop, struct buf *buf); /* takes and zeroes it; keeps a few small ones */

/* Whether a wake-up counts as something to wait for (it does by default). */
void loop_wakeup_keep(struct loop_wakeup *wakeup, bool keep);

/* ---- timers: owned by the loop, kept by timer.c -------------------------------------------------------- */

struct timer_entry { /* due and order are copied here, so that sifting does not touch the owners' memory */
    uint64_t due_ms, order;
    struct timer *timer;
};

struct timer_heap {
    struct timer_entry *entries; /* 1-based: entries[0] is never used */
    uint32_t len, cap;
    uint64_t order; /* of the next timer armed: equal deadlines fire in the order of arming */
};

struct timer_heap *loop_timers(struct loop *loop); /* borrows */
/* Earliest deadline; false when none is armed. */
bool timer_heap_first(const struct timer_heap *heap, uint64_t *due_ms);
void timer_heap_fire(struct timer_heap *heap, struct loop *loop);
void timer_heap_destroy(struct timer_heap *heap);
