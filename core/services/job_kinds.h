/* What a generation of code declares about jobs: kinds (chowk.jobs.define) and timetables (chowk.jobs.cron). Filled
 * while loading, then read-only; shared by the Lua state that declared it and by what runs its jobs, so it is counted.
 */
#pragma once

#include "base/err.h"
#include "base/slice.h"
#include "services/cron.h"

enum { JOB_NAME_MAX = 64, JOB_BACKOFF_MAX = 16, JOB_DELAY_MAX_S = 86400 };

/* How long a job that failed waits. No steps: attempt⁴ seconds, at most a day. Else the steps in turn, the last one
 * over and over. */
struct job_backoff {
    unsigned n_steps;
    uint32_t steps_ms[JOB_BACKOFF_MAX];
};
/* After the attempt-th failure (from 1), ±10 % by `random`, so that what failed together does not come back together.
 */
uint64_t job_backoff_ms(const struct job_backoff *backoff, unsigned attempt, uint32_t random);

struct job_kind {
    char name[JOB_NAME_MAX + 1], queue[JOB_NAME_MAX + 1]; /* of [A-Za-z0-9._-] */
    unsigned concurrency;                                 /* at most so many run in the whole cluster; 0: any number */
    uint32_t timeout_ms;
    struct job_backoff backoff;
    int ref; /* the declarer's: its function */
};

struct job_timetable {
    const struct job_kind *kind;
    struct cron cron;
    struct zone *zone;
    char *key;  /* of cron_runs: name, expression and zone */
    char *args; /* JSON */
    int priority, max_attempts;
    bool is_unique; /* by its arguments */
};

struct job_kinds {
    unsigned magic, n_refs;
    struct job_kind **kinds; /* owned, each */
    size_t n_kinds;
    struct job_timetable *timetables;
    size_t n_timetables;
};

struct job_kinds *job_kinds_new(void); /* one reference */
struct job_kinds *job_kinds_ref(struct job_kinds *kinds);
void job_kinds_unref(struct job_kinds *kinds); /* NULL is fine */

bool job_name_is_valid(struct slice name);
const struct job_kind *job_kinds_find(const struct job_kinds *kinds, struct slice name); /* NULL: none */
/* ERR (ERR_INVALID): a name of other characters, or one that is taken. Copied. */
enum status job_kinds_add(struct job_kinds *kinds, const struct job_kind *kind, struct err *err) MUST_CHECK;

struct job_timetable_opts {
    struct slice expr, zone, name, args; /* copied; name is that of a kind */
    int priority, max_attempts;
    bool is_unique;
};
/* ERR (ERR_INVALID): what is wrong with it. */
enum status job_kinds_add_timetable(struct job_kinds *kinds, const struct job_timetable_opts *opts,
                                    struct err *err) MUST_CHECK;
