/* Cancel requests through a pooler, on a thread of their own.
 *
 * Behind a pooler the pid that a connection knows is not its backend's, so pg_cancel_backend is out, and PQcancel is
 * what is left. It connects, writes and waits, blocking, for more than 15 s against a silent peer and in clear text
 * (T20): so one thread does nothing else, a bounded number may wait for it, and no one waits for its answer: a
 * connection that is not idle in time is closed all the same.
 *
 * `struct pg_cancels` is shared by the loop's half and the detached thread, and goes with the last of the two; so
 * pg_cancel_free does not wait for a request that hangs. Never here: the loop's objects. */
#include "data/pg_cancel.h"

#include <pthread.h>
#include <stdlib.h>

#include "net/thread.h"

enum { MAX_WAITING = 64 };

struct pg_cancels {
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t has_job;
    PGcancel *jobs[MAX_WAITING]; /* ring */
    unsigned head, len;
    bool is_stopped;
    int n_owners;
};

/* Called with the mutex held, which it releases. */
static void cancels_unref(struct pg_cancels *cancels)
{
    int n_left = --cancels->n_owners;
    pthread_mutex_unlock(&cancels->mutex);
    if (n_left)
        return;
    for (unsigned i = 0; i < cancels->len; i++)
        PQfreeCancel(cancels->jobs[(cancels->head + i) % MAX_WAITING]);
    pthread_cond_destroy(&cancels->has_job);
    pthread_mutex_destroy(&cancels->mutex);
    free(cancels);
}

static void *run_thread(void *data)
{
    struct pg_cancels *cancels = data;
    char why[256];
    pthread_mutex_lock(&cancels->mutex);
    while (!cancels->is_stopped) {
        if (cancels->len == 0) {
            pthread_cond_wait(&cancels->has_job, &cancels->mutex);
            continue;
        }
        PGcancel *job = cancels->jobs[cancels->head];
        cancels->head = (cancels->head + 1) % MAX_WAITING;
        cancels->len--;
        pthread_mutex_unlock(&cancels->mutex);
        (void)PQcancel(job, why, sizeof(why));
        PQfreeCancel(job);
        pthread_mutex_lock(&cancels->mutex);
    }
    cancels_unref(cancels);
    return NULL;
}

static bool start_thread(struct pg_cancels *cancels)
{
    pthread_t thread;
    if (thread_start(&thread, "pg_cancel", run_thread, cancels) != 0)
        return false;
    pthread_detach(thread);
    return true;
}

static struct pg_cancels *cancels_new(void)
{
    struct pg_cancels *cancels = xalloc(sizeof(*cancels));
    CHECK(pthread_mutex_init(&cancels->mutex, NULL) == 0 && pthread_cond_init(&cancels->has_job, NULL) == 0);
    cancels->n_owners = 2;
    if (start_thread(cancels))
        return cancels;
    pthread_mutex_lock(&cancels->mutex);
    cancels->n_owners = 1;
    cancels_unref(cancels);
    return NULL;
}

bool pg_cancel_push(struct pg_cancels **cancels, PGconn *pq)
{
    if (!*cancels)
        *cancels = cancels_new();
    PGcancel *job = *cancels ? PQgetCancel(pq) : NULL;
    if (!job)
        return false;
    pthread_mutex_lock(&(*cancels)->mutex);
    bool has_room = (*cancels)->len < MAX_WAITING;
    if (has_room)
        (*cancels)->jobs[((*cancels)->head + (*cancels)->len++) % MAX_WAITING] = job;
    pthread_cond_signal(&(*cancels)->has_job);
    pthread_mutex_unlock(&(*cancels)->mutex);
    if (!has_room)
        PQfreeCancel(job);
    return has_room;
}

void pg_cancel_free(struct pg_cancels *cancels)
{
    if (!cancels)
        return;
    pthread_mutex_lock(&cancels->mutex);
    cancels->is_stopped = true;
    pthread_cond_signal(&cancels->has_job);
    cancels_unref(cancels);
}
