/* What the files of services/jobs* share. Who owns what:
 *
 *   jobs.c        life, telling the workers (NOTIFY), counting
 *   jobs_fetch.c  what is taken, when: lanes, LISTEN, polling
 *   jobs_run.c    what runs: leases, fences, how a run ends
 *   jobs_tend.c   what others left behind: expired leases, finished rows
 *   jobs_cron.c   timetables
 *
 * Every statement is a jobs_call, so that jobs_free finds what is still under way. */
#pragma once

#include "base/metrics.h"
#include "data/pg_listen.h"
#include "net/timer.h"
#include "services/jobs.h"

#define JOBS_MAGIC 0x70b5a902u
#define JOB_MAGIC 0x70b5a903u

enum { JOBS_CALL_MS = 10000 }; /* deadline of one statement */

/* The states that wait to be run, and those that a unique key is unique among: as the partial indices have them. */
#define JOBS_WAITING "('available', 'scheduled', 'retryable')"
#define JOBS_UNIQUE                                                                                                    \
    "(kind, unique_key) WHERE unique_key IS NOT NULL AND state IN ('available', 'scheduled', 'running', 'retryable')"

struct jobs_call { /* embed it; zeroed = idle */
    struct list node;
    struct pg_op *op; /* NULL: idle */
    void (*done)(struct jobs_call *call, const struct pg_result *result, const struct err *err);
};
static inline bool jobs_call_is_busy(const struct jobs_call *call)
{
    return call->op != NULL;
}
void jobs_call_start(struct jobs *jobs, struct jobs_call *call, const char *sql, const struct pg_param *params,
                     int n_params);
void jobs_call_cancel(struct jobs_call *call); /* safe when idle */

struct lane { /* jobs of one queue, with a cap or without: they are taken by different statements */
    const char *queue;
    char *kinds, *caps; /* as PostgreSQL's arrays; caps NULL: none has one */
    bool is_hungry;     /* there may be something to take */
};

struct watch { /* one timetable */
    struct jobs *jobs;
    const struct job_timetable *table;
    struct timer timer;
    struct jobs_call call;
    int64_t slot_s;    /* being fired; 0: none */
    unsigned n_failed; /* in a row */
};

struct notice {
    struct list node;
    uint64_t sent_ms;
    bool is_pending;
    char queue[JOB_NAME_MAX + 1];
};

enum job_count { COUNT_COMPLETED, COUNT_FAILED, COUNT_DISCARDED, COUNT_PARKED, COUNT_RETURNED, COUNT_LOST, N_COUNTS };
struct tally { /* of one kind */
    char name[JOB_NAME_MAX + 1];
    struct metrics_cell *cells[N_COUNTS];
};

struct jobs {
    unsigned magic;
    struct loop *loop;
    struct pg *pg;
    struct list calls;
    struct list notices;
    struct timer notify;
    struct tally *tallies;
    size_t n_tallies;

    /* A job worker's. */
    struct jobs_work_opts opts;
    char **queues;
    bool is_working, is_draining, is_drained, is_failing; /* failing: said so in the log */
    char by[160];                                         /* attempted_by */
    struct job_generation generation;
    unsigned generation_no;
    void (*on_drained)(void *data);
    void *data;
    struct loop_task drained;

    struct lane *lanes;
    size_t n_lanes, next_lane;
    struct jobs_call fetch;
    size_t fetching; /* the lane, of … */
    unsigned fetching_no, n_asked;
    uint64_t fetch_sent_ms;
    struct pg_sub *sub;
    struct timer poll, due;

    struct list running;
    unsigned n_running;
    struct timer beat;
    struct jobs_call renew;
    uint64_t renew_sent_ms;

    struct timer rescue, reap;
    struct jobs_call rescuing, reaping;
    unsigned reap_step;

    struct watch *watches;
    size_t n_watches;
};

struct job {
    unsigned magic;
    struct list node; /* jobs->running */
    struct jobs *jobs;
    struct job_info info;
    struct job_kind kind; /* a copy: the generation may be gone when the end is written */
    char *args;
    int run; /* the fence: attempt of the row */
    uint64_t started_us, lease_until_ms, give_up_ms;
    bool is_ending, is_final_sent, is_completed, is_stopped;
    bool is_renewing; /* in the statement under way */
    void (*on_stop)(void *data, enum err_code why);
    void *data;
    enum job_outcome outcome;
    uint64_t delay_ms;
    char *error;
    unsigned n_tries;
    struct jobs_call call;
    struct timer retry;
};

void jobs_count(struct jobs *jobs, const char *kind, enum job_count count);
/* An outage is one line in the log, not one for each poll. */
void jobs_note_failure(struct jobs *jobs, const char *what, const struct err *err);
void jobs_note_success(struct jobs *jobs);
uint32_t jobs_random(void);

void jobs_fetch_stop(struct jobs *jobs); /* starts no more; what a fetch under way brings still runs */
void jobs_fetch_close(struct jobs *jobs);
void jobs_set_lanes(struct jobs *jobs); /* by the current generation; starts listening and polling, or stops */
void jobs_pump(struct jobs *jobs);      /* takes what there is room for */
void jobs_wake(struct jobs *jobs, struct slice queue); /* there may be something in it; {NULL, 0}: in any */
void jobs_wake_in(struct jobs *jobs, uint64_t in_ms);

void jobs_run_start(struct jobs *jobs);
void jobs_run_close(struct jobs *jobs);
void jobs_run_row(struct jobs *jobs, const struct pg_result *result, int row, uint64_t sent_ms);
void jobs_check_drained(struct jobs *jobs);

void jobs_tend_start(struct jobs *jobs);
void jobs_tend_close(struct jobs *jobs);

void jobs_cron_set(struct jobs *jobs); /* by the current generation; none while draining */
