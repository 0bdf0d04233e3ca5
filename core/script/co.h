/* Coroutines: the only file that calls lua_resume. A `co` is one Lua activity (a request, a spawned task, an
 * on_start): it runs until it ends or parks in one pending operation.
 *
 * Async binding:  check arguments → co_op_begin(L, cancel) → start → return co_park(L).
 * Completion:     push `true, results…` or `false, err` on co_stack(co), then co_wake(co, n). The values become the
 * parked call's results; the Lua facade's `settle` returns them or raises. Works inside pcall, iterators and
 * user coroutines (a private sentinel is passed outward by our coroutine library). */
#pragma once

#include <lua.h>

#include "base/err.h"
#include "base/list.h"
#include "http/request.h"
#include "net/timer.h"
#include "script/running.h"

#define CO_MAGIC 0xc0c0a901u
struct vm;
struct co;

/* On success the top n_results values of L (co_stack) are the results; on failure (-1) L is the VM's own stack with the
 * raised error on top, and traceback text in `trace` (borrowed; NULL for app.fail). Fires exactly once, and the co
 * returns to the free list after it. Values pushed below the function before co_start stay at the bottom of co_stack,
 * also then: anchors. */
typedef void (*co_done_fn)(struct co *co, lua_State *L, int n_results /* -1: raised */, const char *trace, void *data);

/* From the free list. Push the function and its arguments on co_stack(co), then co_start. */
struct co *co_new(struct vm *vm);
lua_State *co_stack(struct co *co);
void co_start(struct co *co, int n_args, uint64_t deadline_ms /* 0: none */, co_done_fn done, void *data);

struct co *co_current(lua_State *L);       /* raises "… may not be called while loading" when none runs */
struct co *co_running(lua_State *L);       /* NULL: none, as while loading */
uint64_t co_deadline(const struct co *co); /* for calls out: min(co's, now + default) */
bool co_has_deadline(const struct co *co); /* false: waits that are meant to be long need not end */

typedef void (*co_cancel_fn)(struct co *co, void *data);
/* Registers the one pending operation. Raises the sticky error if the co was cancelled, and refuses inside a C
 * boundary that cannot yield. `cancel` must make sure that no completion follows. */
struct co *co_op_begin(lua_State *L, co_cancel_fn cancel, void *data);
void co_op_set_data(struct co *co, void *data); /* when the handle is known only after starting */
void co_op_abort(struct co *co);                /* the operation ended before parking: results returned directly */
/* What it waits for, if it is more than a queue or a clock, for co_set_waits. HTTP_N_WAITS: others count it. */
void co_op_waits_for(struct co *co, enum http_wait what);
/* It ends by co_deadline without being cancelled: the co needs no timer of its own meanwhile. */
void co_op_is_timed(struct co *co);
int co_park(lua_State *L); /* `return co_park(L)` */
void co_wake(struct co *co, int n_results);
/* As co_start, but later in this turn: may be called while another co runs (task.spawn, task.all). */
void co_start_soon(struct co *co, int n_args, uint64_t deadline_ms, co_done_fn done, void *data);
/* Raises the sticky error if the running co was cancelled; nothing otherwise. Behind pcall, xpcall and try. */
void co_check(lua_State *L);
/* True if `thread` is the own thread of some activity (not a user coroutine). */
bool co_is_main(lua_State *thread);
/* Behind our coroutine library: yields the sentinel of a parked call one coroutine further out. */
int co_park_outward(lua_State *L);
bool co_is_sentinel(lua_State *L, int idx);

/* Sticky: raises error{code} at the parked call now, and again at every later one; no pcall swallows it.
 * `cancelled` is ignored once co_commit was called (T10); `deadline` never. */
void co_cancel(struct co *co, enum err_code code);
void co_kill(struct co *co, enum err_code code); /* as co_cancel, also after co_mark_committed: teardown, task.all */
/* From a cancel function: the deadline found the operation where its outcome is not known. The parked call and all
 * later ones raise `code` instead of deadline, which would read as "not done, try again". */
void co_set_unknown(struct co *co, enum err_code code);
void co_mark_committed(struct co *co); /* has committed, written or called out: a disconnect no longer cancels */
/* A child inherits its parent's deadline, owner, tx guard; what it commits counts for the parent. Parent outlives it.
 */
void co_set_parent(struct co *co, struct co *parent);
void co_set_owner(struct co *co, void *owner); /* e.g. the http_request */
/* Where its waits are added up, in µs: HTTP_N_WAITS numbers, borrowed for its life. Children inherit it. */
void co_set_waits(struct co *co, uint64_t *waited_us);
uint64_t *co_waits(const struct co *co, enum http_wait what); /* NULL: nobody counts */
void co_set_stream(struct co *co); /* an answer that may go on for long: it outlives `drain` */
/* Whom it works for, as the watchdog, the crash report and the log name it; without one: "(no request)". Borrows both
 * texts for its life. Children inherit it. */
void co_set_label(struct co *co, struct running_label label);
void *co_owner(const struct co *co);
/* Open pg.tx of this activity, for T5's guard; opaque here. */
void co_set_tx(struct co *co, void *tx);
void *co_tx(const struct co *co);
/* The job this activity runs, inherited by its children; opaque here. Such an activity is not a detached one. */
void co_set_job(struct co *co, void *job);
void *co_job(const struct co *co);
/* What an activity opened and may leave open, such as a transaction in a user's coroutine that nobody resumes: fn is
 * called when the activity ends, unless it was dropped before. The newest first; borrows `leftover` until then. */
struct co_leftover {
    struct list node;
    void (*fn)(struct co_leftover *leftover);
};
void co_add_leftover(struct co *co, struct co_leftover *leftover, void (*fn)(struct co_leftover *leftover));
void co_drop_leftover(struct co_leftover *leftover); /* idempotent */
