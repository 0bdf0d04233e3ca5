/* Start: lock → listen → bundle → snapshot → workers. Stop, on TERM or INT: workers drain, then the same things close
 * in reverse. A second signal is "now". Each step of the start is undone by close_master, which tolerates a
 * half-started one.
 *
 * What is sealed (the bundle, until a reload commits another; the configuration snapshot, for good) is what every
 * worker runs, whatever the files on disk say by then. */
#include "server/master.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "base/shm.h"
#include "base/metrics.h"
#include "net/loop.h"
#include "net/signal.h"
#include "net/timer.h"
#include "server/admin.h"
#include "server/cli.h"
#include "server/config_json.h"
#include "server/config_log.h"
#include "server/early_stop.h"
#include "server/handover.h"
#include "server/last_words.h"
#include "server/listen.h"
#include "server/master_reload.h"
#include "server/ops.h"
#include "server/ops_cache.h"
#include "server/ops_status.h"
#include "server/ops_stop.h"
#include "server/run_dir.h"
#include "server/sd_notify.h"
#include "server/supervisor.h"
#include "server/upgrade.h"

/* How long sockets that take no new connection are still accepted from: handshakes under way end meanwhile. */
enum { DOOR_MS = 200, DOOR_DEV_MS = 50 };

/* A worker's own limit is worker.start_timeout: it should be the one to say which line takes so long. */
enum { START_GRACE_MS = 2000 };

struct master {
    const struct master_opts *opts;
    bool is_owner; /* it speaks for the server: lock, paths, systemd. Not yet, or no more, in an upgrade */
    bool is_up;
    bool is_retired; /* another master serves: no more of this one than to finish */
    bool is_alone;   /* the old master of an upgrade speaks for the server no more */
    bool is_told;    /* by an upgrade's old master, or by its death, to take over */
    int lock_fd, ops_fd, config_fd;
    struct segments segments;
    struct listen_set listeners;
    struct loop *loop;
    struct signal_watch *watches[5];
    struct supervisor *supervisor;
    struct ops *ops;
    struct ops_stop *ops_stop;
    struct ops_cache *ops_cache;
    struct master_reload *reload;
    struct scoreboard *board;
    struct reload_state *reload_state;
    struct status_board *status;
    struct admin *admin;
    struct upgrade *upgrade;
    struct sd_notify *notify;
    struct timer door;
    char url[ADDR_TEXT_MAX + 16];
    unsigned n_stops;
    struct err *err;
    int exit_code;
};

static void raise_nofile(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int seal_config(const struct config *config, struct err *err)
{
    struct buf json = {0};
    config_write_json(config, &json);
    int fd = shm_seal("chowk-config", buf_as_slice(&json), err);
    explicit_bzero(json.ptr, json.len); /* it held the secrets */
    buf_free(&json);
    return fd;
}

/* ---- events -------------------------------------------------------------------------------------------------- */

static void write_pid(struct master *master)
{
    struct err err = {0};
    if (run_dir_write(master->lock_fd, config_text(master->opts->config, CONFIG_LISTEN), &err) != OK)
        log_error("upgrade", LOG_S("error", err.message));
}

/* In an upgrade a Unix path cannot be shared, as a port can: it is opened when the old master has left it. */
static bool is_admin_later(const struct master *master)
{
    return master->opts->handover && strncmp(config_text(master->opts->config, CONFIG_ADMIN_LISTEN), "unix:", 5) == 0;
}

static enum status open_admin(struct master *master, struct err *err)
{
    const struct config *config = master->opts->config;
    struct admin_opts opts = {
        .loop = master->loop, .config = config, .status = master->status, .is_upgrade = master->opts->handover != NULL};
    if (admin_new(&opts, &master->admin, err) != OK)
        return ERR;
    if (master->admin)
        log_info("admin listener", LOG_S("url", admin_url(master->admin)));
    return OK;
}

/* From here on no other master speaks for the server. */
static void speak(struct master *master)
{
    struct err err = {0};
    if (is_admin_later(master) && open_admin(master, &err) != OK)
        log_error("no admin listener", LOG_S("error", err.message));
    sd_notify_ready(master->notify);
    sd_notify_status(master->notify, "chowk " CHOWK_VERSION " serves %s with %u workers", master->url,
                     config_workers(master->opts->config));
}

/* From here on this is the master that the pid file and the operator's socket mean. */
static void serve(struct master *master)
{
    write_pid(master);
    master->is_owner = true;
    ops_start(master->ops);
    master_reload_up(master->reload);
    status_set_up(master->status);
    master->opts->on_ready(master->opts->data, master->url);
}

static void take_over(struct master *master)
{
    if (!master->is_up || !master->is_told || master->is_owner || master->is_retired || master->n_stops > 0)
        return;
    serve(master);
    handover_say_serving(master->opts->handover);
    if (master->is_alone)
        speak(master);
}

static void on_up(void *data)
{
    struct master *master = data;
    master->is_up = true;
    if (master->n_stops > 0 || master->is_retired)
        return;
    if (master->is_owner) {
        serve(master);
        speak(master);
    } else if (master->is_told) {
        take_over(master);
    } else {
        handover_say_ready(master->opts->handover);
    }
}

static void on_down(void *data, const char *why)
{
    struct master *master = data;
    if (why) {
        err_set(master->err, ERR_UNAVAILABLE, "%s", why);
        master->exit_code = 1;
    }
    loop_stop(master->loop);
}

static void on_child(void *data, int signum UNUSED)
{
    struct master *master = data;
    unsigned n_before = supervisor_n_alive(master->supervisor);
    supervisor_reap(master->supervisor);
    unsigned n_alive = supervisor_n_alive(master->supervisor), n_slots = supervisor_n_slots(master->supervisor);
    if (n_alive != n_before)
        upgrade_left(master->upgrade, n_alive < n_slots ? n_alive : n_slots, n_slots);
    master_reload_reap(master->reload);
    upgrade_reap(master->upgrade);
    if (master->opts->on_child && master->n_stops == 0)
        master->opts->on_child(master->opts->data);
}

/* The last worker has stopped accepting a while ago: from now on clients are refused at once. */
static void on_door_shut(struct timer *timer)
{
    const struct master *master = container_of(timer, struct master, door);
    listen_shut(&master->listeners);
}

static uint32_t door_ms(const struct master *master)
{
    return config_is_development(master->opts->config) ? DOOR_DEV_MS : DOOR_MS;
}

static void on_lame_duck_end(struct timer *timer)
{
    struct master *master = container_of(timer, struct master, door);
    listen_refuse_new(&master->listeners);
    timer_arm(master->loop, timer, loop_now(master->loop) + 2 * door_ms(master), on_door_shut);
}

/* Readiness is off at once; for stop.lame_duck everybody is served; then nobody new is let in; what has been let in by
 * then is accepted and answered. Sockets that others serve on, or that are systemd's, stay as they are. */
static void stop_softly(struct master *master)
{
    uint32_t lame_duck_ms = (uint32_t)config_number(master->opts->config, CONFIG_STOP_LAME_DUCK);
    bool has_door = master->is_owner && !master->listeners.is_lent;
    if (has_door)
        timer_arm(master->loop, &master->door, loop_now(master->loop) + lame_duck_ms, on_lame_duck_end);
    supervisor_stop(master->supervisor, lame_duck_ms + (has_door ? door_ms(master) : 0));
}

static void stop(struct master *master, const char *why, bool now)
{
    master->n_stops++;
    master_reload_stop(master->reload);
    upgrade_stop(master->upgrade);
    status_set_stopping(master->status);
    if (master->n_stops == 1) {
        log_info("stopping", LOG_S("why", why));
        if (master->is_owner) {
            sd_notify_stopping(master->notify);
            sd_notify_status(master->notify, "finishing what is in flight");
        }
    }
    if (master->n_stops == 1 && !now) {
        stop_softly(master);
    } else {
        log_warn("stopping now");
        supervisor_stop(master->supervisor, 0);
        supervisor_kill(master->supervisor);
    }
}

static void on_stop(void *data, int signum)
{
    stop(data, strsignal(signum), false);
}

static void on_hup(void *data, int signum)
{
    struct master *master = data;
    if (early_stop_is_hangup())
        stop(master, strsignal(signum), false);
    else
        master_reload_hup(master->reload);
}

/* Files were moved away: every process opens new ones under their names. */
static void on_usr1(void *data, int signum UNUSED)
{
    const struct master *master = data;
    config_log_reopen();
    supervisor_reopen(master->supervisor);
}

static void on_slot(void *data, unsigned slot, enum supervisor_event event, const struct control_message *message)
{
    const struct master *master = data;
    master_reload_slot(master->reload, slot, event, message);
}

static void on_ops_stop(void *data, bool now)
{
    stop(data, "chowk stop", now);
}

static unsigned n_workers_alive(void *data)
{
    const struct master *master = data;
    return supervisor_n_alive(master->supervisor);
}

/* ---- an upgrade: the old master's side ------------------------------------------------------------------------- */

static const char *why_no_upgrade(void *data)
{
    const struct master *master = data;
    if (master->opts->no_upgrade)
        return master->opts->no_upgrade;
    if (master->n_stops > 0)
        return "the server is stopping";
    if (!master->is_up || !master->is_owner)
        return "the server is still starting";
    return master_reload_is_idle(master->reload) ? NULL : "a reload is in progress: try again when it is over";
}

static void on_upgrade(void *data, bool is_running)
{
    struct master *master = data;
    if (is_running)
        master_reload_hold(master->reload);
    else if (master->n_stops == 0)
        master_reload_up(master->reload);
    if (!is_running)
        write_pid(master); /* it may have written its own */
    sd_notify_status(master->notify, is_running ? "upgrade: the new server is starting"
                                                : "the last upgrade failed: the old server goes on");
}

/* Another master serves from the same sockets: what has been accepted here is finished, and nothing of the server goes
 * with it. The old master ends so after a handover, the new one when it has to give up. */
static void retire(struct master *master)
{
    master->is_owner = false;
    master->is_retired = true;
    admin_free(master->admin);
    master->admin = NULL;
    ops_stop(master->ops);
    master_reload_stop(master->reload);
    status_set_stopping(master->status);
    supervisor_leave(master->supervisor);
}

static void on_taken(void *data, pid_t heir)
{
    struct master *master = data;
    sd_notify_main_pid(master->notify, heir);
    retire(master);
}

/* ---- an upgrade: the new master's side ------------------------------------------------------------------------- */

static void give_up(struct master *master)
{
    err_set(master->err, ERR_UNAVAILABLE, "the old server did not wait any longer: it goes on");
    master->exit_code = 1;
    log_info("stopping", LOG_S("why", "the upgrade was given up"));
    retire(master);
}

static void on_handover(void *data, enum handover_event event, unsigned value)
{
    struct master *master = data;
    switch (event) {
    case HANDOVER_TAKE_OVER:
        if (!master->is_up)
            log_warn("the old master has ended: taking over as soon as all workers are ready");
        master->is_told = true;
        take_over(master);
        return;
    case HANDOVER_ALONE:
        master->is_alone = true;
        if (master->is_owner)
            speak(master);
        return;
    case HANDOVER_GIVE_UP:
        give_up(master);
        return;
    case HANDOVER_LEFT:
        supervisor_set_share(master->supervisor, 100 - value);
        return;
    }
    WRONG("handover event");
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static int take(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

/* Inherited if the old master's is this directory's: then there is no moment without a holder. */
static enum status open_run_dir(struct master *master, struct err *err)
{
    const struct config *config = master->opts->config;
    struct handover *handover = master->opts->handover;
    const char *dir = config_text(config, CONFIG_RUN_DIR);
    if (handover && run_dir_is_held(dir, handover->lock_fd)) {
        master->lock_fd = take(&handover->lock_fd);
        master->ops_fd = take(&handover->ops_fd);
    } else {
        master->lock_fd = run_dir_lock(dir, config_text(config, CONFIG_LISTEN), err);
        master->ops_fd = master->lock_fd < 0 ? -1 : ops_listen(dir, err);
    }
    return master->ops_fd < 0 ? ERR : OK;
}

static enum status open_listeners(struct master *master, struct err *err)
{
    const char *address = config_text(master->opts->config, CONFIG_LISTEN);
    unsigned n_workers = config_workers(master->opts->config);
    struct handover *handover = master->opts->handover;
    struct listen_given given;
    if (handover && (handover->listeners.is_lent || strcmp(handover->address, address) == 0))
        return listen_take(&master->listeners, &handover->listeners, n_workers, err);
    enum status status = handover ? AGAIN : listen_activated(&given, err);
    if (status == AGAIN)
        return listen_open(&master->listeners, address, n_workers, err);
    return status == OK ? listen_take(&master->listeners, &given, n_workers, err) : ERR;
}

static enum status open_segments(struct master *master, struct err *err)
{
    struct handover *handover = master->opts->handover;
    for (size_t i = 0; handover && i < handover->n_segments; i++)
        shm_offer(handover->segments[i]);
    if (handover)
        handover->n_segments = 0;
    enum status status = segments_create(&master->segments, master->opts->config, err);
    shm_offer_end();
    return status;
}

static void open_ops(struct master *master)
{
    int fd = take(&master->ops_fd);
    master->ops = ops_new(master->loop, fd);
    master->ops_stop = ops_stop_new(&(struct ops_stop_opts){
        .loop = master->loop, .ops = master->ops, .stop = on_ops_stop, .n_workers = n_workers_alive, .data = master});
    master->ops_cache = ops_cache_new(&(struct ops_cache_opts){
        .loop = master->loop, .ops = master->ops, .config = master->opts->config, .segments = &master->segments});
    master->upgrade = upgrade_new(&(struct upgrade_opts){.loop = master->loop,
                                                         .ops = master->ops,
                                                         .config = master->opts->config,
                                                         .listeners = &master->listeners,
                                                         .segments = &master->segments,
                                                         .lock_fd = master->lock_fd,
                                                         .why_not = why_no_upgrade,
                                                         .on_change = on_upgrade,
                                                         .on_taken = on_taken,
                                                         .data = master});
}

static enum status open_reload(struct master *master, struct err *err)
{
    const struct config *config = master->opts->config;
    struct master_reload_opts opts = {.loop = master->loop,
                                      .config = config,
                                      .config_fd = master->config_fd,
                                      .state_fd = master->segments.fds[SEGMENT_RELOAD],
                                      .n_processes = config_workers(config) + config_job_workers(config),
                                      .ops = master->ops,
                                      .notify = master->notify,
                                      .supervisor = master->supervisor};
    master->reload = master_reload_new(&opts, err);
    return master->reload ? OK : ERR;
}

/* What is counted, and what shows it. */
static enum status open_status(struct master *master, struct err *err)
{
    const struct config *config = master->opts->config;
    if (metrics_open(master->segments.fds[SEGMENT_METRICS], METRICS_MASTER, err) != OK)
        return ERR;
    master->reload_state = reload_state_attach(master->segments.fds[SEGMENT_RELOAD], err);
    if (!master->reload_state)
        return ERR;
    listen_url(&master->listeners, master->url, sizeof(master->url));
    master->status = status_board_new(&(struct status_opts){.loop = master->loop,
                                                            .config = config,
                                                            .board = master->board,
                                                            .reload = master->reload_state,
                                                            .url = master->url});
    ops_status_register(master->ops, master->status);
    return is_admin_later(master) ? OK : open_admin(master, err);
}

static enum status open_master(struct master *master, struct err *err)
{
    const struct config *config = master->opts->config;
    unsigned n_workers = config_workers(config);
    raise_nofile();
    if (open_run_dir(master, err) != OK || open_listeners(master, err) != OK)
        return ERR;
    master->config_fd = seal_config(config, err);
    if (master->config_fd < 0)
        return ERR;
    if (open_segments(master, err) != OK)
        return ERR;
    master->loop = loop_new();
    master->notify = sd_notify_new(master->loop, master->opts->handover != NULL);
    master->board = scoreboard_attach(master->segments.fds[SEGMENT_SCOREBOARD], err);
    if (!master->board)
        return ERR;
    struct supervisor_opts opts = {.loop = master->loop,
                                   .n_workers = n_workers,
                                   .n_job_workers = config_job_workers(config),
                                   .listeners = master->listeners.fds,
                                   .extra = master->listeners.extra,
                                   .n_extra = master->listeners.n_extra,
                                   .is_shared = master->listeners.is_shared,
                                   .config_fd = master->config_fd,
                                   .segments = &master->segments,
                                   .board = master->board,
                                   .stall_ms = (uint32_t)config_number(config, CONFIG_WORKER_STALL),
                                   .start_ms =
                                       (uint32_t)config_number(config, CONFIG_WORKER_START_TIMEOUT) + START_GRACE_MS,
                                   .max_memory = (uint64_t)config_number(config, CONFIG_WORKER_MAX_MEMORY),
                                   .drain_ms = (uint32_t)config_number(config, CONFIG_DRAIN),
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_slot = on_slot,
                                   .data = master};
    master->supervisor = supervisor_new(&opts);
    static const struct {
        int signum;
        void (*fn)(void *data, int signum);
    } watched[] = {{SIGTERM, on_stop}, {SIGINT, on_stop}, {SIGHUP, on_hup}, {SIGUSR1, on_usr1}, {SIGCHLD, on_child}};
    open_ops(master);
    if (open_status(master, err) != OK)
        return ERR;
    if (open_reload(master, err) != OK)
        return ERR;
    for (size_t i = 0; i < ARRAY_LEN(watched); i++)
        master->watches[i] = signal_watch_new(master->loop, watched[i].signum, watched[i].fn, master);
    if (early_stop_wants_reopen())
        config_log_reopen();
    if (master->opts->handover) {
        supervisor_set_share(master->supervisor, 0); /* the old master's workers have all there is */
        handover_watch(master->opts->handover, master->loop, on_handover, master);
    }
    return OK;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void close_master(struct master *master)
{
    if (master->supervisor)
        supervisor_free(master->supervisor);
    ops_stop_free(master->ops_stop);
    ops_cache_free(master->ops_cache);
    admin_free(master->admin);
    master_reload_free(master->reload);
    upgrade_free(master->upgrade);
    if (master->opts->handover)
        handover_unwatch(master->opts->handover);
    if (master->is_owner && master->ops)
        ops_unlink(config_text(master->opts->config, CONFIG_RUN_DIR)); /* while the lock is ours */
    ops_free(master->ops);
    sd_notify_free(master->notify);
    status_board_free(master->status);
    reload_state_detach(master->reload_state);
    scoreboard_detach(master->board);
    metrics_close();
    if (master->loop) {
        timer_stop(master->loop, &master->door);
        for (size_t i = 0; i < ARRAY_LEN(master->watches); i++)
            if (master->watches[i])
                signal_watch_free(master->watches[i]);
        loop_run(master->loop); /* until the last handle has closed */
        loop_free(master->loop);
    }
    segments_close(&master->segments);
    close_fd(master->config_fd);
    close_fd(master->ops_fd);
    master->listeners.is_ended |= !master->is_owner;
    listen_close(&master->listeners);
    if (master->is_owner)
        run_dir_unlock(master->lock_fd);
    else
        close_fd(master->lock_fd); /* the other one still holds the lock, and its pid is in the file */
}

int master_run(const struct master_opts *opts, struct err *err)
{
    struct master master = {.opts = opts,
                            .is_owner = !opts->handover,
                            .lock_fd = -1,
                            .ops_fd = -1,
                            .config_fd = -1,
                            .segments = SEGMENTS_NONE,
                            .err = err};
    signal(SIGPIPE, SIG_IGN);
    last_words_install_master(config_number(opts->config, CONFIG_WORKER_CORE_DUMPS) != 0);
    if (open_master(&master, err) != OK) {
        master.exit_code = 1;
    } else if (!early_stop_is_wanted()) { /* else: stopped while starting, and no worker need be born for that */
        supervisor_start(master.supervisor);
        loop_run(master.loop);
    }
    close_master(&master);
    return master.exit_code;
}
