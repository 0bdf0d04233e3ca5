#include "script/running.h"

enum { TRIES = 100 }; /* a write takes nanoseconds, unless its process died in the middle */

void running_reset(struct running *running)
{
    uint64_t n_out_of_memory = running->n_out_of_memory, n_slow_turns = running->n_slow_turns;
    memset(running, 0, sizeof(*running));
    running->n_out_of_memory = n_out_of_memory;
    running->n_slow_turns = n_slow_turns;
}

enum status running_read(const struct running *running, struct running_view *out)
{
    for (int i = 0; i < TRIES; i++) {
        uint32_t before = atomic_load_explicit(&running->sequence, memory_order_acquire);
        out->generation = atomic_load_explicit(&running->generation, memory_order_relaxed);
        out->since_ms = atomic_load_explicit(&running->since_ms, memory_order_relaxed);
        memcpy(out->route, running->route, sizeof(out->route));
        memcpy(out->id, running->id, sizeof(out->id));
        out->route[RUNNING_ROUTE - 1] = out->id[RUNNING_ID - 1] = '\0';
        atomic_thread_fence(memory_order_acquire);
        if (before % 2 == 0 && before == atomic_load_explicit(&running->sequence, memory_order_relaxed))
            return OK;
    }
    return AGAIN;
}
