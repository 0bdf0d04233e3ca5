/* See generations.h.
 *
 *   WAITING → BUILDING → READY → CURRENT → OLD → CLOSING → gone
 *        ↘________↘________↘______________________↗           aborted, or could not be loaded
 *
 * Building and closing happen on a thread beside the loop (net/work), each with the generation in the hands of that
 * thread alone; the result of either is looked at on the loop. Everything else is the loop's.
 *
 * A new one is not built while `max` are alive and the oldest has plain requests: those may take their time, but memory
 * stays bounded, so the reload waits for them, and fails if the master loses patience. Streams do not hold a reload up:
 * the commit closes the oldest's. */
#include "script/generations.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/timer.h"
#include "net/work.h"
#include "script/vm_priv.h"

#define GENERATIONS_MAGIC 0x6e4e7a01u
#define LOOK_MS 20 /* between looks at what old generations still do */

enum state { WAITING, BUILDING, READY, CURRENT, OLD, CLOSING };

struct generation {
    struct list node; /* in set->old */
    struct generations *set;
    enum state state;
    uint32_t number;
    struct vm *vm;
    struct bundle *bundle;
    struct work_job job;

    int bundle_fd; /* until it is built; -1 = closed */
    struct guard guard;
    bool is_aborted;
    struct err err;
    struct buf trace;

    uint64_t retired_ms;
    bool are_requests_cut, are_streams_cut;
};

struct generations {
    unsigned magic;
    struct generations_opts opts;
    struct work *work;
    struct generation *current, *next; /* next: NULL = none is prepared */
    struct list old;                   /* the oldest first */
    unsigned n_old, n_closing;
    bool is_freed;
    struct timer look;
};

static void look_later(struct generations *set);

/* ---- the end of one ------------------------------------------------------------------------------------------- */

static void run_close(struct work_job *job)
{
    struct generation *gen = container_of(job, struct generation, job);
    vm_free(gen->vm);
    bundle_free(gen->bundle);
}

static void free_generation(struct generation *gen)
{
    if (gen->bundle_fd >= 0)
        close(gen->bundle_fd);
    buf_free(&gen->trace);
    free(gen);
}

static void on_closed(struct work_job *job)
{
    struct generation *gen = container_of(job, struct generation, job);
    struct generations *set = gen->set;
    set->n_closing--;
    log_debug("generation closed", LOG_I("generation", gen->number));
    free_generation(gen);
}

/* Nothing of it runs any more. */
static void close_generation(struct generation *gen)
{
    struct generations *set = gen->set;
    list_remove(&gen->node);
    gen->state = CLOSING;
    set->n_closing++;
    vm_end(gen->vm);
    work_push(set->work, &gen->job, run_close, on_closed);
}

static void end_now(struct generation *gen)
{
    vm_free(gen->vm);
    bundle_free(gen->bundle);
    free_generation(gen);
}

static void cut_streams(struct generation *gen)
{
    if (gen->are_streams_cut)
        return;
    gen->are_requests_cut = gen->are_streams_cut = true;
    co_kill_all(gen->vm, true);
}

static void look_at(struct generation *gen, uint64_t now_ms)
{
    const struct generations_opts *opts = &gen->set->opts;
    uint64_t age_ms = now_ms - gen->retired_ms;
    if (vm_active(gen->vm) == 0) {
        gen->set->n_old--;
        close_generation(gen);
        return;
    }
    if (age_ms >= opts->drain_ms && !gen->are_requests_cut) {
        gen->are_requests_cut = true;
        if (!co_has_only_streams(gen->vm))
            log_warn("an old generation's requests are cut: drain is over", LOG_I("generation", gen->number));
        co_kill_all(gen->vm, false);
    }
    if (age_ms >= opts->stream_drain_ms && !gen->are_streams_cut) {
        log_info("an old generation's streams are closed", LOG_I("generation", gen->number));
        cut_streams(gen);
    }
}

/* ---- building ------------------------------------------------------------------------------------------------- */

static void run_build(struct work_job *job)
{
    struct generation *gen = container_of(job, struct generation, job);
    const struct generations_opts *opts = &gen->set->opts;
    gen->bundle = bundle_open(gen->bundle_fd, &gen->err);
    if (!gen->bundle)
        return;
    struct vm_opts vm = {.env = opts->env,
                         .bundle = gen->bundle,
                         .modules = opts->modules,
                         .generation = gen->number,
                         .main = opts->main,
                         .guard = &gen->guard,
                         .is_off_loop = true,
                         .trace = &gen->trace};
    gen->vm = vm_new(&vm, &gen->err);
    if (gen->vm)
        return;
    bundle_free(gen->bundle);
    gen->bundle = NULL;
}

static void vote(struct generation *gen)
{
    const struct generations_opts *opts = &gen->set->opts;
    if (gen->vm) {
        opts->on_vote(opts->data, gen->number, NULL);
        return;
    }
    struct buf why = {0};
    buf_slice(&why, slice_str(gen->err.message));
    if (gen->trace.len > 0)
        buf_byte(&why, '\n');
    buf_slice(&why, buf_as_slice(&gen->trace));
    buf_byte(&why, '\0');
    opts->on_vote(opts->data, gen->number, why.ptr);
    buf_free(&why);
}

static void end_aborted(struct generation *gen)
{
    if (gen->set->is_freed) /* the thread has ended */
        end_now(gen);
    else
        close_generation(gen);
}

static void on_built(struct work_job *job)
{
    struct generation *gen = container_of(job, struct generation, job);
    struct generations *set = gen->set;
    gen->state = READY;
    if (gen->is_aborted && gen->vm) {
        end_aborted(gen);
        return;
    }
    if (!gen->vm && set->next == gen)
        set->next = NULL;
    if (!gen->is_aborted)
        vote(gen);
    if (!gen->vm)
        free_generation(gen);
}

static bool has_room(const struct generations *set)
{
    if (set->n_old + 1 < set->opts.max)
        return true;
    return co_has_only_streams(container_of(set->old.next, struct generation, node)->vm);
}

static void try_build(struct generations *set)
{
    struct generation *gen = set->next;
    if (!gen || gen->state != WAITING)
        return;
    if (!has_room(set)) {
        look_later(set);
        return;
    }
    gen->state = BUILDING;
    gen->guard.time_key = "reload.timeout";
    gen->guard.max_bytes = set->opts.load_bytes;
    atomic_store(&gen->guard.deadline_ms, clock_ms() + set->opts.load_ms);
    work_push(set->work, &gen->job, run_build, on_built);
}

void generations_prepare(struct generations *set, uint32_t number, int bundle_fd)
{
    CHECK_OBJ(set, GENERATIONS_MAGIC);
    if (set->next)
        generations_abort(set, set->next->number);
    struct generation *gen = xalloc(sizeof *gen);
    *gen = (struct generation){.set = set, .state = WAITING, .number = number, .bundle_fd = bundle_fd};
    set->next = gen;
    try_build(set);
}

void generations_abort(struct generations *set, uint32_t number)
{
    CHECK_OBJ(set, GENERATIONS_MAGIC);
    struct generation *gen = set->next;
    if (!gen || gen->number != number)
        return;
    set->next = NULL;
    gen->is_aborted = true;
    if (gen->state == BUILDING)
        atomic_store(&gen->guard.deadline_ms, 0); /* the thread is told; on_built sees the rest */
    else if (gen->state == WAITING)
        free_generation(gen);
    else
        close_generation(gen);
}

/* ---- changing over -------------------------------------------------------------------------------------------- */

static void on_look(struct timer *timer)
{
    struct generations *set = container_of(timer, struct generations, look);
    uint64_t now_ms = loop_now(set->opts.env->loop);
    list_each (node, &set->old)
        look_at(container_of(node, struct generation, node), now_ms);
    try_build(set);
    look_later(set);
}

static void look_later(struct generations *set)
{
    struct loop *loop = set->opts.env->loop;
    if (list_is_empty(&set->old))
        timer_stop(loop, &set->look);
    else if (!timer_is_armed(&set->look))
        timer_arm(loop, &set->look, loop_now(loop) + LOOK_MS, on_look);
}

static void retire(struct generation *gen)
{
    struct generations *set = gen->set;
    gen->state = OLD;
    gen->retired_ms = loop_now(set->opts.env->loop);
    list_push(&set->old, &gen->node);
    set->n_old++;
    vm_stop(gen->vm);
    if (set->n_old + 1 > set->opts.max)
        cut_streams(container_of(set->old.next, struct generation, node));
    look_later(set);
}

bool generations_commit(struct generations *set, uint32_t number)
{
    CHECK_OBJ(set, GENERATIONS_MAGIC);
    if (set->current->number == number)
        return true;
    struct generation *gen = set->next, *before = set->current;
    if (!gen || gen->number != number || gen->state != READY)
        return false;
    set->next = NULL;
    set->current = gen;
    gen->state = CURRENT;
    set->opts.on_current(set->opts.data);
    retire(before);
    vm_start(gen->vm);
    return true;
}

void generations_stop(struct generations *set)
{
    CHECK_OBJ(set, GENERATIONS_MAGIC);
    vm_stop(set->current->vm);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct generations *generations_new(const struct generations_opts *opts, uint32_t number, struct vm *vm,
                                    struct bundle *bundle)
{
    struct generations *set = xalloc(sizeof *set);
    CHECK(opts->max >= 2);
    *set = (struct generations){.magic = GENERATIONS_MAGIC, .opts = *opts};
    list_init(&set->old);
    set->work = work_new(opts->env->loop, "generations");
    set->current = xalloc(sizeof *set->current);
    *set->current = (struct generation){
        .set = set, .state = CURRENT, .number = number, .vm = vm, .bundle = bundle, .bundle_fd = -1};
    return set;
}

void generations_free(struct generations *set)
{
    if (!set)
        return;
    CHECK_OBJ(set, GENERATIONS_MAGIC);
    timer_stop(set->opts.env->loop, &set->look);
    if (set->next)
        generations_abort(set, set->next->number);
    set->is_freed = true;
    list_each (node, &set->old)
        end_now(container_of(node, struct generation, node));
    end_now(set->current);
    work_free(set->work); /* its last `done` may close one that was just built */
    set->magic = 0;
    free(set);
}

struct vm *generations_vm(const struct generations *set)
{
    return set->current->vm;
}

struct bundle *generations_bundle(const struct generations *set)
{
    return set->current->bundle;
}

uint32_t generations_number(const struct generations *set)
{
    return set->current->number;
}

unsigned generations_alive(const struct generations *set)
{
    return 1 + set->n_old + set->n_closing;
}

size_t generations_active(const struct generations *set)
{
    size_t n = vm_active(set->current->vm);
    for (struct list *node = set->old.next; node != &set->old; node = node->next)
        n += vm_active(container_of(node, struct generation, node)->vm);
    return n;
}

size_t generations_bytes(const struct generations *set)
{
    size_t n = vm_bytes(set->current->vm);
    for (struct list *node = set->old.next; node != &set->old; node = node->next)
        n += vm_bytes(container_of(node, struct generation, node)->vm);
    return n;
}
