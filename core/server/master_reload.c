/* See master_reload.h. No decisions here: who asks is passed on to reload.c, what it wants done is done. */
#include "server/master_reload.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "script/bundle.h"
#include "server/checker.h"
#include "server/host.h"
#include "server/reload.h"
#include "server/tree_watch.h"

enum {
    VOTE_GRACE_MS = 2000
}; /* a worker's own limit is reload.timeout: it should be the one to say what takes so long */

struct master_reload {
    struct master_reload_opts opts;
    struct reload_state *state;
    struct reload *reload;
    struct checker *checker; /* NULL: no check runs */
    struct tree_watch *watch;
};

/* ---- what reload.c wants done --------------------------------------------------------------------------------- */

static enum reload_presence presence(void *data, unsigned slot)
{
    const struct master_reload *reload = data;
    switch (supervisor_presence(reload->opts.supervisor, slot)) {
    case SUPERVISOR_ABSENT:
        return RELOAD_ABSENT;
    case SUPERVISOR_STARTING:
        return RELOAD_STARTING;
    case SUPERVISOR_SERVING:
        return RELOAD_READY;
    }
    WRONG("presence");
}

static enum status send_to(void *data, unsigned slot, enum control_type type, uint32_t number, int fd)
{
    const struct master_reload *reload = data;
    return supervisor_send(reload->opts.supervisor, slot, type, number, fd);
}

static void on_checked(void *data, const struct reload_checked *result)
{
    struct master_reload *reload = data;
    reload->checker = NULL;
    if (result)
        reload_checked(reload->reload, result);
}

static enum status start_check(void *data, struct err *err)
{
    struct master_reload *reload = data;
    struct checker_opts opts = {.loop = reload->opts.loop,
                                .config_fd = reload->opts.config_fd,
                                .n_processes = reload->opts.n_processes,
                                .timeout_ms = (uint32_t)config_number(reload->opts.config, CONFIG_RELOAD_TIMEOUT),
                                .done = on_checked,
                                .data = reload};
    reload->checker = checker_start(&opts, err);
    return reload->checker ? OK : ERR;
}

static void stop_check(void *data)
{
    const struct master_reload *reload = data;
    checker_stop(reload->checker);
}

static void on_busy(void *data, bool is_busy)
{
    const struct master_reload *reload = data;
    if (is_busy)
        sd_notify_reloading(reload->opts.notify);
    else
        sd_notify_ready(reload->opts.notify);
}

static void on_commit(void *data, int bundle_fd, uint32_t number)
{
    const struct master_reload *reload = data;
    supervisor_set_code(reload->opts.supervisor, bundle_fd, number);
}

/* ---- who asks ------------------------------------------------------------------------------------------------- */

static void on_answer(void *data, const struct reload_result *result)
{
    struct ops_call *call = data;
    struct buf json = {0};
    buf_printf(&json, "{\"is_ok\":%s,\"generation\":%u,\"hash\":\"%s\",\"routes\":%u,\"ms\":%llu,\"error\":",
               result->is_ok ? "true" : "false", result->number, result->hash, result->n_routes,
               (unsigned long long)result->took_ms);
    json_write_string(&json, slice_str(result->error ? result->error : ""));
    buf_byte(&json, '}');
    ops_done(call, buf_as_slice(&json));
    buf_free(&json);
}

static void on_ops_reload(void *data, struct ops_call *call)
{
    const struct master_reload *reload = data;
    enum reload_kind kind = ops_has_arg(call, "--rollback") ? RELOAD_ROLLBACK : RELOAD_FROM_DISK;
    reload_begin(reload->reload, kind, on_answer, call);
}

/* The log has said all there is to say. */
static void on_done(void *data UNUSED, const struct reload_result *result UNUSED) {}

void master_reload_hup(struct master_reload *reload)
{
    reload_begin(reload->reload, RELOAD_FROM_DISK, on_done, NULL);
}

static void on_save(void *data)
{
    const struct master_reload *reload = data;
    reload_begin(reload->reload, RELOAD_ON_SAVE, on_done, NULL);
}

static void on_conf(void *data UNUSED)
{
    log_warn("conf/chowk.lua has changed: the configuration is read at the start, so restart to apply it");
}

/* ---- events --------------------------------------------------------------------------------------------------- */

void master_reload_slot(struct master_reload *reload, unsigned slot, enum supervisor_event event,
                        const struct control_message *message)
{
    if (!reload)
        return;
    switch (event) {
    case SUPERVISOR_ON_READY:
        reload_on_ready(reload->reload, slot);
        return;
    case SUPERVISOR_ON_GONE:
        reload_on_gone(reload->reload, slot);
        return;
    case SUPERVISOR_ON_MESSAGE:
        if (message->type == CONTROL_PREPARED)
            reload_on_vote(reload->reload, slot, message->value, NULL);
        else if (message->type == CONTROL_REFUSED)
            reload_on_vote(reload->reload, slot, message->value, message->text);
        return;
    }
    WRONG("supervisor event");
}

void master_reload_reap(struct master_reload *reload)
{
    checker_reap(reload->checker);
}

void master_reload_up(struct master_reload *reload)
{
    reload_up(reload->reload);
}

void master_reload_hold(struct master_reload *reload)
{
    reload_hold(reload->reload);
}

bool master_reload_is_idle(const struct master_reload *reload)
{
    return reload_is_idle(reload->reload);
}

void master_reload_stop(struct master_reload *reload)
{
    tree_watch_free(reload->watch);
    reload->watch = NULL;
    reload_stop(reload->reload);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void open_watch(struct master_reload *reload)
{
    const struct config *config = reload->opts.config;
    if (config_number(config, CONFIG_RELOAD_WATCH))
        reload->watch = tree_watch_new(&(struct tree_watch_opts){.loop = reload->opts.loop,
                                                                 .root = config_text(config, CONFIG_APP_ROOT),
                                                                 .on_save = on_save,
                                                                 .on_conf = on_conf,
                                                                 .data = reload});
}

static enum status open_machine(struct master_reload *reload, int bundle_fd, struct err *err)
{
    const struct master_reload_opts *opts = &reload->opts;
    struct bundle *bundle = bundle_open(bundle_fd, err);
    if (!bundle)
        return ERR;
    reload->state = reload_state_attach(opts->state_fd, err);
    if (reload->state) {
        struct reload_opts machine = {.loop = opts->loop,
                                      .state = reload->state,
                                      .timeout_ms =
                                          (uint32_t)config_number(opts->config, CONFIG_RELOAD_TIMEOUT) + VOTE_GRACE_MS,
                                      .n_slots = supervisor_n_slots(opts->supervisor),
                                      .presence = presence,
                                      .send = send_to,
                                      .start_check = start_check,
                                      .stop_check = stop_check,
                                      .on_busy = on_busy,
                                      .on_commit = on_commit,
                                      .data = reload};
        reload->reload = reload_new(&machine, bundle_fd, bundle_hash(bundle));
    }
    bundle_free(bundle);
    return reload->state ? OK : ERR;
}

struct master_reload *master_reload_new(const struct master_reload_opts *opts, struct err *err)
{
    struct master_reload *reload = xalloc(sizeof(*reload));
    reload->opts = *opts;
    open_watch(reload); /* before the files are read: what is saved from now on is seen */
    int bundle_fd = host_build_bundle(opts->config, err);
    if (bundle_fd < 0 || open_machine(reload, bundle_fd, err) != OK) {
        if (bundle_fd >= 0)
            close(bundle_fd);
        master_reload_free(reload);
        return NULL;
    }
    supervisor_set_code(opts->supervisor, bundle_fd, 1);
    ops_register(opts->ops, "reload", 0, on_ops_reload, reload);
    return reload;
}

void master_reload_free(struct master_reload *reload)
{
    if (!reload)
        return;
    tree_watch_free(reload->watch);
    checker_free(reload->checker);
    reload_free(reload->reload);
    reload_state_detach(reload->state);
    free(reload);
}
