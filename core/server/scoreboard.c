#include "server/scoreboard.h"

#include <sys/stat.h>

#include "base/clock.h"
#include "base/shm.h"

#define SCOREBOARD_MAGIC 0x5c04eb0au

enum { SCOREBOARD_VERSION = 3 };

static struct shm_layout layout_of(unsigned n_slots)
{
    return (struct shm_layout){.name = "chowk-scoreboard",
                               .magic = SCOREBOARD_MAGIC,
                               .version = SCOREBOARD_VERSION,
                               .size = sizeof(struct scoreboard) + n_slots * sizeof(struct scoreboard_slot)};
}

int scoreboard_segment_create(unsigned n_workers, struct err *err)
{
    struct shm_layout layout = layout_of(n_workers + SCOREBOARD_EXTRA);
    return shm_create(&layout, err);
}

/* The number of slots is what the segment's size says. */
static unsigned slots_of(int fd)
{
    struct stat st;
    size_t fixed = SHM_BODY_ALIGN + sizeof(struct scoreboard);
    if (fstat(fd, &st) != 0 || (size_t)st.st_size < fixed)
        return 0;
    return (unsigned)(((size_t)st.st_size - fixed) / sizeof(struct scoreboard_slot));
}

struct scoreboard *scoreboard_attach(int fd, struct err *err)
{
    unsigned n_slots = slots_of(fd);
    struct shm_layout layout = layout_of(n_slots);
    struct shm_segment segment;
    if (shm_attach(fd, &layout, &segment, err) != OK)
        return NULL;
    struct scoreboard *board = segment.body;
    board->n_slots = n_slots;
    return board;
}

void scoreboard_detach(struct scoreboard *board)
{
    if (!board)
        return;
    struct shm_segment segment = {.body = board, .mapped_len = SHM_BODY_ALIGN + layout_of(board->n_slots).size};
    shm_detach(&segment);
}

static void set32(_Atomic uint32_t *field, uint32_t value)
{
    atomic_store_explicit(field, value, memory_order_relaxed);
}

static void set64(_Atomic uint64_t *field, uint64_t value)
{
    atomic_store_explicit(field, value, memory_order_relaxed);
}

void scoreboard_take(struct scoreboard_slot *slot, unsigned worker)
{
    running_reset(&slot->running);
    memset(&slot->report, 0, sizeof(slot->report));
    memset(slot->generation_hash, 0, sizeof(slot->generation_hash));
    _Atomic uint64_t *const of_process[] = {&slot->requests, &slot->responses_5xx, &slot->lua_heap, &slot->rss};
    for (size_t i = 0; i < ARRAY_LEN(of_process); i++)
        set64(of_process[i], 0);
    set64(&slot->asked_beat_ms, 0);
    set32(&slot->connections, 0);
    set32(&slot->in_flight, 0);
    set32(&slot->generation, 0);
    set32(&slot->n_generations, 0);
    set32(&slot->worker, worker);
    set64(&slot->beat_ms, clock_ms());
    atomic_store_explicit(&slot->started_wall_ms, clock_wall_ms(), memory_order_relaxed);
    atomic_store_explicit(&slot->state, SCOREBOARD_STARTING, memory_order_release);
}

void scoreboard_release(struct scoreboard_slot *slot)
{
    set32(&slot->pid, 0);
    atomic_store_explicit(&slot->state, SCOREBOARD_FREE, memory_order_release);
}

bool scoreboard_read(const struct scoreboard *board, unsigned i, struct scoreboard_view *out)
{
    const struct scoreboard_slot *slot = &board->slots[i];
    CHECK(i < board->n_slots);
    *out = (struct scoreboard_view){.state = atomic_load_explicit(&slot->state, memory_order_acquire)};
    if (out->state == SCOREBOARD_FREE)
        return false;
#define COPY(field) out->field = atomic_load_explicit(&slot->field, memory_order_relaxed)
    COPY(pid);
    COPY(worker);
    COPY(connections);
    COPY(in_flight);
    COPY(generation);
    COPY(n_generations);
    COPY(started_wall_ms);
    COPY(beat_ms);
    COPY(requests);
    COPY(responses_5xx);
    COPY(lua_heap);
    COPY(rss);
#undef COPY
    memcpy(out->generation_hash, slot->generation_hash, sizeof(out->generation_hash));
    out->generation_hash[SCOREBOARD_HASH - 1] = '\0';
    if (running_read(&slot->running, &out->running) != OK)
        out->running = (struct running_view){0};
    return true;
}

const char *scoreboard_state_name(enum scoreboard_state state)
{
    static const char *const names[] = {"free", "starting", "serving", "draining"};
    return (size_t)state < ARRAY_LEN(names) ? names[state] : "unknown";
}

void scoreboard_sum(const struct scoreboard *board, struct scoreboard_totals *out)
{
    *out = (struct scoreboard_totals){.deaths = board->n_deaths,
                                      .crashes = board->n_crashes,
                                      .stalls = board->n_stalls,
                                      .recycled = board->n_recycled,
                                      .failed = board->n_failed};
    for (unsigned i = 0; i < board->n_slots; i++) {
        out->out_of_memory += board->slots[i].running.n_out_of_memory;
        out->slow_turns += board->slots[i].running.n_slow_turns;
    }
}
