/* Timetables. Every job worker of every machine watches all of them; whoever inserts the slot into cron_runs enqueues
 * its job, in the same statement. A unique job that waits for its next try, or parked itself, is the slot's job too: it
 * is due now, or its growing pauses would keep the timetable from running for hours. The slots that passed while nobody
 * ran are made up for by one run, of the latest; a timetable that was never seen before starts now. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "services/jobs_priv.h"

enum { LOOK_MS = 60000 /* longest sleep: the wall clock may be set meanwhile */, RETRY_S_MAX = 30 };

static const char LAST[] = "WITH last AS (SELECT max(slot) AS slot FROM cron_runs WHERE name = $1), "
                           "first AS (INSERT INTO cron_runs (name, slot) SELECT $1, now() FROM last WHERE slot IS NULL "
                           "ON CONFLICT DO NOTHING) "
                           "SELECT floor(extract(epoch FROM coalesce(slot, now())))::bigint FROM last";

static const char FIRE[] =
    "WITH r AS (INSERT INTO cron_runs (name, slot) VALUES ($1, to_timestamp($2::float8)) "
    "ON CONFLICT DO NOTHING RETURNING slot) "
    "INSERT INTO jobs (kind, queue, args, priority, max_attempts, unique_key) "
    "SELECT $3, $4, $5::jsonb, $6::int, $7::int, CASE WHEN $8::boolean THEN md5($5::jsonb::text) END FROM r "
    "ON CONFLICT " JOBS_UNIQUE " DO UPDATE SET run_at = now() WHERE jobs.state IN ('scheduled', 'retryable') "
    "RETURNING id";

static void on_look(struct timer *timer);
static void ask_last(struct watch *watch);

static int64_t now_s(void)
{
    return clock_wall_ms() / 1000;
}

static void sleep_until(struct watch *watch, int64_t unix_s)
{
    struct loop *loop = watch->jobs->loop;
    int64_t in_ms = unix_s * 1000 - clock_wall_ms();
    if (in_ms > LOOK_MS)
        in_ms = LOOK_MS;
    timer_arm(loop, &watch->timer, loop_now(loop) + (uint64_t)(in_ms > 0 ? in_ms : 0) + 1, on_look);
}

static void next_slot(struct watch *watch, int64_t after_s)
{
    watch->slot_s = cron_next(&watch->table->cron, watch->table->zone, after_s);
    sleep_until(watch, watch->slot_s);
}

static void retry_later(struct watch *watch, const struct err *err)
{
    int64_t in_s = watch->n_failed < 5 ? INT64_C(1) << watch->n_failed : RETRY_S_MAX;
    watch->n_failed++;
    jobs_note_failure(watch->jobs, "cron", err);
    sleep_until(watch, now_s() + in_s);
}

static void on_fired(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct watch *watch = container_of(call, struct watch, call);
    if (err) { /* unknown is as good as failed: the slot's row decides */
        retry_later(watch, err);
        return;
    }
    watch->n_failed = 0;
    if (pg_result_n_rows(result) > 0)
        jobs_notify(watch->jobs, slice_str(watch->table->kind->queue));
    int64_t at_s = now_s();
    next_slot(watch, watch->slot_s > at_s ? watch->slot_s : at_s);
}

static void fire(struct watch *watch)
{
    const struct job_timetable *table = watch->table;
    char slot[24], priority[16], max_attempts[16];
    snprintf(slot, sizeof(slot), "%lld", (long long)watch->slot_s);
    snprintf(priority, sizeof(priority), "%d", table->priority);
    snprintf(max_attempts, sizeof(max_attempts), "%d", table->max_attempts);
    struct pg_param params[] = {{table->key},  {slot},     {table->kind->name}, {table->kind->queue},
                                {table->args}, {priority}, {max_attempts},      {table->is_unique ? "true" : "false"}};
    watch->call.done = on_fired;
    jobs_call_start(watch->jobs, &watch->call, FIRE, params, ARRAY_LEN(params));
}

static void on_last(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct watch *watch = container_of(call, struct watch, call);
    int64_t last_s = 0, at_s = now_s();
    if (err || pg_result_n_rows(result) != 1 || !slice_to_int(pg_result_value(result, 0, 0), 0, INT64_MAX, &last_s)) {
        struct err why = {.message = "no answer"};
        retry_later(watch, err ? err : &why);
        return;
    }
    watch->n_failed = 0;
    watch->slot_s = cron_latest(&watch->table->cron, watch->table->zone, last_s, at_s);
    if (watch->slot_s)
        fire(watch);
    else
        next_slot(watch, at_s);
}

static void ask_last(struct watch *watch)
{
    struct pg_param params[] = {{watch->table->key}};
    watch->call.done = on_last;
    jobs_call_start(watch->jobs, &watch->call, LAST, params, ARRAY_LEN(params));
}

static void on_look(struct timer *timer)
{
    struct watch *watch = container_of(timer, struct watch, timer);
    if (!watch->slot_s)
        ask_last(watch);
    else if (now_s() >= watch->slot_s)
        fire(watch);
    else
        sleep_until(watch, watch->slot_s);
}

static bool is_served(const struct jobs *jobs, const char *queue)
{
    for (size_t i = 0; i < jobs->n_lanes; i++)
        if (strcmp(jobs->lanes[i].queue, queue) == 0)
            return true;
    return false;
}

void jobs_cron_set(struct jobs *jobs)
{
    const struct job_kinds *kinds = jobs->is_draining ? NULL : jobs->generation.kinds;
    for (size_t i = 0; i < jobs->n_watches; i++) {
        timer_stop(jobs->loop, &jobs->watches[i].timer);
        jobs_call_cancel(&jobs->watches[i].call);
    }
    free(jobs->watches);
    jobs->watches = NULL;
    jobs->n_watches = 0;
    if (!kinds || kinds->n_timetables == 0)
        return;
    jobs->watches = xalloc(kinds->n_timetables * sizeof(*jobs->watches));
    for (size_t i = 0; i < kinds->n_timetables; i++) {
        const struct job_timetable *table = &kinds->timetables[i];
        if (!is_served(jobs, table->kind->queue))
            continue;
        struct watch *watch = &jobs->watches[jobs->n_watches++];
        *watch = (struct watch){.jobs = jobs, .table = table};
        ask_last(watch);
    }
}
