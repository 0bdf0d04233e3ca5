/* One event loop per process: libuv underneath (net/ is the only layer that includes it), one visible
 * order above. A turn is: poll and io → timers → deferred calls → turn hooks → reclaim.
 *
 *  - loop_defer: run fn later in this turn (after io and timers); how a completion is delivered
 *    without calling a user from inside the function they called.
 *  - turn hooks: run once at the end of every turn that did something (flush of pg pipelines and corked
 *    writes): register with loop_hook.
 *  - loop_reclaim: free memory at the very end of the turn, after every callback about it. */
#pragma once

#include "base/err.h"
#include "base/list.h"

struct loop;

struct loop *loop_new(void);       /* returns owned; aborts if the system cannot */
void loop_free(struct loop *loop); /* all handles must be closed; asserts that none is left */
/* Runs until loop_stop, or until nothing is left to wait for. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
/* One turn, waiting for io if `wait`; for tests. Returns false when nothing is left. */
bool loop_turn(struct loop *loop, bool wait);

/* Monotonic ms, read once a turn when the poll returns: use it for deadlines. Outside a turn it reads the clock. */
uint64_t loop_now(const struct loop *loop);

struct loop_task { /* embed it; zeroed = idle. One task is queued at most once. */
    struct list node;
    void (*fn)(struct loop_task *task);
};
void loop_defer(struct loop *loop, struct loop_task *task, void (*fn)(struct loop_task *task));
void loop_defer_cancel(struct loop_task *task);

struct loop_hook { /* runs at the end of every turn, in the order of registration */
    struct list node;
    void (*fn)(struct loop_hook *hook);
};
void loop_hook_add(struct loop *loop, struct loop_hook *hook, void (*fn)(struct loop_hook *hook));
void loop_hook_remove(struct loop_hook *hook);

void loop_reclaim(struct loop *loop, void *memory); /* free(memory) at the end of the turn; takes it */

/* Thread-safe wake-up of the loop from another thread: fn runs on the loop. */
struct loop_wakeup;
struct loop_wakeup *loop_wakeup_new(struct loop *loop, void (*fn)(void *data), void *data);
void loop_wakeup_send(struct loop_wakeup *wakeup); /* any thread */
void loop_wakeup_free(struct loop_wakeup *wakeup);
