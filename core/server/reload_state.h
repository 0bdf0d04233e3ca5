/* What every process of one server may know about its code, in shared memory: the number of the committed generation,
 * which is what commits a reload, and how reloads went. Written by the master alone. It belongs to one master: an
 * upgrade makes a new one, because both masters' workers live at the same time. */
#pragma once

#include <stdatomic.h>

#include "base/err.h"

enum { RELOAD_HASH = 16, RELOAD_ERROR = 4096 }; /* bytes, with their NUL */

struct reload_state;

int reload_state_segment_create(struct err *err) MUST_CHECK;                  /* owned memfd, or -1 */
struct reload_state *reload_state_attach(int fd, struct err *err) MUST_CHECK; /* mapped until detached; or NULL */
void reload_state_detach(struct reload_state *state);                         /* NULL is fine */

/* The generation that new requests get, from 1. One atomic read: cheap enough for each request. */
uint32_t reload_state_committed(const struct reload_state *state);

/* The master: from the moment it returns, no worker starts a request in another generation. */
void reload_state_commit(struct reload_state *state, uint32_t number, const char *hash, uint32_t n_routes);
/* A reload failed: `error` is what its asker was told, cut to fit. */
void reload_state_fail(struct reload_state *state, const char *error);

struct reload_view {
    uint32_t number, n_routes; /* n_routes is 0 for the first generation */
    char hash[RELOAD_HASH];
    int64_t committed_wall_ms;
    uint64_t n_ok, n_failed;  /* reloads since the start */
    bool is_last_failed;      /* the last one tried failed: what is on disk is not what serves */
    int64_t error_wall_ms;    /* of the last failure; 0: there was none */
    char error[RELOAD_ERROR]; /* "file:line: message", then the traceback; "" = none */
};
/* AGAIN: it was being written all the while. */
enum status reload_state_read(const struct reload_state *state, struct reload_view *out) MUST_CHECK;
