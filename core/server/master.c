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
#include "server/admin.h"
#include "server/config_json.h"
#include "server/early_stop.h"
#include "server/host.h"
#include "server/listen.h"
#include "server/master_reload.h"
#include "server/ops.h"
#include "server/ops_cache.h"
#include "server/ops_status.h"
#include "server/ops_stop.h"
#include "server/run_dir.h"
#include "server/supervisor.h"

struct master {
    const struct master_opts *opts;
    int lock_fd, config_fd;
    struct segments segments;
    struct listen_set listeners;
    struct loop *loop;
    struct signal_watch *watches[4];
    struct supervisor *supervisor;
    struct ops *ops;
    struct ops_stop *ops_stop;
    struct ops_cache *ops_cache;
    struct master_reload *reload;
    struct scoreboard *board;
    struct reload_state *reload_state;
    struct status_board *status;
    struct admin *admin;
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

static void on_up(void *data)
{
    struct master *master = data;
    if (master->n_stops > 0)
        return;
    master_reload_up(master->reload);
    status_set_up(master->status);
    master->opts->on_ready(master->opts->data, master->url);
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
    supervisor_reap(master->supervisor);
    master_reload_reap(master->reload);
    if (master->opts->on_child && master->n_stops == 0)
        master->opts->on_child(master->opts->data);
}

static void stop(struct master *master, const char *why, bool now)
{
    const struct config *config = master->opts->config;
    master->n_stops++;
    master_reload_stop(master->reload);
    status_set_stopping(master->status);
    if (master->n_stops == 1)
        log_info("stopping", LOG_S("why", why));
    if (master->n_stops == 1 && !now) {
        supervisor_stop(master->supervisor, (uint32_t)config_number(config, CONFIG_STOP_LAME_DUCK));
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

/* ---- life ---------------------------------------------------------------------------------------------------- */

static enum status open_ops(struct master *master, struct err *err)
{
    int fd = ops_listen(config_text(master->opts->config, CONFIG_RUN_DIR), err);
    if (fd < 0)
        return ERR;
    master->ops = ops_new(master->loop, fd);
    master->ops_stop = ops_stop_new(&(struct ops_stop_opts){
        .loop = master->loop, .ops = master->ops, .stop = on_ops_stop, .n_workers = n_workers_alive, .data = master});
    master->ops_cache = ops_cache_new(&(struct ops_cache_opts){
        .loop = master->loop, .ops = master->ops, .config = master->opts->config, .segments = &master->segments});
    return OK;
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
    struct admin_opts admin = {.loop = master->loop, .config = config, .status = master->status};
    if (admin_new(&admin, &master->admin, err) != OK)
        return ERR;
    if (master->admin)
        log_info("admin listener", LOG_S("url", admin_url(master->admin)));
    return OK;
}

static enum status open_master(struct master *master, struct err *err)
{
    const struct config *config = master->opts->config;
    unsigned n_workers = config_workers(config);
    raise_nofile();
    master->lock_fd = run_dir_lock(config_text(config, CONFIG_RUN_DIR), config_text(config, CONFIG_LISTEN), err);
    if (master->lock_fd < 0)
        return ERR;
    if (listen_open(&master->listeners, config_text(config, CONFIG_LISTEN), n_workers, err) != OK)
        return ERR;
    master->config_fd = seal_config(config, err);
    if (master->config_fd < 0)
        return ERR;
    if (segments_create(&master->segments, config, err) != OK)
        return ERR;
    master->loop = loop_new();
    master->board = scoreboard_attach(master->segments.fds[SEGMENT_SCOREBOARD], err);
    if (!master->board)
        return ERR;
    struct supervisor_opts opts = {.loop = master->loop,
                                   .n_workers = n_workers,
                                   .n_job_workers = config_job_workers(config),
                                   .listeners = master->listeners.fds,
                                   .config_fd = master->config_fd,
                                   .segments = &master->segments,
                                   .board = master->board,
                                   .stall_ms = (uint32_t)config_number(config, CONFIG_WORKER_STALL),
                                   .drain_ms = (uint32_t)config_number(config, CONFIG_DRAIN),
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_slot = on_slot,
                                   .data = master};
    master->supervisor = supervisor_new(&opts);
    static const struct {
        int signum;
        void (*fn)(void *data, int signum);
    } watched[] = {{SIGTERM, on_stop}, {SIGINT, on_stop}, {SIGHUP, on_hup}, {SIGCHLD, on_child}};
    if (open_ops(master, err) != OK || open_status(master, err) != OK)
        return ERR;
    if (open_reload(master, err) != OK)
        return ERR;
    for (size_t i = 0; i < ARRAY_LEN(watched); i++)
        master->watches[i] = signal_watch_new(master->loop, watched[i].signum, watched[i].fn, master);
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
    if (master->ops) {
        ops_unlink(config_text(master->opts->config, CONFIG_RUN_DIR)); /* while the lock is ours */
        ops_free(master->ops);
    }
    status_board_free(master->status);
    reload_state_detach(master->reload_state);
    scoreboard_detach(master->board);
    metrics_close();
    if (master->loop) {
        for (size_t i = 0; i < ARRAY_LEN(master->watches); i++)
            if (master->watches[i])
                signal_watch_free(master->watches[i]);
        loop_run(master->loop); /* until the last handle has closed */
        loop_free(master->loop);
    }
    segments_close(&master->segments);
    close_fd(master->config_fd);
    listen_close(&master->listeners);
    run_dir_unlock(master->lock_fd);
}

int master_run(const struct master_opts *opts, struct err *err)
{
    struct master master = {.opts = opts, .lock_fd = -1, .config_fd = -1, .segments = SEGMENTS_NONE, .err = err};
    signal(SIGPIPE, SIG_IGN);
    if (open_master(&master, err) != OK) {
        master.exit_code = 1;
    } else if (!early_stop_is_wanted()) { /* else: stopped while starting, and no worker need be born for that */
        supervisor_start(master.supervisor);
        loop_run(master.loop);
    }
    close_master(&master);
    return master.exit_code;
}
