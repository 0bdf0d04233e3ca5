#include "server/recycle.h"

void recycle_begin(struct recycle *recycle, uint64_t n_out_of_memory)
{
    *recycle = (struct recycle){.n_seen = n_out_of_memory, .next_ms = recycle->next_ms};
}

static void note(struct recycle *recycle, uint64_t now_ms)
{
    recycle->out_ms[recycle->next] = now_ms;
    recycle->next = (recycle->next + 1) % RECYCLE_OUT_OF_MEMORY;
}

enum recycle_why recycle_look(struct recycle *recycle, const struct recycle_view *view, uint64_t now_ms)
{
    uint64_t n_new = view->n_out_of_memory - recycle->n_seen;
    recycle->n_seen = view->n_out_of_memory;
    for (uint64_t i = 0; i < n_new && i < RECYCLE_OUT_OF_MEMORY; i++)
        note(recycle, now_ms);
    if (now_ms < recycle->next_ms)
        return RECYCLE_NOT;
    uint64_t oldest_ms = recycle->out_ms[recycle->next];
    if (oldest_ms && now_ms - oldest_ms <= RECYCLE_WITHIN_MS)
        return RECYCLE_OOMS;
    return view->max_bytes && view->bytes > view->max_bytes ? RECYCLE_BYTES : RECYCLE_NOT;
}

void recycle_done(struct recycle *recycle, uint64_t now_ms)
{
    recycle->next_ms = now_ms + RECYCLE_AGAIN_MS;
}
