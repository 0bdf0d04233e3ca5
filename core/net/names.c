/* Host names on threads of their own: getaddrinfo blocks, and libuv's pool must not fill up with it. A thread is
 * started when a job finds none idle, so that a name server which is slow for one name holds up no other.
 *
 * Two halves. `struct names` and its queries live on the loop and are touched by nobody else. `struct shared`
 * is what the threads see: a queue of jobs, a list of finished ones, one mutex. It is owned by the loop's half
 * and each thread, and goes with the last; so names_free never waits for a look-up that runs: the threads
 * are detached, find `is_stopped` when they come back, and throw their results away.
 *
 * job->query belongs to the loop's half: it is NULL once the query is gone, and no thread reads it.
 * A query without a job (numeric, localhost, refused) is answered by a deferred call.
 *
 * Never here: a cache (the answer's lifetime is not known), a call of getaddrinfo on the loop. */
#include "net/names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>

#include "net/loop_priv.h"
#include "net/thread.h"

#define NAMES_MAGIC 0x4a3e5001u
#define QUERY_MAGIC 0x4a3e5002u
#define MAX_JOBS 256
#define MAX_THREADS 4
#define MAX_HOST 253 /* RFC 1035, as text */

struct job {
    struct list node;
    struct names_query *query; /* of the loop's half */
    char host[MAX_HOST + 1];
    int gai_error; /* getaddrinfo's; EAI_SYSTEM with errnum */
    int errnum;
    size_t n_addrs;
    struct addr addrs[NAMES_MAX_ADDRS];
};

struct shared {
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t has_job;
    struct list jobs, done;
    struct loop_wakeup *wakeup; /* valid until is_stopped */
    bool is_stopped;
    int n_owners; /* the loop's half, and the threads */
    int n_threads, n_idle, n_queued;
};

struct names {
    unsigned magic;
    struct loop *loop;
    struct list queries;
    size_t n_jobs;
    struct shared *shared; /* made at the first need, as the threads are */
    struct loop_wakeup *wakeup;
};

struct names_query {
    unsigned magic;
    struct list node; /* in names->queries until completed or cancelled */
    struct names *names;
    names_fn fn;
    void *data;
    int port;
    struct job *job;       /* or, without one: */
    struct loop_task task; /* answers in this turn */
    struct err err;        /* code NONE: the addresses below */
    size_t n_addrs;
    struct addr addrs[2];
};

/* ---- the threads --------------------------------------------------------------------------------------- */

static void free_jobs(struct list *jobs)
{
    struct list *node;
    while ((node = list_pop(jobs)))
        free(container_of(node, struct job, node));
}

/* Called with the mutex held, which it releases. */
static void shared_unref(struct shared *shared)
{
    int n_left = --shared->n_owners;
    pthread_mutex_unlock(&shared->mutex);
    if (n_left)
        return;
    free_jobs(&shared->jobs);
    free_jobs(&shared->done);
    pthread_cond_destroy(&shared->has_job);
    pthread_mutex_destroy(&shared->mutex);
    free(shared);
}

static void look_up(struct job *job)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
    job->gai_error = getaddrinfo(job->host, NULL, &hints, &found);
    job->errnum = errno;
    if (job->gai_error)
        return;
    for (struct addrinfo *ai = found; ai && job->n_addrs < NAMES_MAX_ADDRS; ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        struct addr *addr = &job->addrs[job->n_addrs++];
        memcpy(&addr->sa, ai->ai_addr, ai->ai_addrlen);
        addr->len = ai->ai_addrlen;
    }
    freeaddrinfo(found);
    if (!job->n_addrs)
        job->gai_error = EAI_NONAME;
}

static void *run_thread(void *data)
{
    struct shared *shared = data;
    pthread_mutex_lock(&shared->mutex);
    while (!shared->is_stopped) {
        struct list *node = list_pop(&shared->jobs);
        if (!node) {
            shared->n_idle++;
            pthread_cond_wait(&shared->has_job, &shared->mutex);
            shared->n_idle--;
            continue;
        }
        shared->n_queued--;
        struct job *job = container_of(node, struct job, node);
        pthread_mutex_unlock(&shared->mutex);
        look_up(job);
        pthread_mutex_lock(&shared->mutex);
        list_push(&shared->done, &job->node);
        if (!shared->is_stopped)
            loop_wakeup_send(shared->wakeup);
    }
    shared_unref(shared);
    return NULL;
}

static int start_thread(struct shared *shared)
{
    pthread_t thread;
    int rc = thread_start(&thread, "names", run_thread, shared);
    if (rc == 0)
        pthread_detach(thread);
    return rc;
}

/* ---- completing ---------------------------------------------------------------------------------------- */

static void set_port(struct addr *addr, int port)
{
    if (addr->sa.ss_family == AF_INET)
        ((struct sockaddr_in *)&addr->sa)->sin_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in6 *)&addr->sa)->sin6_port = htons((uint16_t)port);
}

/* From here on nobody finds the query; its memory goes at the end of the turn. */
static void retire(struct names_query *query)
{
    struct names *names = query->names;
    list_remove(&query->node);
    loop_defer_cancel(&query->task);
    if (query->job) {
        query->job->query = NULL;
        query->job = NULL;
        if (--names->n_jobs == 0)
            loop_wakeup_keep(names->wakeup, false);
    }
    query->magic = 0;
    loop_reclaim(names->loop, query);
}

static void complete(struct names_query *query, struct addr *addrs, size_t n_addrs, const struct err *err)
{
    for (size_t i = 0; i < n_addrs; i++)
        set_port(&addrs[i], query->port);
    retire(query);
    query->fn(query->data, addrs, n_addrs, err);
}

static void complete_job(struct job *job)
{
    if (!job->gai_error) {
        complete(job->query, job->addrs, job->n_addrs, NULL);
        return;
    }
    struct err err = {0};
    const char *why = job->gai_error == EAI_SYSTEM ? strerror(job->errnum) : gai_strerror(job->gai_error);
    err_set(&err, ERR_UNAVAILABLE, "resolve \"%s\": %s", job->host, why);
    complete(job->query, NULL, 0, &err);
}

/* fn may call names_free: that retires all queries left, so the jobs left here have none. */
static void on_wakeup(void *data)
{
    struct names *names;
    CAST_OBJ(names, data, NAMES_MAGIC);
    struct list done, *node;
    list_init(&done);
    pthread_mutex_lock(&names->shared->mutex);
    while ((node = list_pop(&names->shared->done)))
        list_push(&done, node);
    pthread_mutex_unlock(&names->shared->mutex);
    while ((node = list_pop(&done))) {
        struct job *job = container_of(node, struct job, node);
        if (job->query)
            complete_job(job);
        free(job);
    }
}

static void on_task(struct loop_task *task)
{
    struct names_query *query = container_of(task, struct names_query, task);
    CHECK_OBJ(query, QUERY_MAGIC);
    bool is_ok = query->err.code == ERR_NONE;
    complete(query, is_ok ? query->addrs : NULL, query->n_addrs, is_ok ? NULL : &query->err);
}

/* ---- asking -------------------------------------------------------------------------------------------- */

static void make_shared(struct names *names)
{
    struct shared *shared = xalloc(sizeof(*shared));
    list_init(&shared->jobs);
    list_init(&shared->done);
    CHECK(pthread_mutex_init(&shared->mutex, NULL) == 0 && pthread_cond_init(&shared->has_job, NULL) == 0);
    shared->wakeup = names->wakeup;
    shared->n_owners = 1;
    names->shared = shared;
}

/* One more thread, if the jobs that are queued and this one are more than idle threads. Mutex held. ERR: there is
 * none at all. */
static enum status grow(struct shared *shared, struct err *err)
{
    if (shared->n_idle > shared->n_queued || shared->n_threads == MAX_THREADS)
        return OK;
    int rc = start_thread(shared);
    if (rc == 0) {
        shared->n_threads++;
        shared->n_owners++;
        return OK;
    }
    if (shared->n_threads > 0)
        return OK;
    return err_set(err, ERR_UNAVAILABLE, "start the resolver's thread: %s", strerror(rc));
}

static enum status push_job(struct names_query *query, const char *host, size_t len)
{
    struct names *names = query->names;
    if (names->n_jobs == MAX_JOBS)
        return err_set(&query->err, ERR_QUEUE_FULL, "resolve \"%s\": %d look-ups are waiting", host, MAX_JOBS);
    if (!names->shared)
        make_shared(names);
    pthread_mutex_lock(&names->shared->mutex);
    if (grow(names->shared, &query->err) != OK) {
        pthread_mutex_unlock(&names->shared->mutex);
        return ERR;
    }
    struct job *job = xalloc(sizeof(*job));
    memcpy(job->host, host, len);
    job->query = query;
    query->job = job;
    if (names->n_jobs++ == 0)
        loop_wakeup_keep(names->wakeup, true);
    list_push(&names->shared->jobs, &job->node);
    names->shared->n_queued++;
    pthread_cond_signal(&names->shared->has_job);
    pthread_mutex_unlock(&names->shared->mutex);
    return OK;
}

static void add(struct names_query *query, const void *sa, socklen_t len)
{
    struct addr *addr = &query->addrs[query->n_addrs++];
    memcpy(&addr->sa, sa, len);
    addr->len = len;
}

/* Numeric addresses, and RFC 6761's localhost, which must not depend on a name server. */
static bool is_known(struct names_query *query, const char *host)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        add(query, &v4, sizeof(v4));
    } else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        add(query, &v6, sizeof(v6));
    } else if (slice_ieq(slice_str(host), SLICE("localhost")) || slice_ieq(slice_str(host), SLICE("localhost."))) {
        v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        v6.sin6_addr = in6addr_loopback;
        add(query, &v4, sizeof(v4));
        add(query, &v6, sizeof(v6));
    }
    return query->n_addrs > 0;
}

struct names_query *names_resolve(struct names *names, const char *host, int port, names_fn fn, void *data)
{
    CHECK_OBJ(names, NAMES_MAGIC);
    struct names_query *query = xalloc(sizeof(*query));
    *query = (struct names_query){.magic = QUERY_MAGIC, .names = names, .fn = fn, .data = data, .port = port};
    list_push(&names->queries, &query->node);
    size_t len = strlen(host);
    if (len == 0 || len > MAX_HOST || port < 0 || port > 65535)
        err_set(&query->err, ERR_INVALID, "not a host name and port: \"%s\", %d", host, port);
    else if (!is_known(query, host) && push_job(query, host, len) == OK)
        return query;
    loop_defer(names->loop, &query->task, on_task);
    return query;
}

void names_cancel(struct names_query *query)
{
    CHECK_OBJ(query, QUERY_MAGIC);
    struct names *names = query->names;
    struct job *job = query->job;
    bool is_queued = false;
    if (job) {
        pthread_mutex_lock(&names->shared->mutex);
        list_each (node, &names->shared->jobs)
            is_queued |= node == &job->node;
        if (is_queued) {
            list_remove(&job->node);
            names->shared->n_queued--;
        }
        pthread_mutex_unlock(&names->shared->mutex);
    }
    retire(query);
    if (is_queued)
        free(job);
}

struct names *names_new(struct loop *loop)
{
    struct names *names = xalloc(sizeof(*names));
    *names = (struct names){.magic = NAMES_MAGIC, .loop = loop};
    list_init(&names->queries);
    names->wakeup = loop_wakeup_new(loop, on_wakeup, names);
    loop_wakeup_keep(names->wakeup, false);
    return names;
}

static void stop_threads(struct shared *shared)
{
    pthread_mutex_lock(&shared->mutex);
    shared->is_stopped = true;
    pthread_cond_broadcast(&shared->has_job);
    shared_unref(shared);
}

void names_free(struct names *names)
{
    CHECK_OBJ(names, NAMES_MAGIC);
    names->magic = 0; /* a completion must not ask again */
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "the resolver was stopped");
    while (!list_is_empty(&names->queries))
        complete(container_of(names->queries.next, struct names_query, node), NULL, 0, &err);
    if (names->shared)
        stop_threads(names->shared);
    loop_wakeup_free(names->wakeup);
    loop_reclaim(names->loop, names);
}
