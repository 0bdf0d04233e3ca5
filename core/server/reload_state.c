/* See reload_state.h. The view is guarded by a sequence number, odd while it is written: readers copy and look again.
 */
#include "server/reload_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/shm.h"

struct body {
    _Atomic uint32_t committed;
    _Alignas(64) _Atomic uint32_t sequence;
    struct reload_view view;
};

struct reload_state {
    struct body *body;
    struct shm_segment segment;
};

static const struct shm_layout layout = {
    .name = "chowk-reload", .magic = 0x4e10ad01u, .version = 1, .size = sizeof(struct body)};

int reload_state_segment_create(struct err *err)
{
    return shm_create(&layout, err);
}

struct reload_state *reload_state_attach(int fd, struct err *err)
{
    struct reload_state *state = xalloc(sizeof(*state));
    if (shm_attach(fd, &layout, &state->segment, err) != OK) {
        free(state);
        return NULL;
    }
    state->body = state->segment.body;
    return state;
}

void reload_state_detach(struct reload_state *state)
{
    if (!state)
        return;
    shm_detach(&state->segment);
    free(state);
}

uint32_t reload_state_committed(const struct reload_state *state)
{
    return atomic_load_explicit(&state->body->committed, memory_order_acquire);
}

static void write_begin(struct body *body)
{
    atomic_fetch_add_explicit(&body->sequence, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static void write_end(struct body *body)
{
    atomic_fetch_add_explicit(&body->sequence, 1, memory_order_release);
}

void reload_state_commit(struct reload_state *state, uint32_t number, const char *hash, uint32_t n_routes)
{
    struct body *body = state->body;
    struct reload_view *view = &body->view;
    write_begin(body);
    view->n_ok += view->number > 0;
    view->number = number;
    view->n_routes = n_routes;
    view->committed_wall_ms = clock_wall_ms();
    view->is_last_failed = false;
    snprintf(view->hash, sizeof(view->hash), "%s", hash);
    write_end(body);
    atomic_store_explicit(&body->committed, number, memory_order_release);
}

void reload_state_fail(struct reload_state *state, const char *error)
{
    struct body *body = state->body;
    write_begin(body);
    body->view.n_failed++;
    body->view.is_last_failed = true;
    body->view.error_wall_ms = clock_wall_ms();
    snprintf(body->view.error, sizeof(body->view.error), "%s", error);
    write_end(body);
}

enum status reload_state_read(const struct reload_state *state, struct reload_view *out)
{
    struct body *body = state->body;
    for (int i = 0; i < 100; i++) {
        uint32_t before = atomic_load_explicit(&body->sequence, memory_order_acquire);
        memcpy(out, &body->view, sizeof(*out));
        atomic_thread_fence(memory_order_acquire);
        uint32_t after = atomic_load_explicit(&body->sequence, memory_order_relaxed);
        if (before == after && before % 2 == 0)
            return OK;
    }
    return AGAIN;
}
