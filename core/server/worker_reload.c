/* See worker_reload.h. Glue between the control channel, the committed number and script/generations. */
#include "server/worker_reload.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "bind/modules.h"
#include "script/generations.h"

struct worker_reload {
    struct worker_reload_opts opts;
    struct generations *set;
    uint32_t number; /* current; a copy, so that looking costs two reads */
    bool is_lost;
};

static void on_vote(void *data, uint32_t number, const char *refusal)
{
    const struct worker_reload *reload = data;
    control_send(reload->opts.control_fd, refusal ? CONTROL_REFUSED : CONTROL_PREPARED, number, refusal, -1);
}

static void show_current(struct worker_reload *reload)
{
    struct host *host = reload->opts.host;
    host->vm = generations_vm(reload->set);
    host->bundle = generations_bundle(reload->set);
    reload->number = generations_number(reload->set);
    if (reload->opts.http)
        http_server_set_router(reload->opts.http, vm_router(host->vm), slice_str(bundle_hash(host->bundle)));
}

static void note_code(void *data, struct buf *out)
{
    const struct worker_reload *reload = data;
    struct reload_view view;
    if (reload_state_read(reload->opts.state, &view) == OK && view.is_last_failed)
        buf_printf(out, "This is older code: the last reload failed. %s", view.error);
}

static void on_current(void *data)
{
    struct worker_reload *reload = data;
    show_current(reload);
    reload->opts.on_current(reload->opts.data);
}

void worker_reload_look(struct worker_reload *reload)
{
    uint32_t committed = reload_state_committed(reload->opts.state);
    if (committed == reload->number || reload->is_lost || generations_commit(reload->set, committed))
        return;
    reload->is_lost = true;
    log_error("this worker does not have the committed code", LOG_I("generation", reload->number),
              LOG_I("committed", committed));
    reload->opts.on_lost(reload->opts.data);
}

void worker_reload_message(struct worker_reload *reload, const struct control_message *message)
{
    worker_reload_look(reload);
    if (message->type == CONTROL_PREPARE && message->fd >= 0)
        generations_prepare(reload->set, message->value, message->fd);
    else if (message->fd >= 0)
        close(message->fd);
    if (message->type == CONTROL_ABORT)
        generations_abort(reload->set, message->value);
}

void worker_reload_stop(struct worker_reload *reload)
{
    generations_stop(reload->set);
}

struct worker_reload *worker_reload_new(const struct worker_reload_opts *opts)
{
    struct worker_reload *reload = xalloc(sizeof(*reload));
    const struct config *config = opts->config;
    *reload = (struct worker_reload){.opts = *opts};
    struct generations_opts generations = {.env = &opts->host->env,
                                           .modules = bind_modules,
                                           .main = config_text(config, CONFIG_APP_MAIN),
                                           .drain_ms = (uint32_t)config_number(config, CONFIG_DRAIN),
                                           .stream_drain_ms =
                                               (uint32_t)config_number(config, CONFIG_RELOAD_STREAM_DRAIN),
                                           .load_ms = (uint32_t)config_number(config, CONFIG_RELOAD_TIMEOUT),
                                           .load_bytes = (size_t)config_number(config, CONFIG_RELOAD_MAX_MEMORY),
                                           .max = (unsigned)config_number(config, CONFIG_RELOAD_MAX_GENERATIONS),
                                           .on_vote = on_vote,
                                           .on_current = on_current,
                                           .data = reload};
    reload->set = generations_new(&generations, opts->number, opts->host->vm, opts->host->bundle);
    show_current(reload);
    opts->host->env.note_code = note_code;
    opts->host->env.note_data = reload;
    return reload;
}

void worker_reload_free(struct worker_reload *reload)
{
    if (!reload)
        return;
    generations_free(reload->set);
    reload->opts.host->vm = NULL;
    reload->opts.host->bundle = NULL;
    free(reload);
}

uint32_t worker_reload_number(const struct worker_reload *reload)
{
    return reload->number;
}

unsigned worker_reload_alive(const struct worker_reload *reload)
{
    return generations_alive(reload->set);
}

size_t worker_reload_active(const struct worker_reload *reload)
{
    return generations_active(reload->set);
}

size_t worker_reload_bytes(const struct worker_reload *reload)
{
    return generations_bytes(reload->set);
}
