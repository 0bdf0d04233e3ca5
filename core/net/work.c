/* See work.h. Two lists under one mutex: jobs that wait for the thread, and jobs that wait for the loop. Results travel
 * with the mutex, so a job needs no lock of its own: it has one owner at a time. */
#include "net/work.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/loop_priv.h"
#include "net/thread.h"

#define WORK_MAGIC 0x70b5a101u

struct work {
    unsigned magic;
    struct loop *loop;
    struct loop_wakeup *wakeup;
    size_t n_jobs; /* given, not done; the loop's own */
    bool has_thread;
    pthread_t thread;
    char name[16];

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t has_job;
    struct list jobs, finished;
    bool is_stopped;
};

static void *run_thread(void *data)
{
    struct work *work = data;
    pthread_mutex_lock(&work->mutex);
    for (;;) {
        struct list *node = list_pop(&work->jobs);
        if (!node && work->is_stopped)
            break;
        if (!node) {
            pthread_cond_wait(&work->has_job, &work->mutex);
            continue;
        }
        struct work_job *job = container_of(node, struct work_job, node);
        pthread_mutex_unlock(&work->mutex);
        job->run(job);
        pthread_mutex_lock(&work->mutex);
        list_push(&work->finished, &job->node);
        loop_wakeup_send(work->wakeup);
    }
    pthread_mutex_unlock(&work->mutex);
    return NULL;
}

static void on_finished(void *data)
{
    struct work *work;
    struct list *node;
    CAST_OBJ(work, data, WORK_MAGIC);
    for (;;) {
        pthread_mutex_lock(&work->mutex);
        node = list_pop(&work->finished);
        pthread_mutex_unlock(&work->mutex);
        if (!node)
            return;
        if (--work->n_jobs == 0)
            loop_wakeup_keep(work->wakeup, false);
        struct work_job *job = container_of(node, struct work_job, node);
        job->done(job);
    }
}

struct work *work_new(struct loop *loop, const char *name)
{
    struct work *work = xalloc(sizeof(*work));
    work->magic = WORK_MAGIC;
    work->loop = loop;
    work->wakeup = loop_wakeup_new(loop, on_finished, work);
    loop_wakeup_keep(work->wakeup, false);
    snprintf(work->name, sizeof(work->name), "%s", name);
    CHECK(pthread_mutex_init(&work->mutex, NULL) == 0 && pthread_cond_init(&work->has_job, NULL) == 0);
    list_init(&work->jobs);
    list_init(&work->finished);
    return work;
}

void work_push(struct work *work, struct work_job *job, void (*run)(struct work_job *job),
               void (*done)(struct work_job *job))
{
    CHECK_OBJ(work, WORK_MAGIC);
    CHECK(!list_is_linked(&job->node));
    job->run = run;
    job->done = done;
    if (!work->has_thread)
        CHECK(thread_start(&work->thread, work->name, run_thread, work) == 0);
    work->has_thread = true;
    if (work->n_jobs++ == 0)
        loop_wakeup_keep(work->wakeup, true);
    pthread_mutex_lock(&work->mutex);
    list_push(&work->jobs, &job->node);
    pthread_cond_signal(&work->has_job);
    pthread_mutex_unlock(&work->mutex);
}

bool work_is_idle(const struct work *work)
{
    return work->n_jobs == 0;
}

void work_free(struct work *work)
{
    if (!work)
        return;
    CHECK_OBJ(work, WORK_MAGIC);
    pthread_mutex_lock(&work->mutex);
    work->is_stopped = true;
    pthread_cond_signal(&work->has_job);
    pthread_mutex_unlock(&work->mutex);
    if (work->has_thread)
        pthread_join(work->thread, NULL);
    on_finished(work);
    CHECK(work->n_jobs == 0);
    loop_wakeup_free(work->wakeup);
    pthread_cond_destroy(&work->has_job);
    pthread_mutex_destroy(&work->mutex);
    work->magic = 0;
    free(work);
}
