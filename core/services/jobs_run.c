/* What runs here, and how a run ends.
 *
 *   taken → RUNNING → job_end → the end is written (again and again while that fails) → freed
 *
 * All leases are renewed together, at a third of their time. A run that is missing in the answer is no longer ours: it
 * is told to stop, and what it still says is dropped. So is one whose lease ran out by our own clock, because
 * PostgreSQL was away for so long: somebody else may have it by now. What counts in the end is the fence in every
 * statement. */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "services/jobs_priv.h"

enum {
    RETRY_MS = 100, /* first pause before the end is written again; doubles */
    RETRY_MAX_MS = 5000,
    GIVE_UP_MS = 300000,
};

#define FENCE " WHERE id = $1 AND state = 'running' AND attempted_by = $2 AND attempt = $3::int"

/* ---- the end of a run
 * ------------------------------------------------------------------------------------------------ */

static const char COMPLETE[] = "UPDATE jobs SET state = 'completed', finalized_at = now(), lease_until = NULL" FENCE;
static const char PARK[] = "UPDATE jobs SET state = CASE WHEN $4::bigint > 0 THEN 'scheduled' ELSE 'available' "
                           "END::job_state, parked = parked + 1, lease_until = NULL, "
                           "run_at = now() + $4::bigint * interval '1 millisecond'" FENCE;
#define IS_LAST "($5::boolean OR attempt - parked >= max_attempts)"
static const char FAIL[] =
    "UPDATE jobs SET state = CASE WHEN " IS_LAST " THEN 'discarded' ELSE 'retryable' END::job_state, "
    "finalized_at = CASE WHEN " IS_LAST " THEN now() END, lease_until = NULL, "
    "run_at = CASE WHEN " IS_LAST " THEN run_at ELSE now() + $4::bigint * interval '1 millisecond' END, "
    "errors = CASE WHEN jsonb_array_length(errors) >= 10 THEN errors - 0 ELSE errors END || "
    "jsonb_build_object('at', now(), 'attempt', attempt - parked, 'error', $6::text)" FENCE;

static void write_end(struct job *job);

static void free_job(struct job *job)
{
    struct jobs *jobs = job->jobs;
    list_remove(&job->node);
    jobs->n_running--;
    metrics_set(METRIC_JOBS_RUNNING, jobs->n_running);
    jobs_call_cancel(&job->call);
    timer_stop(jobs->loop, &job->retry);
    free(job->args);
    free(job->error);
    job->magic = 0;
    free(job);
}

/* Room for the next one; a kind with a cap has room, too. */
static void leave(struct job *job)
{
    struct jobs *jobs = job->jobs;
    struct job_kind kind = job->kind;
    bool is_draining = jobs->is_draining;
    if (job->outcome == JOB_FAILED || job->outcome == JOB_AGAIN)
        jobs_wake_in(jobs, job->delay_ms);
    free_job(job);
    if (is_draining)
        jobs_check_drained(jobs);
    else if (kind.concurrency)
        jobs_wake(jobs, slice_str(kind.queue));
    else
        jobs_pump(jobs);
}

static void log_lost(const struct job *job)
{
    log_warn("job lost: its lease ran out, or was taken over", LOG_S("job", job->kind.name), LOG_I("id", job->info.id),
             LOG_I("attempt", job->info.attempt));
}

static void on_retry(struct timer *timer)
{
    write_end(container_of(timer, struct job, retry));
}

static void on_end_written(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct job *job = container_of(call, struct job, call);
    struct jobs *jobs = job->jobs;
    uint64_t now_ms = loop_now(jobs->loop);
    if (err && now_ms < job->give_up_ms && err->code != ERR_CANCELLED) {
        uint64_t pause_ms = job->n_tries < 6 ? (uint64_t)RETRY_MS << job->n_tries : RETRY_MAX_MS;
        jobs_note_failure(jobs, "the end of a job to be written", err);
        job->n_tries++;
        timer_arm(jobs->loop, &job->retry, now_ms + pause_ms, on_retry);
        return;
    }
    /* A second try may find its own first one. */
    if (!err && pg_result_affected(result) == 0 && job->n_tries == 0 && !job->is_stopped) {
        jobs_count(jobs, job->kind.name, COUNT_LOST);
        log_lost(job);
    }
    if (!err && pg_result_affected(result) > 0 && (job->outcome == JOB_RETURNED))
        jobs_notify(jobs, slice_str(job->kind.queue));
    leave(job);
}

static void write_end(struct job *job)
{
    char id[24], run[16], delay[24];
    snprintf(id, sizeof(id), "%lld", (long long)job->info.id);
    snprintf(run, sizeof(run), "%d", job->run);
    snprintf(delay, sizeof(delay), "%llu", (unsigned long long)job->delay_ms);
    struct pg_param params[] = {{id},
                                {job->jobs->by},
                                {run},
                                {delay},
                                {job->outcome == JOB_DISCARDED ? "true" : "false"},
                                {job->error ? job->error : ""}};
    job->call.done = on_end_written;
    switch (job->outcome) {
    case JOB_DONE:
        jobs_call_start(job->jobs, &job->call, COMPLETE, params, 3);
        return;
    case JOB_AGAIN:
    case JOB_RETURNED:
        jobs_call_start(job->jobs, &job->call, PARK, params, 4);
        return;
    case JOB_FAILED:
    case JOB_DISCARDED:
        jobs_call_start(job->jobs, &job->call, FAIL, params, 6);
        return;
    }
    WRONG("job outcome");
}

static enum job_count count_of(const struct job *job)
{
    switch (job->outcome) {
    case JOB_DONE:
        return COUNT_COMPLETED;
    case JOB_FAILED:
        return job->info.attempt >= job->info.max_attempts ? COUNT_DISCARDED : COUNT_FAILED;
    case JOB_DISCARDED:
        return COUNT_DISCARDED;
    case JOB_AGAIN:
        return COUNT_PARKED;
    case JOB_RETURNED:
        return COUNT_RETURNED;
    }
    WRONG("job outcome");
}

/* Neither jsonb nor text can hold a NUL or broken UTF-8. */
static char *clean_text(struct slice text)
{
    enum { MOST = 4000 };
    size_t len = text.len;
    if (len > MOST)
        for (len = MOST; len > 0 && (text.ptr[len] & 0xc0) == 0x80; len--) /* not in the middle of a character */
            ;
    char *clean = xstrndup(text.ptr, len);
    bool is_utf8 = json_is_utf8(slice_of(text.ptr, len));
    for (size_t i = 0; i < len; i++)
        if (!clean[i])
            clean[i] = ' ';
        else if (!is_utf8 && clean[i] & 0x80)
            clean[i] = '?';
    return clean;
}

void job_end(struct job *job, const struct job_end *end)
{
    CHECK_OBJ(job, JOB_MAGIC);
    CHECK(!job->is_ending);
    struct jobs *jobs = job->jobs;
    job->is_ending = true;
    job->outcome = job->is_completed ? JOB_DONE : end->outcome;
    job->delay_ms = end->outcome == JOB_AGAIN ? end->again_ms : 0;
    if (end->outcome == JOB_FAILED)
        job->delay_ms = job_backoff_ms(&job->kind.backoff, (unsigned)job->info.attempt, jobs_random());
    job->error = end->error.ptr ? clean_text(end->error) : NULL;
    job->give_up_ms = loop_now(jobs->loop) + GIVE_UP_MS;
    bool is_lost = job->is_stopped && job->outcome != JOB_RETURNED;
    metrics_observe(METRIC_HISTOGRAM_JOB_RUN, clock_us() - job->started_us);
    if (!is_lost) /* else it is counted already */
        jobs_count(jobs, job->kind.name, count_of(job));
    if (job->is_completed || is_lost)
        leave(job);
    else
        write_end(job);
}

/* ---- stopping -------------------------------------------------------------------------------------------------------
 */

void job_on_stop(struct job *job, void (*fn)(void *data, enum err_code why), void *data)
{
    CHECK_OBJ(job, JOB_MAGIC);
    job->on_stop = fn;
    job->data = data;
}

static void lose(struct job *job)
{
    if (job->is_stopped || job->is_ending)
        return;
    job->is_stopped = true;
    jobs_count(job->jobs, job->kind.name, COUNT_LOST);
    log_lost(job);
    if (job->on_stop)
        job->on_stop(job->data, ERR_LEASE_LOST);
}

void jobs_cut(struct jobs *jobs)
{
    CHECK_OBJ(jobs, JOBS_MAGIC);
    CHECK(jobs->is_draining);
    list_each (node, &jobs->running) {
        struct job *job = container_of(node, struct job, node);
        if (!job->is_ending && job->on_stop)
            job->on_stop(job->data, ERR_CANCELLED);
    }
}

unsigned jobs_running(const struct jobs *jobs)
{
    CHECK_OBJ(jobs, JOBS_MAGIC);
    return jobs->n_running;
}

/* ---- leases
 * ---------------------------------------------------------------------------------------------------------- */

static const char RENEW[] =
    "UPDATE jobs j SET lease_until = now() + $2::bigint * interval '1 millisecond' "
    "FROM unnest($3::bigint[], $4::int[]) AS r (id, run) "
    "WHERE j.id = r.id AND j.attempt = r.run AND j.state = 'running' AND j.attempted_by = $1 RETURNING j.id";

static bool has_id(const struct pg_result *result, int64_t id)
{
    int64_t value;
    for (int row = 0; row < pg_result_n_rows(result); row++)
        if (slice_to_int(pg_result_value(result, row, 0), 0, INT64_MAX, &value) && value == id)
            return true;
    return false;
}

static void on_renewed(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct jobs *jobs = container_of(call, struct jobs, renew);
    if (err) {
        jobs_note_failure(jobs, "leases to be renewed", err);
        return;
    }
    list_each (node, &jobs->running) {
        struct job *job = container_of(node, struct job, node);
        if (!job->is_renewing)
            continue;
        job->is_renewing = false;
        if (has_id(result, job->info.id))
            job->lease_until_ms = jobs->renew_sent_ms + jobs->opts.lease_ms;
        else if (!job->is_final_sent) /* else its own commit may have been faster than its answer */
            lose(job);
    }
}

static void renew(struct jobs *jobs)
{
    struct buf ids = {0}, runs = {0};
    char lease[16];
    snprintf(lease, sizeof(lease), "%u", jobs->opts.lease_ms);
    list_each (node, &jobs->running) {
        struct job *job = container_of(node, struct job, node);
        job->is_renewing = !job->is_ending && !job->is_stopped;
        if (!job->is_renewing)
            continue;
        buf_printf(&ids, "%c%lld", ids.len ? ',' : '{', (long long)job->info.id);
        buf_printf(&runs, "%c%d", runs.len ? ',' : '{', job->run);
    }
    if (ids.len) {
        buf_append(&ids, "}", 2); /* with the NUL */
        buf_append(&runs, "}", 2);
        struct pg_param params[] = {{jobs->by}, {lease}, {ids.ptr}, {runs.ptr}};
        jobs->renew_sent_ms = loop_now(jobs->loop);
        jobs->renew.done = on_renewed;
        jobs_call_start(jobs, &jobs->renew, RENEW, params, ARRAY_LEN(params));
    }
    buf_free(&ids);
    buf_free(&runs);
}

static void on_beat(struct timer *timer)
{
    struct jobs *jobs = container_of(timer, struct jobs, beat);
    uint64_t now_ms = loop_now(jobs->loop);
    timer_arm(jobs->loop, timer, now_ms + jobs->opts.lease_ms / 3, on_beat);
    list_each (node, &jobs->running) {
        struct job *job = container_of(node, struct job, node);
        if (now_ms >= job->lease_until_ms)
            lose(job);
    }
    if (!jobs_call_is_busy(&jobs->renew))
        renew(jobs);
}

/* ---- the beginning of a run
 * ---------------------------------------------------------------------------------------------- */

static int64_t number_at(const struct pg_result *result, int row, int col)
{
    int64_t value = 0;
    CHECK(slice_to_int(pg_result_value(result, row, col), INT64_MIN, INT64_MAX, &value));
    return value;
}

enum column { COL_ID, COL_KIND, COL_ARGS, COL_ATTEMPT, COL_PARKED, COL_MAX, COL_PRIORITY, COL_RUN_AT, COL_CREATED };

static struct job *make_job(struct jobs *jobs, const struct pg_result *result, int row, const struct job_kind *kind)
{
    struct job *job = xalloc(sizeof(*job));
    struct slice args = pg_result_value(result, row, COL_ARGS);
    job->magic = JOB_MAGIC;
    job->jobs = jobs;
    job->run = (int)number_at(result, row, COL_ATTEMPT);
    job->args = xstrndup(args.ptr, args.len);
    if (kind)
        job->kind = *kind;
    job->info = (struct job_info){.id = number_at(result, row, COL_ID),
                                  .kind = &job->kind,
                                  .args = slice_of(job->args, args.len),
                                  .attempt = job->run - (int)number_at(result, row, COL_PARKED),
                                  .max_attempts = (int)number_at(result, row, COL_MAX),
                                  .priority = (int)number_at(result, row, COL_PRIORITY),
                                  .run_at_ms = number_at(result, row, COL_RUN_AT),
                                  .created_at_ms = number_at(result, row, COL_CREATED)};
    return job;
}

void jobs_run_row(struct jobs *jobs, const struct pg_result *result, int row, uint64_t sent_ms)
{
    struct slice name = pg_result_value(result, row, COL_KIND);
    const struct job_kind *kind = jobs->generation.kinds ? job_kinds_find(jobs->generation.kinds, name) : NULL;
    struct job *job = make_job(jobs, result, row, kind);
    if (!kind) /* taken for a generation that is gone */
        snprintf(job->kind.name, sizeof(job->kind.name), "%.*s",
                 (int)(name.len > JOB_NAME_MAX ? JOB_NAME_MAX : name.len), name.ptr);
    list_push(&jobs->running, &job->node);
    jobs->n_running++;
    job->started_us = clock_us();
    job->lease_until_ms = sent_ms + jobs->opts.lease_ms;
    int64_t waited_ms = clock_wall_ms() - job->info.run_at_ms;
    metrics_set(METRIC_JOBS_RUNNING, jobs->n_running);
    metrics_observe(METRIC_HISTOGRAM_JOB_WAIT, waited_ms > 0 ? (uint64_t)waited_ms * 1000 : 0);
    if (!kind || jobs->is_draining)
        job_end(job, &(struct job_end){.outcome = JOB_RETURNED});
    else
        jobs->generation.run(jobs->generation.data, job);
}

const struct job_info *job_info(const struct job *job)
{
    CHECK_OBJ(job, JOB_MAGIC);
    return &job->info;
}

/* ---- the fence of a transaction
 * -------------------------------------------------------------------------------------------- */

struct pg_call job_sql(struct job *job, bool is_final, struct arena *arena)
{
    CHECK_OBJ(job, JOB_MAGIC);
    struct pg_param *params = arena_alloc(arena, 3 * sizeof(*params));
    params[0].text = arena_printf(arena, "%lld", (long long)job->info.id);
    params[1].text = job->jobs->by;
    params[2].text = arena_printf(arena, "%d", job->run);
    job->is_final_sent |= is_final;
    return (struct pg_call){.sql = is_final ? SLICE("SELECT job_complete($1, $2, $3)")
                                            : SLICE("SELECT job_fence($1, $2, $3)"),
                            .params = params,
                            .n_params = 3};
}

void job_final_done(struct job *job, bool is_committed)
{
    CHECK_OBJ(job, JOB_MAGIC);
    job->is_completed |= is_committed;
    job->is_final_sent = is_committed;
}

/* ---- life
 * ----------------------------------------------------------------------------------------------------------------- */

void jobs_run_start(struct jobs *jobs)
{
    timer_arm(jobs->loop, &jobs->beat, loop_now(jobs->loop) + jobs->opts.lease_ms / 3, on_beat);
}

/* Whoever runs has ended by now (its Lua state is gone); what could not be written any more is left to the leases. */
void jobs_run_close(struct jobs *jobs)
{
    timer_stop(jobs->loop, &jobs->beat);
    jobs_call_cancel(&jobs->renew);
    while (!list_is_empty(&jobs->running)) {
        struct job *job = container_of(jobs->running.next, struct job, node);
        CHECK(job->is_ending);
        free_job(job);
    }
}
