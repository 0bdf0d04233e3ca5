/* The generations of one worker: the current one, whose code new requests get; one that is prepared and waits for the
 * commit; and old ones that finish what they have begun. A request, a task, a timer keeps the generation it started
 * in, because it is a coroutine of its lua_State. (DESIGN 3; TRAPS T7, T23) */
#pragma once

#include "script/vm.h"

struct generations;

struct generations_opts {
    const struct env *env;           /* borrowed for the life, as all that follow */
    const struct vm_module *modules; /* as in vm_opts */
    const char *main;
    uint32_t drain_ms;        /* how long an old generation's requests and tasks may go on */
    uint32_t stream_drain_ms; /* how long its streams may */
    uint32_t load_ms;         /* how long a new one may load */
    size_t load_bytes;        /* how large its heap may become meanwhile */
    unsigned max;             /* alive at once, at least 2: beyond, the oldest's streams are closed */
    /* The answer to generations_prepare: refusal is NULL for yes, else why not, with the traceback. Not called for one
     * that was aborted meanwhile. */
    void (*on_vote)(void *data, uint32_t number, const char *refusal);
    /* The current one has changed: its router and state are the ones to use from now on. The old one's stay valid for
     * what is in flight. */
    void (*on_current)(void *data);
    void *data;
};

/* `vm` and `bundle` are the first generation, loaded already; takes both. */
struct generations *generations_new(const struct generations_opts *opts, uint32_t number, struct vm *vm,
                                    struct bundle *bundle);
/* Frees all of them; what still runs is cancelled. BLOCKING while one is being built. */
void generations_free(struct generations *set);

/* Loads a bundle off the loop (takes the descriptor), then votes. One at a time: an earlier one is aborted. */
void generations_prepare(struct generations *set, uint32_t number, int bundle_fd);
void generations_abort(struct generations *set, uint32_t number); /* forgets it, if it is not current */
/* True if `number` is current now: it was prepared, or is already. Runs on_stop of the old one and on_start of the new
 * one; both may go on. */
bool generations_commit(struct generations *set, uint32_t number);
/* The end of the service: on_stop of the current one. */
void generations_stop(struct generations *set);

struct vm *generations_vm(const struct generations *set);         /* the current one's */
struct bundle *generations_bundle(const struct generations *set); /* the current one's */
uint32_t generations_number(const struct generations *set);
unsigned generations_alive(const struct generations *set); /* not closed yet, the current one included */
size_t generations_active(const struct generations *set);  /* coroutines of all of them */
size_t generations_bytes(const struct generations *set);   /* Lua heap of all of them */
