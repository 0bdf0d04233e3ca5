/* A worker's life: descriptors and configuration in → host → HTTP server → "ready" → serve → drain → exit. A job worker
 * lives the same life with jobs in the HTTP server's place.
 *
 * It owns no decision about processes: the master says when to drain, and its death says so too. It opens no file of
 * the application (code comes from the bundle, configuration from the snapshot), so a respawn at night runs what was
 * started in the evening. Stop is a walk through `enum stage`, forward only; each stage has a bound. */
#include "server/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/shm.h"
#include "http/server.h"
#include "net/poll.h"
#include "net/signal.h"
#include "net/timer.h"
#include "script/guard.h"
#include "script/serve.h"
#include "server/access_log.h"
#include "server/config_json.h"
#include "server/config_log.h"
#include "server/config_trust.h"
#include "server/control.h"
#include "server/host.h"
#include "server/job_worker.h"
#include "server/last_words.h"
#include "server/process_stats.h"
#include "server/worker_metrics.h"
#include "server/worker_reload.h"
#include "services/jobs.h"

enum {
    BEAT_MS = 500,
    IDLE_GRACE_MS = 1000, /* how long idle keep-alive connections are still served when draining */
    IDLE_GRACE_DEV_MS = 200,
    SETTLE_MS = 10, /* between looks at what still runs after the last answer */
    CUT_MS = 2000,  /* for jobs that were cut to be handed back */
};

enum stage { SERVING, LAME_DUCK, DRAINING, SETTLING, STOPPED };

struct adopted {
    uint32_t listener; /* its number, the master's */
    int fd;            /* owned */
};

struct worker {
    enum stage stage;
    struct config *config;
    struct shm_map snapshot;
    struct host host;
    struct guard guard;       /* on its first load */
    struct http_server *http; /* NULL: a job worker */
    struct access_log *access_log;
    struct reload_state *reload_state;
    struct worker_reload *reload;
    struct scoreboard *board;
    struct scoreboard_slot *slot;
    struct worker_metrics *metrics;
    struct poll *control;
    struct signal_watch *term;
    struct timer beat, pulse, step, deadline; /* step: the end of the current stage; deadline: of the whole drain */
    struct adopted *adopted;
    size_t n_adopted;
    char name[16];
};

/* ---- stop ---------------------------------------------------------------------------------------------------- */

static void arm(struct worker *worker, struct timer *timer, uint64_t in_ms, void (*fn)(struct timer *timer))
{
    timer_arm(worker->host.loop, timer, loop_now(worker->host.loop) + in_ms, fn);
}

static void finish(struct worker *worker)
{
    worker->stage = STOPPED;
    loop_stop(worker->host.loop);
}

static void on_settle(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, step);
    if (worker_reload_active(worker->reload) == 0)
        finish(worker);
    else
        arm(worker, &worker->step, SETTLE_MS, on_settle);
}

/* The last answer is out: application code may still be saying goodbye. */
static void on_drained(void *data)
{
    struct worker *worker = data;
    if (worker->stage >= SETTLING)
        return;
    worker->stage = SETTLING;
    worker_reload_stop(worker->reload);
    arm(worker, &worker->step, 0, on_settle);
}

static unsigned in_flight(const struct worker *worker)
{
    struct http_stats stats;
    if (!worker->http)
        return jobs_running(worker->host.jobs);
    http_server_stats(worker->http, &stats);
    return (unsigned)stats.in_flight;
}

static void on_cut(struct timer *timer)
{
    finish(container_of(timer, struct worker, deadline));
}

static void on_deadline(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, deadline);
    log_warn(worker->http ? "drain deadline passed: requests in flight are cut"
                          : "drain deadline passed: running jobs go back to the queue",
             LOG_I("in_flight", in_flight(worker)), LOG_I("coroutines", (int64_t)worker_reload_active(worker->reload)));
    if (worker->http || worker->stage == SETTLING) {
        finish(worker);
        return;
    }
    arm(worker, &worker->deadline, CUT_MS, on_cut);
    jobs_cut(worker->host.jobs);
}

/* Who holds a socket and does not accept keeps clients waiting, and a new master from binding when its own is gone. */
static void close_listeners(struct worker *worker)
{
    close(WORKER_LISTENER);
    for (size_t i = 0; i < worker->n_adopted; i++)
        close(worker->adopted[i].fd);
    worker->n_adopted = 0;
}

static void start_drain(struct worker *worker)
{
    worker->stage = DRAINING;
    uint32_t drain_ms = (uint32_t)config_number(worker->config, CONFIG_DRAIN);
    uint32_t grace_ms = config_is_development(worker->config) ? IDLE_GRACE_DEV_MS : IDLE_GRACE_MS;
    arm(worker, &worker->deadline, drain_ms, on_deadline);
    if (worker->http) {
        http_server_drain(worker->http, grace_ms < drain_ms ? grace_ms : drain_ms, on_drained, worker);
        close_listeners(worker);
    } else {
        jobs_drain(worker->host.jobs, on_drained, worker);
    }
}

static void on_lame_duck_end(struct timer *timer)
{
    start_drain(container_of(timer, struct worker, step));
}

static void start_stop(struct worker *worker, uint32_t lame_duck_ms, bool is_replaced)
{
    if (worker->stage != SERVING)
        return;
    worker->stage = LAME_DUCK;
    worker->slot->state = SCOREBOARD_DRAINING;
    worker->host.env.is_stopping = !is_replaced; /* a probe that meets us must not hear that the server goes */
    /* Nobody routes jobs to us: they need no time to learn that we are going. */
    arm(worker, &worker->step, worker->http ? lame_duck_ms : 0, on_lame_duck_end);
}

/* ---- the master ---------------------------------------------------------------------------------------------- */

static struct adopted *find_adopted(const struct worker *worker, uint32_t listener)
{
    for (size_t i = 0; i < worker->n_adopted; i++)
        if (worker->adopted[i].listener == listener)
            return &worker->adopted[i];
    return NULL;
}

static void adopt(struct worker *worker, uint32_t listener, int fd)
{
    if (fd < 0)
        return;
    if (!worker->http || worker->stage > LAME_DUCK || find_adopted(worker, listener)) {
        close(fd);
        return;
    }
    worker->adopted = xrealloc(worker->adopted, (worker->n_adopted + 1) * sizeof(*worker->adopted));
    worker->adopted[worker->n_adopted++] = (struct adopted){listener, fd};
    http_server_listen(worker->http, fd);
    log_debug("accepting from one more listener", LOG_I("listener", listener));
}

static void release(struct worker *worker, uint32_t listener)
{
    struct adopted *adopted = find_adopted(worker, listener);
    if (!adopted)
        return;
    http_server_unlisten(worker->http, adopted->fd);
    close(adopted->fd);
    *adopted = worker->adopted[--worker->n_adopted];
    log_debug("accepting from one listener less", LOG_I("listener", listener));
}

static void on_message(struct worker *worker, const struct control_message *message)
{
    switch (message->type) {
    case CONTROL_DRAIN:
        start_stop(worker, message->value, false);
        return;
    case CONTROL_LEAVE:
        start_stop(worker, 0, true);
        return;
    case CONTROL_SHARE:
        host_set_pg_share(&worker->host, message->value);
        return;
    case CONTROL_ADOPT:
        adopt(worker, message->value, message->fd);
        return;
    case CONTROL_RELEASE:
        release(worker, message->value);
        return;
    case CONTROL_REOPEN:
        config_log_reopen();
        return;
    case CONTROL_PREPARE:
    case CONTROL_ABORT:
    case CONTROL_COMMIT:
        worker_reload_message(worker->reload, message);
        return;
    case CONTROL_READY:
    case CONTROL_FAIL:
    case CONTROL_BEAT:
    case CONTROL_PREPARED:
    case CONTROL_REFUSED:
    case CONTROL_MASTERS:
        return; /* ours to send */
    }
    WRONG("control message");
}

static void on_control(void *data, int events UNUSED)
{
    struct worker *worker = data;
    struct control_message message;
    enum status status;
    while ((status = control_receive(WORKER_CONTROL, &message)) == OK)
        on_message(worker, &message);
    if (status != ERR)
        return;
    poll_set(worker->control, 0);
    if (worker->stage == SERVING)
        log_warn("the master is gone: draining");
    start_stop(worker, 0, false);
    if (worker->stage == LAME_DUCK) /* whatever it was to last: another master may be waiting for the address */
        arm(worker, &worker->step, 0, on_lame_duck_end);
}

static void on_beat(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, beat);
    worker_reload_look(worker->reload);
    worker->slot->rss = process_stats_own_bytes();
    control_send(WORKER_CONTROL, CONTROL_BEAT, in_flight(worker), NULL, -1);
    arm(worker, &worker->beat, BEAT_MS, on_beat);
}

/* The watchdog looks at beat_ms; the rest is for people. */
static void on_pulse(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, pulse);
    struct scoreboard_slot *slot = worker->slot;
    struct http_stats stats = {0};
    if (worker->http)
        http_server_stats(worker->http, &stats);
    slot->requests = stats.requests;
    slot->responses_5xx = stats.responses_5xx;
    slot->connections = (uint32_t)stats.connections;
    slot->in_flight = in_flight(worker);
    slot->lua_heap = worker_reload_bytes(worker->reload);
    slot->n_generations = worker_reload_alive(worker->reload);
    slot->beat_ms = clock_ms();
    arm(worker, &worker->pulse, SCOREBOARD_BEAT_MS, on_pulse);
}

static void on_term(void *data, int signum UNUSED)
{
    start_stop(data, 0, false);
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

static void on_request(void *data, struct http_request *req)
{
    struct worker *worker = data;
    req->waited_us[HTTP_WAIT_OTHER] = (loop_now(worker->host.loop) - req->started_ms) * 1000; /* for its body */
    worker_metrics_begin(worker->metrics);
    serve_request(worker->host.vm, req);
}

static void before_route(void *data)
{
    const struct worker *worker = data;
    worker_reload_look(worker->reload);
}

static void on_answered(void *data, const struct http_request *req, int status, size_t bytes, uint64_t us)
{
    struct worker *worker = data;
    worker_metrics_request(worker->metrics, req, status, us);
    if (worker->access_log)
        access_log_write(worker->access_log, req, status, bytes, us);
}

static void open_access_log(struct worker *worker)
{
    const struct config *config = worker->config;
    bool has_file = config_is_set(config, CONFIG_LOG_FILE) || config_is_set(config, CONFIG_LOG_ACCESS_FILE);
    bool shows_ips =
        !config_number(config, CONFIG_LOG_REDACT) || strcmp(config_text(config, CONFIG_LOG_IP), "full") == 0;
    worker->access_log =
        access_log_new(&(struct access_log_opts){.writer = config_log_access(),
                                                 .is_json = strcmp(config_text(config, CONFIG_LOG_FORMAT), "json") == 0,
                                                 .is_colour = !has_file && isatty(STDERR_FILENO),
                                                 .shows_ips = shows_ips});
}

static void open_http(struct worker *worker)
{
    const struct config *config = worker->config;
    struct http_server_opts opts = {
        .loop = worker->host.loop,
        .limits = {.max_line = (size_t)config_number(config, CONFIG_HTTP_MAX_LINE),
                   .max_header_bytes = (size_t)config_number(config, CONFIG_HTTP_MAX_HEADER_BYTES),
                   .max_headers = (size_t)config_number(config, CONFIG_HTTP_MAX_HEADERS),
                   .max_body = (size_t)config_number(config, CONFIG_HTTP_MAX_BODY),
                   .header_timeout_ms = (uint32_t)config_number(config, CONFIG_HTTP_HEADER_TIMEOUT),
                   .body_timeout_ms = (uint32_t)config_number(config, CONFIG_HTTP_BODY_TIMEOUT),
                   .idle_timeout_ms = (uint32_t)config_number(config, CONFIG_HTTP_IDLE_TIMEOUT),
                   .write_timeout_ms = (uint32_t)config_number(config, CONFIG_HTTP_WRITE_TIMEOUT),
                   .deadline_ms = (uint32_t)config_number(config, CONFIG_HTTP_DEADLINE),
                   .max_connections = (size_t)config_number(config, CONFIG_HTTP_MAX_CONNECTIONS)},
        .speaks_proxy = config_number(config, CONFIG_HTTP_PROXY_PROTOCOL) != 0,
        .router = vm_router(worker->host.vm),
        .shows_generation = config_is_development(config),
        .before_route = before_route,
        .handler = on_request,
        .log = on_answered,
        .data = worker};
    struct err err = {0};
    CHECK(config_trust(config, &opts.trust, &err) == OK); /* the master has checked it */
    if (config_number(config, CONFIG_LOG_ACCESS))
        open_access_log(worker);
    worker->http = http_server_new(&opts);
    http_server_listen(worker->http, WORKER_LISTENER);
}

/* ---- reloads ------------------------------------------------------------------------------------------------- */

static void show_generation(struct worker *worker)
{
    snprintf(worker->slot->generation_hash, SCOREBOARD_HASH, "%s", bundle_hash(worker->host.bundle));
    worker->slot->generation = worker_reload_number(worker->reload);
}

static void on_current(void *data)
{
    struct worker *worker = data;
    show_generation(worker);
    if (!worker->http)
        job_worker_switch(&worker->host);
    log_debug("new generation", LOG_I("generation", worker_reload_number(worker->reload)),
              LOG_S("hash", bundle_hash(worker->host.bundle)));
}

static void on_lost(void *data)
{
    start_stop(data, 0, false);
}

static void open_reload(struct worker *worker, uint32_t generation)
{
    struct worker_reload_opts opts = {.host = &worker->host,
                                      .config = worker->config,
                                      .http = worker->http,
                                      .state = worker->reload_state,
                                      .control_fd = WORKER_CONTROL,
                                      .number = generation,
                                      .on_current = on_current,
                                      .on_lost = on_lost,
                                      .data = worker};
    worker->reload = worker_reload_new(&opts);
    show_generation(worker);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

struct place { /* argv */
    bool is_jobs;
    int64_t id, n_processes, generation, board_slot;
};

static bool read_place(int argc, char **argv, struct place *place)
{
    place->is_jobs = strcmp(argv[1], WORKER_ROLE_JOBS) == 0;
    return argc >= 6 && slice_to_int(slice_str(argv[2]), 0, 255, &place->id) &&
           slice_to_int(slice_str(argv[3]), 1, 512, &place->n_processes) &&
           slice_to_int(slice_str(argv[4]), 1, UINT32_MAX, &place->generation) &&
           slice_to_int(slice_str(argv[5]), 0, UINT16_MAX, &place->board_slot);
}

/* So that a loop at top level is told with its line; what does not listen, the master's watchdog ends. */
static void guard_start(struct worker *worker)
{
    worker->guard.time_key = "worker.start_timeout";
    worker->guard.max_bytes = (size_t)config_number(worker->config, CONFIG_RELOAD_MAX_MEMORY);
    atomic_store(&worker->guard.deadline_ms,
                 clock_ms() + (uint64_t)config_number(worker->config, CONFIG_WORKER_START_TIMEOUT));
}

static enum status open_worker(struct worker *worker, const struct place *place, struct err *err)
{
    if (shm_open_sealed(WORKER_CONFIG, &worker->snapshot, err) != OK)
        return ERR;
    worker->config = config_read_json(worker->snapshot.bytes, err);
    if (!worker->config)
        return ERR;
    snprintf(worker->name, sizeof(worker->name), "%s %d", place->is_jobs ? "jobs" : "worker", (int)place->id);
    if (config_log_start(worker->config, worker->name, err) != OK)
        return ERR;
    struct segments segments;
    for (int i = 0; i < N_SEGMENTS; i++)
        segments.fds[i] = WORKER_SEGMENTS + i;
    if (metrics_open(segments.fds[SEGMENT_METRICS], worker->name, err) != OK)
        log_warn("this process is missing from /metrics", LOG_S("error", err->message));
    worker->board = scoreboard_attach(segments.fds[SEGMENT_SCOREBOARD], err);
    if (!worker->board)
        return ERR;
    CHECK(place->board_slot < worker->board->n_slots);
    worker->slot = &worker->board->slots[place->board_slot];
    last_words_install(worker->slot, config_number(worker->config, CONFIG_WORKER_CORE_DUMPS) != 0);
    guard_start(worker);
    struct host_opts opts = {.config = worker->config,
                             .guard = &worker->guard,
                             .running = &worker->slot->running,
                             .config_json = worker->snapshot.bytes,
                             .bundle_fd = WORKER_BUNDLE,
                             .segments = &segments,
                             .generation = (uint32_t)place->generation,
                             .worker_id = (int)place->id,
                             .n_processes = (unsigned)place->n_processes,
                             .has_services = true};
    if (host_open(&worker->host, &opts, err) != OK)
        return ERR;
    worker->host.env.n_failed = &worker->board->n_failed;
    worker->reload_state = reload_state_attach(segments.fds[SEGMENT_RELOAD], err);
    if (!worker->reload_state)
        return ERR;
    close(WORKER_CONFIG);
    close(WORKER_BUNDLE);
    segments_close(&segments);
    worker->term = signal_watch_new(worker->host.loop, SIGTERM, on_term, worker);
    worker->control = poll_new(worker->host.loop, WORKER_CONTROL, on_control, worker);
    poll_set(worker->control, POLL_READ);
    if (place->is_jobs)
        job_worker_start(&worker->host, worker->config);
    else
        open_http(worker);
    open_reload(worker, (uint32_t)place->generation);
    worker->metrics = worker_metrics_new(&worker->host, worker->http, worker->reload);
    return OK;
}

static void close_worker(struct worker *worker)
{
    if (worker->host.loop) {
        struct timer *const timers[] = {&worker->beat, &worker->pulse, &worker->step, &worker->deadline};
        for (size_t i = 0; i < ARRAY_LEN(timers); i++)
            timer_stop(worker->host.loop, timers[i]);
        worker_metrics_stop(worker->metrics);
        http_server_free(worker->http);
        worker_reload_free(worker->reload); /* ends what was cut: those requests are logged too */
        reload_state_detach(worker->reload_state);
        worker_metrics_free(worker->metrics);
        access_log_free(worker->access_log);
        signal_watch_free(worker->term);
        poll_free(worker->control);
        host_close(&worker->host);
    }
    config_log_stop();
    metrics_close();
    scoreboard_detach(worker->board);
    for (size_t i = 0; i < worker->n_adopted; i++)
        close(worker->adopted[i].fd);
    free(worker->adopted);
    config_free(worker->config);
    shm_close(&worker->snapshot);
}

int worker_main(int argc, char **argv)
{
    static struct worker worker; /* one per process; large */
    struct err err = {0};
    uint64_t started_ms = clock_ms();
    struct place place;
    if (!read_place(argc, argv, &place))
        return 2;
    for (int fd = SPAWN_FIRST_FD; fd < (place.is_jobs ? WORKER_LISTENER : WORKER_FD_END); fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
            return 2; /* not started by a master */
    signal(SIGPIPE, SIG_IGN);
    if (open_worker(&worker, &place, &err) != OK) {
        control_send(WORKER_CONTROL, CONTROL_FAIL, 0, err.message, -1);
        close_worker(&worker);
        return 1;
    }
    control_send(WORKER_CONTROL, CONTROL_READY, (uint32_t)(clock_ms() - started_ms), NULL, -1);
    on_pulse(&worker.pulse); /* before its state: the limit on a loop that stands still does not count the start */
    worker.slot->state = SCOREBOARD_SERVING;
    on_beat(&worker.beat);
    vm_start(worker.host.vm);
    loop_run(worker.host.loop);
    close_worker(&worker);
    return 0;
}
