/* Deadlines: a binary heap of small intrusive nodes behind one libuv timer, so that ten thousand idle
 * connections cost 48 bytes each. Precision 1 ms, fires in deadline order (equal ones in the order of arming),
 * never early. Stop it before its memory goes. */
#pragma once

#include "net/loop.h"

struct timer { /* embed it; zeroed = not armed */
    uint64_t due_ms;
    void (*fn)(struct timer *timer);
    uint32_t heap_slot; /* 1-based; 0 = not armed */
};

/* Arms or re-arms; due in the past fires in the next turn. fn may re-arm, stop any other, or free its owner. */
void timer_arm(struct loop *loop, struct timer *timer, uint64_t due_ms, void (*fn)(struct timer *timer));
void timer_stop(struct loop *loop, struct timer *timer); /* safe when not armed */
static inline bool timer_is_armed(const struct timer *timer)
{
    return timer->heap_slot != 0;
}
