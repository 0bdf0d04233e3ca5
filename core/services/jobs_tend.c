/* What others left behind: jobs whose lease ran out, because their process died or fell silent, go back to the queue;
 * what is finished for long enough is deleted. Every job worker does both, now and then; SKIP LOCKED keeps them apart.
 */
#include <stdio.h>

#include "base/log.h"
#include "services/jobs_priv.h"

enum { RESCUE_MAX_MS = 30000, REAP_MS = 60000, REAP_BATCH = 1000 };

/* It may be the job that kills its process: so it counts as an attempt, and comes back later each time; the first time
 * at once. */
static const char RESCUE[] =
    "WITH c AS MATERIALIZED (SELECT id, attempt - parked >= max_attempts AS is_last FROM jobs "
    "WHERE state = 'running' AND lease_until < now() ORDER BY lease_until, id LIMIT 100 FOR UPDATE SKIP LOCKED) "
    "UPDATE jobs j SET state = CASE WHEN is_last THEN 'discarded' ELSE 'retryable' END::job_state, "
    "finalized_at = CASE WHEN is_last THEN now() END, lease_until = NULL, "
    "run_at = now() + least(power(attempt - parked, 2) - 1, 3600) * interval '1 second', "
    "errors = CASE WHEN jsonb_array_length(errors) >= 10 THEN errors - 0 ELSE errors END || jsonb_build_object("
    "'at', now(), 'attempt', attempt - parked, 'error', 'lease lost: ' || attempted_by || ' died or fell silent') "
    "FROM c WHERE j.id = c.id";

static const char *const reap_steps[] = {
    "WITH c AS MATERIALIZED (SELECT id FROM jobs WHERE state IN ('completed', 'cancelled') "
    "AND finalized_at < now() - $1::bigint * interval '1 millisecond' LIMIT $3::int FOR UPDATE SKIP LOCKED) "
    "DELETE FROM jobs j USING c WHERE j.id = c.id AND $2::bigint >= 0",
    "WITH c AS MATERIALIZED (SELECT id FROM jobs WHERE state = 'discarded' "
    "AND finalized_at < now() - $2::bigint * interval '1 millisecond' LIMIT $3::int FOR UPDATE SKIP LOCKED) "
    "DELETE FROM jobs j USING c WHERE j.id = c.id AND $1::bigint >= 0",
    /* Of each timetable the last slot stays: it says what was missed. */
    "WITH c AS MATERIALIZED (SELECT name, slot FROM cron_runs r WHERE slot < now() - interval '7 days' "
    "AND EXISTS (SELECT FROM cron_runs later WHERE later.name = r.name AND later.slot > r.slot) "
    "AND $1::bigint + $2::bigint >= 0 LIMIT $3::int FOR UPDATE SKIP LOCKED) "
    "DELETE FROM cron_runs r USING c WHERE r.name = c.name AND r.slot = c.slot",
};

/* ---- rescue --------------------------------------------------------------------------------------------------------
 */

static void on_rescue(struct timer *timer);

static void arm_rescue(struct jobs *jobs)
{
    uint64_t every_ms = jobs->opts.lease_ms / 2 < RESCUE_MAX_MS ? jobs->opts.lease_ms / 2 : RESCUE_MAX_MS;
    timer_arm(jobs->loop, &jobs->rescue, loop_now(jobs->loop) + every_ms + jobs_random() % (every_ms / 4 + 1),
              on_rescue);
}

static void on_rescued(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct jobs *jobs = container_of(call, struct jobs, rescuing);
    if (err) {
        jobs_note_failure(jobs, "lost jobs to be found", err);
        return;
    }
    int64_t n = pg_result_affected(result);
    if (n == 0)
        return;
    metrics_add(METRIC_JOBS_RESCUED, (uint64_t)n);
    log_warn("jobs rescued: their leases had run out", LOG_I("n", n));
    jobs_wake(jobs, (struct slice){NULL, 0});
}

static void on_rescue(struct timer *timer)
{
    struct jobs *jobs = container_of(timer, struct jobs, rescue);
    arm_rescue(jobs);
    if (jobs_call_is_busy(&jobs->rescuing) || jobs->n_lanes == 0)
        return;
    jobs->rescuing.done = on_rescued;
    jobs_call_start(jobs, &jobs->rescuing, RESCUE, NULL, 0);
}

/* ---- reap ----------------------------------------------------------------------------------------------------------
 */

static void on_reap(struct timer *timer);

static void arm_reap(struct jobs *jobs)
{
    timer_arm(jobs->loop, &jobs->reap, loop_now(jobs->loop) + REAP_MS + jobs_random() % REAP_MS, on_reap);
}

static void reap_step(struct jobs *jobs)
{
    char keep[24], keep_dead[24], batch[16];
    snprintf(keep, sizeof(keep), "%lld", (long long)jobs->opts.keep_ms);
    snprintf(keep_dead, sizeof(keep_dead), "%lld", (long long)jobs->opts.keep_dead_ms);
    snprintf(batch, sizeof(batch), "%d", REAP_BATCH);
    struct pg_param params[] = {{keep}, {keep_dead}, {batch}};
    jobs_call_start(jobs, &jobs->reaping, reap_steps[jobs->reap_step], params, ARRAY_LEN(params));
}

/* The same step again while there is a whole batch. */
static void on_reaped(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct jobs *jobs = container_of(call, struct jobs, reaping);
    if (!err && pg_result_affected(result) < REAP_BATCH)
        jobs->reap_step++;
    if (!err && jobs->reap_step < ARRAY_LEN(reap_steps)) {
        reap_step(jobs);
        return;
    }
    arm_reap(jobs);
}

static void on_reap(struct timer *timer)
{
    struct jobs *jobs = container_of(timer, struct jobs, reap);
    jobs->reap_step = 0;
    jobs->reaping.done = on_reaped;
    if (jobs->n_lanes > 0)
        reap_step(jobs);
    else
        arm_reap(jobs);
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

void jobs_tend_start(struct jobs *jobs)
{
    arm_rescue(jobs);
    timer_arm(jobs->loop, &jobs->reap, loop_now(jobs->loop) + jobs_random() % REAP_MS, on_reap);
}

void jobs_reap_now(struct jobs *jobs)
{
    timer_arm(jobs->loop, &jobs->reap, 0, on_reap);
}

void jobs_tend_close(struct jobs *jobs)
{
    timer_stop(jobs->loop, &jobs->rescue);
    timer_stop(jobs->loop, &jobs->reap);
    jobs_call_cancel(&jobs->rescuing);
    jobs_call_cancel(&jobs->reaping);
}
