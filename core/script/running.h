/* What the Lua of one process runs right now, kept where the master and `chowk status` can read it: in the process's
 * slot of the scoreboard. script/co.c writes it at each resume, so it is a few stores of fixed size: no format, no
 * length, no lock. Readers are other processes; a sequence number tells them that they read half of a write. */
#pragma once

#include <stdatomic.h>
#include <string.h>

#include "base/base.h"

enum { RUNNING_ROUTE = 64, RUNNING_ID = 37 }; /* bytes, with their NUL; an id is http_request.id */

/* Whom an activity works for. Fixed-size texts, NUL-terminated; borrowed for the activity's life. */
struct running_label {
    const char *route; /* RUNNING_ROUTE bytes: "GET /api/products/:slug", "job send_mail" */
    const char *id;    /* RUNNING_ID bytes: the request's id */
};

struct running {
    _Atomic uint32_t sequence;   /* odd while it is written */
    _Atomic uint32_t generation; /* of the code */
    _Atomic uint64_t since_ms;   /* clock_ms of about the resume; 0: no Lua runs, the rest tells what ran last */
    char route[RUNNING_ROUTE], id[RUNNING_ID];
    uint64_t left_ms; /* clock_coarse_ms of the last running_leave */
    /* Totals of all processes that had this slot: activities that hit the heap's cap, resumes that held the loop too
     * long. */
    _Atomic uint64_t n_out_of_memory, n_slow_turns;
};

/* For the next process: its last writer may have died with an odd sequence. Totals stay. */
void running_reset(struct running *running);

/* Returns since when this resume holds the loop: what ran before it in the same turn is not counted to it. */
static inline uint64_t running_enter(struct running *running, struct running_label label, uint32_t generation,
                                     uint64_t now_ms)
{
    now_ms = running->left_ms > now_ms ? running->left_ms : now_ms;
    uint32_t sequence = atomic_load_explicit(&running->sequence, memory_order_relaxed);
    atomic_store_explicit(&running->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    memcpy(running->route, label.route, RUNNING_ROUTE);
    memcpy(running->id, label.id, RUNNING_ID);
    atomic_store_explicit(&running->generation, generation, memory_order_relaxed);
    atomic_store_explicit(&running->since_ms, now_ms, memory_order_relaxed);
    atomic_store_explicit(&running->sequence, sequence + 2, memory_order_release);
    return now_ms;
}

static inline void running_leave(struct running *running, uint64_t coarse_now_ms)
{
    atomic_store_explicit(&running->since_ms, 0, memory_order_relaxed);
    running->left_ms = coarse_now_ms;
}

struct running_view { /* one consistent copy */
    uint32_t generation;
    uint64_t since_ms;
    char route[RUNNING_ROUTE], id[RUNNING_ID];
};
/* AGAIN: it was being written all the while. */
enum status running_read(const struct running *running, struct running_view *out) MUST_CHECK;
