/* Background jobs in PostgreSQL (tables jobs and cron_runs). Every process that enqueues has one `struct jobs`, to tell
 * the workers; a job worker also runs them. (FACTS 6, TRAPS T16)
 *
 * Delivery is at least once: a process may die after a job's effect and before saying so. What must happen exactly once
 * is written in a transaction that also completes the job (job_sql with is_final).
 *
 * A job is run under a lease, renewed at a third of it. Its fence is (id, attempted_by, attempt): every statement about
 * it carries all three, so that who lost the lease changes nothing any more. Nothing here blocks; every wait ends. */
#pragma once

#include "base/arena.h"
#include "data/pg.h"
#include "net/loop.h"
#include "services/job_kinds.h"

struct jobs;
struct job;

struct jobs_opts {
    struct loop *loop;
    struct pg *pg; /* borrowed, outlives it */
};
struct jobs *jobs_new(const struct jobs_opts *opts); /* returns owned */
void jobs_free(struct jobs *jobs);                   /* before pg; nothing may run any more. NULL is fine */

#define JOBS_CHANNEL "chowk_jobs" /* NOTIFY, the payload is the queue */

/* Jobs for this queue have been committed: wakes the workers of all machines, by one autocommit NOTIFY per queue and
 * JOBS_NOTIFY_MS. Whoever is missed polls. */
enum { JOBS_NOTIFY_MS = 50 };
void jobs_notify(struct jobs *jobs, struct slice queue);

/* ---- running them ---------------------------------------------------------------------------------------------- */

struct jobs_work_opts {
    unsigned max_running;
    uint32_t lease_ms;
    int64_t keep_ms, keep_dead_ms; /* completed and cancelled, discarded */
    char *const *queues;           /* copied; n_queues 0: all that the kinds name */
    size_t n_queues;
};
/* This process runs jobs from now on; nothing is taken before jobs_set_generation. */
void jobs_work(struct jobs *jobs, const struct jobs_work_opts *opts);

struct job_generation {
    struct job_kinds *kinds; /* a reference is taken; NULL: take none */
    /* Starts one; it calls job_end once, not from inside. From the loop, never from inside a call of ours. */
    void (*run)(void *data, struct job *job);
    void *data;
};
/* What is taken, and what cron does, from now on. Jobs that run go on where they are. */
void jobs_set_generation(struct jobs *jobs, const struct job_generation *generation);

void jobs_reap_now(struct jobs *jobs); /* what is kept long enough goes in a minute or two by itself; now: for tests */
unsigned jobs_running(const struct jobs *jobs); /* those whose end is not yet known to PostgreSQL among them */
/* Takes no more. on_drained is called once, from the loop, when nothing runs. */
void jobs_drain(struct jobs *jobs, void (*on_drained)(void *data), void *data);
/* Stops what still runs, and hands it back to the queue at once. on_drained follows. */
void jobs_cut(struct jobs *jobs);

struct job_info {
    int64_t id;
    const struct job_kind *kind;
    struct slice args; /* JSON; gone after job_end */
    int attempt;       /* what max_attempts counts, from 1 */
    int max_attempts, priority;
    int64_t run_at_ms, created_at_ms; /* since 1970 */
};
const struct job_info *job_info(const struct job *job); /* borrowed until job_end */

/* Called from the loop when the run is to stop: its lease is lost (ERR_LEASE_LOST), or this process ends
 * (ERR_CANCELLED). job_end is still owed. */
void job_on_stop(struct job *job, void (*fn)(void *data, enum err_code why), void *data);

enum job_outcome {
    JOB_DONE,
    JOB_FAILED,    /* again after its back-off, or discarded if that was the last attempt */
    JOB_DISCARDED, /* trying again is pointless */
    JOB_AGAIN,     /* parked for again_ms; no failure */
    JOB_RETURNED,  /* stopped from outside: another takes it at once; no failure */
};
struct job_end {
    enum job_outcome outcome;
    uint64_t again_ms;
    struct slice error; /* of FAILED and DISCARDED: kept with the job, the last ten */
};
/* The job must not be used afterwards. What PostgreSQL is told is repeated while the lease holds. */
void job_end(struct job *job, const struct job_end *end);

/* Statement that refuses (SQLSTATE JOB_LEASE_LOST) if the lease is lost, to travel with COMMIT. is_final: it also
 * completes the job. The call's text and values live in the arena. */
#define JOB_LEASE_LOST "CHJ01"
struct pg_call job_sql(struct job *job, bool is_final, struct arena *arena);
/* What became of that statement with is_final. Once it has committed, job_end has nothing left to say. */
void job_final_done(struct job *job, bool is_committed);
