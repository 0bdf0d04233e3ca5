#include "services/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/log.h"
#include "services/jobs_priv.h"

/* ---- statements ------------------------------------------------------------------------------------------------- */

static void on_done(void *data, const struct pg_result *result, const struct err *err)
{
    struct jobs_call *call = data;
    list_remove(&call->node);
    call->op = NULL;
    call->done(call, result, err);
}

void jobs_call_start(struct jobs *jobs, struct jobs_call *call, const char *sql, const struct pg_param *params,
                     int n_params)
{
    CHECK(!call->op);
    struct pg_call query = {.sql = slice_str(sql),
                            .params = params,
                            .n_params = n_params,
                            .deadline_ms = loop_now(jobs->loop) + JOBS_CALL_MS,
                            .done = on_done,
                            .data = call};
    list_push(&jobs->calls, &call->node);
    call->op = pg_query(jobs->pg, &query);
}

void jobs_call_cancel(struct jobs_call *call)
{
    if (!call->op)
        return;
    list_remove(&call->node);
    pg_op_cancel(call->op);
    call->op = NULL;
}

void jobs_note_failure(struct jobs *jobs, const char *what, const struct err *err)
{
    if (!jobs->is_failing)
        log_warn("jobs wait", LOG_S("for", what), LOG_S("why", err->message), LOG_S("detail", err->detail));
    jobs->is_failing = true;
}

void jobs_note_success(struct jobs *jobs)
{
    if (jobs->is_failing)
        log_info("jobs go on");
    jobs->is_failing = false;
}

uint32_t jobs_random(void)
{
    uint32_t random;
    crypto_random(&random, sizeof(random));
    return random;
}

/* ---- telling the workers --------------------------------------------------------------------------------------------
 */

struct announcement {
    struct jobs_call call;
};

/* Whether anybody was told does not matter: they poll. */
static void on_announced(struct jobs_call *call, const struct pg_result *result UNUSED, const struct err *err UNUSED)
{
    free(container_of(call, struct announcement, call));
}

static void announce(struct jobs *jobs, struct notice *notice)
{
    notice->is_pending = false;
    notice->sent_ms = loop_now(jobs->loop);
    struct announcement *announcement = xalloc(sizeof(*announcement));
    announcement->call.done = on_announced;
    struct pg_param params[] = {{JOBS_CHANNEL}, {notice->queue}};
    jobs_call_start(jobs, &announcement->call, "SELECT pg_notify($1, $2)", params, ARRAY_LEN(params));
}

static void on_notify(struct timer *timer)
{
    struct jobs *jobs = container_of(timer, struct jobs, notify);
    list_each (node, &jobs->notices) {
        struct notice *notice = container_of(node, struct notice, node);
        if (notice->is_pending)
            announce(jobs, notice);
    }
}

static struct notice *notice_of(struct jobs *jobs, struct slice queue)
{
    list_each (node, &jobs->notices) {
        struct notice *notice = container_of(node, struct notice, node);
        if (slice_eq(queue, slice_str(notice->queue)))
            return notice;
    }
    struct notice *notice = xalloc(sizeof(*notice));
    memcpy(notice->queue, queue.ptr, queue.len);
    list_push(&jobs->notices, &notice->node);
    return notice;
}

void jobs_notify(struct jobs *jobs, struct slice queue)
{
    CHECK_OBJ(jobs, JOBS_MAGIC);
    CHECK(job_name_is_valid(queue));
    struct notice *notice = notice_of(jobs, queue);
    uint64_t now_ms = loop_now(jobs->loop);
    if (jobs->is_working)
        jobs_wake(jobs, queue);
    if (notice->is_pending)
        return;
    if (!notice->sent_ms || now_ms >= notice->sent_ms + JOBS_NOTIFY_MS) {
        announce(jobs, notice);
        return;
    }
    notice->is_pending = true; /* with all that is enqueued until then */
    if (!timer_is_armed(&jobs->notify))
        timer_arm(jobs->loop, &jobs->notify, notice->sent_ms + JOBS_NOTIFY_MS, on_notify);
}

/* ---- counting ------------------------------------------------------------------------------------------------------
 */

static struct tally *tally_of(struct jobs *jobs, const char *kind)
{
    for (size_t i = 0; i < jobs->n_tallies; i++)
        if (strcmp(jobs->tallies[i].name, kind) == 0)
            return &jobs->tallies[i];
    jobs->tallies = xrealloc(jobs->tallies, (jobs->n_tallies + 1) * sizeof(*jobs->tallies));
    struct tally *tally = &jobs->tallies[jobs->n_tallies++];
    *tally = (struct tally){.name = ""};
    snprintf(tally->name, sizeof(tally->name), "%s", kind);
    return tally;
}

void jobs_count(struct jobs *jobs, const char *kind, enum job_count count)
{
    static const char *const states[N_COUNTS] = {
        [COUNT_COMPLETED] = "completed", [COUNT_FAILED] = "failed",     [COUNT_DISCARDED] = "discarded",
        [COUNT_PARKED] = "parked",       [COUNT_RETURNED] = "returned", [COUNT_LOST] = "lost"};
    struct tally *tally = tally_of(jobs, kind);
    if (!tally->cells[count]) {
        struct buf labels = {0};
        metrics_label(&labels, "kind", slice_str(kind));
        metrics_label(&labels, "state", slice_str(states[count]));
        buf_byte(&labels, '\0');
        tally->cells[count] = metrics_labelled(METRIC_JOBS, labels.ptr);
        buf_free(&labels);
    }
    metrics_add_to(tally->cells[count], 1);
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

struct jobs *jobs_new(const struct jobs_opts *opts)
{
    struct jobs *jobs = xalloc(sizeof(*jobs));
    jobs->magic = JOBS_MAGIC;
    jobs->loop = opts->loop;
    jobs->pg = opts->pg;
    list_init(&jobs->calls);
    list_init(&jobs->notices);
    list_init(&jobs->running);
    return jobs;
}

/* Who runs a job: unique for every process that ever was, because a fence must never fit another one. */
static void name_self(char *out, size_t size)
{
    char host[64] = "";
    gethostname(host, sizeof(host) - 1);
    snprintf(out, size, "%s:%d:%08x%08x", host, (int)getpid(), jobs_random(), jobs_random());
}

void jobs_work(struct jobs *jobs, const struct jobs_work_opts *opts)
{
    CHECK_OBJ(jobs, JOBS_MAGIC);
    CHECK(!jobs->is_working && opts->max_running > 0 && opts->lease_ms > 0);
    jobs->is_working = true;
    jobs->opts = *opts;
    jobs->queues = xalloc((opts->n_queues ? opts->n_queues : 1) * sizeof(char *));
    for (size_t i = 0; i < opts->n_queues; i++)
        jobs->queues[i] = xstrndup(opts->queues[i], strlen(opts->queues[i]));
    name_self(jobs->by, sizeof(jobs->by));
    jobs_run_start(jobs);
    jobs_tend_start(jobs);
}

void jobs_set_generation(struct jobs *jobs, const struct job_generation *generation)
{
    CHECK_OBJ(jobs, JOBS_MAGIC);
    CHECK(jobs->is_working);
    struct job_kinds *old = jobs->generation.kinds;
    jobs->generation = *generation;
    if (generation->kinds)
        job_kinds_ref(generation->kinds);
    jobs->generation_no++;
    jobs_set_lanes(jobs);
    jobs_cron_set(jobs);
    job_kinds_unref(old);
    jobs_pump(jobs);
}

static void on_empty(struct loop_task *task)
{
    struct jobs *jobs = container_of(task, struct jobs, drained);
    jobs->on_drained(jobs->data);
}

void jobs_check_drained(struct jobs *jobs)
{
    if (!jobs->is_draining || jobs->is_drained || jobs->n_running > 0 || jobs_call_is_busy(&jobs->fetch))
        return;
    jobs->is_drained = true;
    loop_defer(jobs->loop, &jobs->drained, on_empty);
}

void jobs_drain(struct jobs *jobs, void (*on_drained)(void *data), void *data)
{
    CHECK_OBJ(jobs, JOBS_MAGIC);
    CHECK(!jobs->is_draining);
    jobs->is_draining = true;
    jobs->on_drained = on_drained;
    jobs->data = data;
    jobs_fetch_stop(jobs);
    jobs_tend_close(jobs);
    jobs_cron_set(jobs);
    jobs_check_drained(jobs);
}

void jobs_free(struct jobs *jobs)
{
    if (!jobs)
        return;
    CHECK_OBJ(jobs, JOBS_MAGIC);
    jobs->is_draining = jobs->is_drained = true;
    jobs_cron_set(jobs);
    jobs_fetch_close(jobs);
    jobs_tend_close(jobs);
    jobs_run_close(jobs);
    loop_defer_cancel(&jobs->drained);
    timer_stop(jobs->loop, &jobs->notify);
    while (!list_is_empty(&jobs->calls)) { /* announcements are all that is left */
        struct jobs_call *call = container_of(jobs->calls.next, struct jobs_call, node);
        jobs_call_cancel(call);
        free(container_of(call, struct announcement, call));
    }
    struct list *node;
    while ((node = list_pop(&jobs->notices)))
        free(container_of(node, struct notice, node));
    job_kinds_unref(jobs->generation.kinds);
    for (size_t i = 0; jobs->queues && i < jobs->opts.n_queues; i++)
        free(jobs->queues[i]);
    free(jobs->queues);
    free(jobs->tallies);
    jobs->magic = 0;
    free(jobs);
}
