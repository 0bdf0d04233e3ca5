/* A worker's side of a reload: it answers the master's messages and follows the committed number. The number decides,
 * not the message: a message only makes the worker look (DESIGN 3). */
#pragma once

#include "http/server.h"
#include "server/config.h"
#include "server/control.h"
#include "server/host.h"
#include "server/reload_state.h"

struct worker_reload;

struct worker_reload_opts {
    struct host *host; /* its vm and bundle are taken over; these two fields always show the current generation's */
    const struct config *config;      /* borrowed, like all here */
    struct http_server *http;         /* NULL: a job worker */
    const struct reload_state *state; /* shared with the master */
    int control_fd;
    uint32_t number; /* of the generation the host has loaded */
    /* The current generation has changed; `host` shows the new one. */
    void (*on_current)(void *data);
    /* A number is committed that this worker cannot get to: it must be replaced. */
    void (*on_lost)(void *data);
    void *data;
};

struct worker_reload *worker_reload_new(const struct worker_reload_opts *opts);
void worker_reload_free(struct worker_reload *reload); /* every generation; host->vm and ->bundle are NULL after it */

/* CONTROL_PREPARE, CONTROL_ABORT, CONTROL_COMMIT; takes the descriptor. */
void worker_reload_message(struct worker_reload *reload, const struct control_message *message);
/* Looks at the committed number: at each beat, and before each request is routed. */
void worker_reload_look(struct worker_reload *reload);
void worker_reload_stop(struct worker_reload *reload); /* the end of the service: app.on_stop of the current one */

uint32_t worker_reload_number(const struct worker_reload *reload);
unsigned worker_reload_alive(const struct worker_reload *reload); /* generations not closed yet */
size_t worker_reload_active(const struct worker_reload *reload);  /* coroutines of all generations */
size_t worker_reload_bytes(const struct worker_reload *reload);   /* Lua heap of all generations */
