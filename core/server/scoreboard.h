/* The scoreboard: one slot of shared memory per process that runs application code, written by that process, read by
 * whoever wants to know what the server does: the master's watchdog, `chowk status`, the admin listener.
 *
 * No locks: every field is an atomic of its own or guarded by a sequence number, and is written by exactly one
 * process, named below. A process that died leaves its last words here, which is the point of it. A scoreboard belongs
 * to one master: an upgrade makes a new one, because both masters' workers live at the same time.
 *
 * Never: a pointer, a field two processes write, anything in a slot that has to be right for a request to succeed. */
#pragma once

#include "base/err.h"
#include "script/running.h"
#include "script/where.h"

enum { SCOREBOARD_EXTRA = 8, SCOREBOARD_HASH = 17 }; /* slots beyond one per worker: replacements, job workers */

enum scoreboard_state { SCOREBOARD_FREE, SCOREBOARD_STARTING, SCOREBOARD_SERVING, SCOREBOARD_DRAINING };

struct scoreboard_slot {
    /* the master's, when it starts and buries the process */
    _Atomic uint32_t pid;    /* 0: nobody */
    _Atomic uint32_t worker; /* its number: not the slot's, see supervisor.c */
    _Atomic int64_t started_wall_ms;
    /* the process's own, from here on */
    _Alignas(64) _Atomic uint32_t state; /* enum scoreboard_state; STARTING and FREE are the master's to say */
    _Atomic uint64_t beat_ms;            /* clock_ms when its loop last turned: at least each SCOREBOARD_BEAT_MS */
    struct running running;
    /* refreshed at each beat, 0 in a new process */
    _Atomic uint64_t requests, responses_5xx, lua_heap, rss; /* bytes; rss without shared memory */
    _Atomic uint32_t connections, in_flight;
    _Atomic uint32_t generation;           /* of new requests; part of `running` is the generation of what runs */
    char generation_hash[SCOREBOARD_HASH]; /* hex, NUL-terminated; set before `generation` */
    _Atomic uint32_t n_generations;        /* alive: old ones that finish what they began, and this one */
    struct where_report report;            /* its last words, after a crash or a stall */
    _Atomic uint64_t asked_beat_ms;        /* beat_ms of the stall that the report is about; written before it */
};

enum { SCOREBOARD_BEAT_MS = 100 };

struct scoreboard {
    uint32_t n_slots;
    /* the master's */
    _Atomic uint32_t n_failed; /* workers not started again after a crash loop: not ready while > 0 */
    _Atomic uint64_t n_deaths, n_crashes, n_stalls, n_recycled;
    struct scoreboard_slot slots[];
};

int scoreboard_segment_create(unsigned n_workers, struct err *err) MUST_CHECK; /* owned memfd, or -1 */
struct scoreboard *scoreboard_attach(int fd, struct err *err) MUST_CHECK;      /* mapped until detached; or NULL */
void scoreboard_detach(struct scoreboard *board);                              /* NULL is fine */

/* The master: a process is about to start in `slot`; it has ended. The totals in `running` stay. */
void scoreboard_take(struct scoreboard_slot *slot, unsigned worker);
void scoreboard_release(struct scoreboard_slot *slot);

struct scoreboard_view { /* one slot, for people and exporters */
    uint32_t pid, worker, connections, in_flight, generation, n_generations;
    enum scoreboard_state state;
    int64_t started_wall_ms;
    uint64_t beat_ms, requests, responses_5xx, lua_heap, rss;
    char generation_hash[SCOREBOARD_HASH];
    struct running_view running;
};
/* False: nobody is in that slot. */
bool scoreboard_read(const struct scoreboard *board, unsigned slot, struct scoreboard_view *out) MUST_CHECK;
const char *scoreboard_state_name(enum scoreboard_state state);
/* Over all slots, dead processes included. */
struct scoreboard_totals {
    uint64_t deaths, crashes, stalls, recycled, out_of_memory, slow_turns;
    uint32_t failed;
};
void scoreboard_sum(const struct scoreboard *board, struct scoreboard_totals *out);
