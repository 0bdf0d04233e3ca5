/* One thread beside the loop, for jobs that take too long for it: they run one after the other, in the order in which
 * they were given. A job's memory is its giver's until `done`. */
#pragma once

#include "net/loop.h"

struct work;
struct work_job { /* embed it; zeroed = idle */
    struct list node;
    void (*run)(struct work_job *job);  /* on the thread: may block, may not touch the loop or anything of it */
    void (*done)(struct work_job *job); /* on the loop, in a later turn, exactly once; may free the job */
};

struct work *work_new(struct loop *loop, const char *name); /* the thread starts with the first job; returns owned */
void work_push(struct work *work, struct work_job *job, void (*run)(struct work_job *job),
               void (*done)(struct work_job *job));
bool work_is_idle(const struct work *work); /* every job's `done` has been called */
/* BLOCKING: waits for all jobs, calls their `done`. */
void work_free(struct work *work);
