/* What is taken, and when.
 *
 * A lane is hungry while there may be something in it: after a notification, a poll, or a fetch that brought all it had
 * room for. One fetch is under way at a time; lanes take turns. Jobs of kinds with a cap have lanes of their own: their
 * fetch holds a lock of the cluster from counting what runs to committing what is taken, so that the cap holds across
 * machines. Kinds that this generation does not know are left for those that do. */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/log.h"
#include "services/jobs_priv.h"

enum { POLL_MS = 1000, POLL_JITTER_MS = 1000, FETCH_MAX = 100 };

#define TAKE                                                                                                           \
    ", taken AS (UPDATE jobs j SET state = 'running', attempt = j.attempt + 1, attempted_at = now(), "                 \
    "attempted_by = $4, lease_until = now() + $5::bigint * interval '1 millisecond' FROM c WHERE j.id = c.id "         \
    "RETURNING j.*) SELECT id, kind, args::text, attempt, parked, max_attempts, priority, "                            \
    "floor(extract(epoch FROM run_at) * 1000)::bigint, floor(extract(epoch FROM created_at) * 1000)::bigint "          \
    "FROM taken ORDER BY priority, run_at, id"

static const char FETCH[] =
    "WITH c AS MATERIALIZED (SELECT id FROM jobs WHERE state IN " JOBS_WAITING " AND queue = $1 "
    "AND kind = ANY ($2::text[]) AND run_at <= now() ORDER BY priority, run_at, id "
    "LIMIT $3::int FOR UPDATE SKIP LOCKED)" TAKE;

static const char LOCK[] = "SELECT pg_advisory_xact_lock(hashtextextended('chowk.jobs.caps', 0))";
/* Behind the lock, so with a snapshot in which every earlier fetch has committed. */
static const char FETCH_CAPPED[] =
    "WITH room AS MATERIALIZED (SELECT k.kind, k.cap - (SELECT count(*) FROM jobs r WHERE r.state = 'running' "
    "AND r.kind = k.kind) AS n FROM unnest($2::text[], $6::int[]) AS k (kind, cap)), "
    "c AS MATERIALIZED (SELECT w.id FROM room CROSS JOIN LATERAL (SELECT id, priority, run_at FROM jobs "
    "WHERE state IN " JOBS_WAITING " AND queue = $1 AND kind = room.kind AND run_at <= now() "
    "ORDER BY priority, run_at, id LIMIT greatest(room.n, 0) FOR UPDATE SKIP LOCKED) w "
    "ORDER BY w.priority, w.run_at, w.id LIMIT $3::int)" TAKE;

/* ---- one fetch -----------------------------------------------------------------------------------------------------
 */

static void on_rows(struct jobs *jobs, const struct pg_result *result)
{
    int n_rows = pg_result_n_rows(result);
    uint64_t sent_ms = jobs->fetch_sent_ms;
    if (jobs->fetching_no == jobs->generation_no)
        jobs->lanes[jobs->fetching].is_hungry |= (unsigned)n_rows == jobs->n_asked;
    for (int row = 0; row < n_rows; row++)
        jobs_run_row(jobs, result, row, sent_ms);
}

static void on_fetched(struct jobs_call *call, const struct pg_result *result, const struct err *err)
{
    struct jobs *jobs = container_of(call, struct jobs, fetch);
    if (err) { /* what was taken all the same comes back when its lease runs out */
        jobs_note_failure(jobs, "a fetch", err);
        jobs_check_drained(jobs);
        return;
    }
    jobs_note_success(jobs);
    on_rows(jobs, result);
    jobs_check_drained(jobs);
    jobs_pump(jobs);
}

static void on_capped(void *data, const struct pg_result *const *results, int n_results, const struct err *err)
{
    struct jobs *jobs = data;
    list_remove(&jobs->fetch.node);
    jobs->fetch.op = NULL;
    on_fetched(&jobs->fetch, n_results == 2 ? results[1] : NULL, err);
}

static void fetch_capped(struct jobs *jobs, const struct pg_call *fetch)
{
    struct pg_call calls[2] = {{.sql = SLICE(""), .deadline_ms = fetch->deadline_ms}, *fetch};
    calls[0].sql = slice_str(LOCK);
    struct pg_tx *tx = pg_tx_begin(jobs->pg, &(struct pg_tx_opts){.deadline_ms = fetch->deadline_ms});
    list_push(&jobs->calls, &jobs->fetch.node);
    jobs->fetch.op = pg_tx_query_all(tx, calls, 2, true, on_capped, jobs);
}

static void fetch(struct jobs *jobs, size_t i, unsigned n_wanted)
{
    struct lane *lane = &jobs->lanes[i];
    char limit[16], lease[16];
    snprintf(limit, sizeof(limit), "%u", n_wanted);
    snprintf(lease, sizeof(lease), "%u", jobs->opts.lease_ms);
    struct pg_param params[] = {{lane->queue}, {lane->kinds}, {limit}, {jobs->by}, {lease}, {lane->caps}};
    lane->is_hungry = false;
    jobs->fetching = i;
    jobs->fetching_no = jobs->generation_no;
    jobs->n_asked = n_wanted;
    jobs->fetch_sent_ms = loop_now(jobs->loop);
    jobs->fetch.done = on_fetched;
    if (lane->caps)
        fetch_capped(jobs, &(struct pg_call){.sql = slice_str(FETCH_CAPPED),
                                             .params = params,
                                             .n_params = ARRAY_LEN(params),
                                             .deadline_ms = loop_now(jobs->loop) + JOBS_CALL_MS});
    else
        jobs_call_start(jobs, &jobs->fetch, FETCH, params, ARRAY_LEN(params) - 1);
}

void jobs_pump(struct jobs *jobs)
{
    if (!jobs->is_working || jobs->is_draining || jobs_call_is_busy(&jobs->fetch) ||
        jobs->n_running >= jobs->opts.max_running)
        return;
    unsigned room = jobs->opts.max_running - jobs->n_running;
    for (size_t n = 0; n < jobs->n_lanes; n++) {
        size_t i = jobs->next_lane++ % jobs->n_lanes;
        if (!jobs->lanes[i].is_hungry)
            continue;
        fetch(jobs, i, room < FETCH_MAX ? room : FETCH_MAX);
        return;
    }
}

/* ---- lanes ----------------------------------------------------------------------------------------------------------
 */

static bool serves(const struct jobs *jobs, const char *queue)
{
    for (size_t i = 0; i < jobs->opts.n_queues; i++)
        if (strcmp(jobs->queues[i], queue) == 0)
            return true;
    return jobs->opts.n_queues == 0;
}

static void free_lanes(struct jobs *jobs)
{
    for (size_t i = 0; i < jobs->n_lanes; i++) {
        free(jobs->lanes[i].kinds);
        free(jobs->lanes[i].caps);
    }
    free(jobs->lanes);
    jobs->lanes = NULL;
    jobs->n_lanes = 0;
}

static bool has_lane(const struct jobs *jobs, const struct job_kind *kind)
{
    for (size_t i = 0; i < jobs->n_lanes; i++)
        if (strcmp(jobs->lanes[i].queue, kind->queue) == 0 && !jobs->lanes[i].caps == !kind->concurrency)
            return true;
    return false;
}

/* All kinds of first's queue that are capped as it is. Names are words: no quoting. */
static void add_lane(struct jobs *jobs, const struct job_kind *first)
{
    const struct job_kinds *kinds = jobs->generation.kinds;
    struct buf names = {0}, caps = {0};
    for (size_t i = 0; i < kinds->n_kinds; i++) {
        const struct job_kind *kind = kinds->kinds[i];
        if (strcmp(kind->queue, first->queue) != 0 || !kind->concurrency != !first->concurrency)
            continue;
        buf_printf(&names, "%c%s", names.len ? ',' : '{', kind->name);
        buf_printf(&caps, "%c%u", caps.len ? ',' : '{', kind->concurrency);
    }
    buf_append(&names, "}", 2); /* with the NUL */
    buf_append(&caps, "}", 2);
    jobs->lanes = xrealloc(jobs->lanes, (jobs->n_lanes + 1) * sizeof(*jobs->lanes));
    struct lane lane = {.queue = first->queue, .kinds = names.ptr, .caps = caps.ptr, .is_hungry = true};
    if (!first->concurrency) {
        buf_free(&caps);
        lane.caps = NULL;
    }
    jobs->lanes[jobs->n_lanes++] = lane;
}

void jobs_wake(struct jobs *jobs, struct slice queue)
{
    for (size_t i = 0; i < jobs->n_lanes; i++)
        if (!queue.ptr || slice_eq(queue, slice_str(jobs->lanes[i].queue)))
            jobs->lanes[i].is_hungry = true;
    jobs_pump(jobs);
}

/* ---- what wakes it
 * ----------------------------------------------------------------------------------------------------- */

static void on_due(struct timer *timer)
{
    jobs_wake(container_of(timer, struct jobs, due), (struct slice){NULL, 0});
}

void jobs_wake_in(struct jobs *jobs, uint64_t in_ms)
{
    uint64_t due_ms = loop_now(jobs->loop) + in_ms + 1;
    if (jobs->is_draining || (timer_is_armed(&jobs->due) && jobs->due.due_ms <= due_ms))
        return;
    timer_arm(jobs->loop, &jobs->due, due_ms, on_due);
}

static void on_poll(struct timer *timer)
{
    struct jobs *jobs = container_of(timer, struct jobs, poll);
    timer_arm(jobs->loop, timer, loop_now(jobs->loop) + POLL_MS + jobs_random() % POLL_JITTER_MS, on_poll);
    jobs_wake(jobs, (struct slice){NULL, 0});
}

static void on_event(void *data)
{
    struct jobs *jobs = data;
    struct pg_event event;
    while (pg_sub_take(jobs->sub, &event)) {
        if (event.is_gap)
            jobs_wake(jobs, (struct slice){NULL, 0});
        if (event.has_payload)
            jobs_wake(jobs, event.payload);
    }
}

/* For as long as there is a kind to wait for: an application without jobs need not have their tables either. */
static void start_listening(struct jobs *jobs)
{
    struct err err = {0};
    struct pg_sub_opts opts = {.channel = SLICE(JOBS_CHANNEL), .on_event = on_event, .data = jobs};
    jobs->sub = pg_sub_new(jobs->pg, &opts, &err);
    if (!jobs->sub) /* through a transaction pooler there is no LISTEN */
        log_info("jobs are polled for", LOG_S("why", err.message));
}

void jobs_set_lanes(struct jobs *jobs)
{
    const struct job_kinds *kinds = jobs->generation.kinds;
    free_lanes(jobs);
    for (size_t i = 0; kinds && i < kinds->n_kinds; i++)
        if (serves(jobs, kinds->kinds[i]->queue) && !has_lane(jobs, kinds->kinds[i]))
            add_lane(jobs, kinds->kinds[i]);
    if (jobs->is_draining || jobs->n_lanes == 0) {
        jobs_fetch_stop(jobs);
    } else if (!timer_is_armed(&jobs->poll)) {
        start_listening(jobs);
        on_poll(&jobs->poll);
    }
}

void jobs_fetch_stop(struct jobs *jobs)
{
    timer_stop(jobs->loop, &jobs->poll);
    timer_stop(jobs->loop, &jobs->due);
    pg_sub_free(jobs->sub);
    jobs->sub = NULL;
}

void jobs_fetch_close(struct jobs *jobs)
{
    jobs_fetch_stop(jobs);
    jobs_call_cancel(&jobs->fetch);
    free_lanes(jobs);
}
