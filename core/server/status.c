/* Collects, and keeps what cannot be looked up: the last seconds' latencies (a ring of snapshots of the slots'
 * histograms, one a second) and what the master has told. */
#include "server/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/timer.h"
#include "server/process_stats.h"

#define STATUS_MAGIC 0x57a70501u

enum { EVERY_MS = 1000, SNAPSHOTS = 10 };

struct snapshot {
    uint64_t ms; /* 0: not taken yet */
    struct metrics_latency *slots;
};

struct status_board {
    unsigned magic;
    struct status_opts opts;
    struct timer timer;
    int64_t started_wall_ms;
    uint64_t started_ms;
    bool is_up, is_stopping;
    unsigned n_slots, next;
    struct snapshot snapshots[SNAPSHOTS];
};

/* ---- rates --------------------------------------------------------------------------------------------------- */

static void take_snapshot(struct status_board *board)
{
    struct snapshot *snapshot = &board->snapshots[board->next];
    board->next = (board->next + 1) % SNAPSHOTS;
    snapshot->ms = loop_now(board->opts.loop);
    memset(snapshot->slots, 0, board->n_slots * sizeof(*snapshot->slots));
    for (unsigned i = 0; i < board->n_slots; i++)
        metrics_latency_of(i, &snapshot->slots[i]);
}

static void on_timer(struct timer *timer)
{
    struct status_board *board = container_of(timer, struct status_board, timer);
    take_snapshot(board);
    timer_arm(board->opts.loop, timer, loop_now(board->opts.loop) + EVERY_MS, on_timer);
}

static const struct snapshot *oldest(const struct status_board *board)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        const struct snapshot *snapshot = &board->snapshots[(board->next + i) % SNAPSHOTS];
        if (snapshot->ms)
            return snapshot;
    }
    return NULL;
}

/* What slot has counted since `then`, added to *out. */
static void add_since(const struct snapshot *then, unsigned slot, struct metrics_latency *out)
{
    struct metrics_latency now = {0};
    metrics_latency_of(slot, &now);
    for (unsigned i = 0; i < METRICS_LATENCY_BUCKETS; i++)
        out->buckets[i] += now.buckets[i] - then->slots[slot].buckets[i];
}

static struct status_rate rate_of(const struct metrics_latency *latency, uint64_t since_ms)
{
    double seconds = (double)(clock_ms() - since_ms) / 1000;
    return (struct status_rate){.per_s = (double)metrics_latency_count(latency) / (seconds > 0.1 ? seconds : 0.1),
                                .p50_us = metrics_latency_quantile(latency, 0.5),
                                .p99_us = metrics_latency_quantile(latency, 0.99)};
}

/* ---- what the master tells ----------------------------------------------------------------------------------- */

void status_set_up(struct status_board *board)
{
    board->is_up = true;
}

void status_set_stopping(struct status_board *board)
{
    board->is_stopping = true;
}

/* ---- collecting ---------------------------------------------------------------------------------------------- */

/* Workers; the processes numbered after them run jobs. */
static unsigned count_serving(const struct status_board *board)
{
    unsigned n = 0, n_workers = config_workers(board->opts.config);
    struct scoreboard_view view;
    for (unsigned i = 0; i < board->opts.board->n_slots; i++)
        n +=
            scoreboard_read(board->opts.board, i, &view) && view.state == SCOREBOARD_SERVING && view.worker < n_workers;
    return n;
}

bool status_is_ready(const struct status_board *board)
{
    return board->is_up && !board->is_stopping && board->opts.board->n_failed == 0 && count_serving(board) > 0;
}

static bool find_view(const struct scoreboard *board, int pid, struct scoreboard_view *out)
{
    for (unsigned i = 0; i < board->n_slots; i++)
        if (scoreboard_read(board, i, out) && out->pid == (uint32_t)pid)
            return true;
    return false;
}

static void fill_from_board(const struct scoreboard *board, struct status_process *process)
{
    struct scoreboard_view view;
    if (!find_view(board, process->pid, &view))
        return;
    process->state = scoreboard_state_name(view.state);
    process->generation = view.generation;
    process->n_generations = view.n_generations;
    process->in_flight = view.in_flight;
    process->connections = view.connections;
    process->beat_age_ms = view.beat_ms ? clock_ms() - view.beat_ms : 0;
    process->running = view.running;
    memcpy(process->hash, view.generation_hash, sizeof(process->hash));
}

static uint64_t requests_of(unsigned slot)
{
    struct metrics_latency latency = {0};
    metrics_latency_of(slot, &latency);
    return metrics_latency_count(&latency);
}

static void fill_process(struct status_board *board, const struct metrics_process *from, struct status_process *out)
{
    struct process_stats stats;
    struct metrics_latency latency = {0};
    const struct snapshot *then = oldest(board);
    *out = (struct status_process){.pid = from->pid, .state = "running"};
    memcpy(out->name, from->name, sizeof(out->name));
    out->requests = requests_of(from->slot);
    out->lua_heap = metrics_value_of(from->slot, METRIC_LUA_HEAP);
    out->in_flight = metrics_value_of(from->slot, METRIC_HTTP_INFLIGHT);
    out->connections =
        metrics_value_of(from->slot, METRIC_HTTP_IDLE) + metrics_value_of(from->slot, METRIC_HTTP_ACTIVE);
    if (process_stats_read(from->pid, &stats)) {
        out->rss = stats.resident_bytes;
        out->uptime_ms = clock_wall_ms() - stats.started_wall_ms;
    }
    fill_from_board(board->opts.board, out);
    if (then) {
        add_since(then, from->slot, &latency);
        out->rate = rate_of(&latency, then->ms);
    }
}

static void fill_rate(struct status_board *board, struct status_report *out)
{
    const struct snapshot *then = oldest(board);
    struct metrics_latency latency = {0};
    for (unsigned i = 0; i < board->n_slots; i++) {
        out->requests += requests_of(i);
        if (then)
            add_since(then, i, &latency);
    }
    if (then)
        out->rate = rate_of(&latency, then->ms);
}

/* Workers, then those that run jobs, each by number. */
static int by_role(const void *a, const void *b)
{
    const struct status_process *x = a, *y = b;
    bool is_x_jobs = strncmp(x->name, "jobs", 4) == 0, is_y_jobs = strncmp(y->name, "jobs", 4) == 0;
    return is_x_jobs != is_y_jobs ? is_x_jobs - is_y_jobs : strverscmp(x->name, y->name);
}

void status_collect(struct status_board *board, struct status_report *out)
{
    struct metrics_process processes[STATUS_PROCESSES_MAX];
    const struct config *config = board->opts.config;
    uint64_t now_ms = clock_ms();
    CHECK_OBJ(board, STATUS_MAGIC);
    memset(out, 0, offsetof(struct status_report, processes));
    out->url = board->opts.url;
    out->environment = config_text(config, CONFIG_ENVIRONMENT);
    out->file = config->file;
    out->pid = getpid();
    out->started_wall_ms = board->started_wall_ms;
    out->uptime_ms = (int64_t)(now_ms - board->started_ms);
    out->is_stopping = board->is_stopping;
    out->is_ready = status_is_ready(board);
    if (reload_state_read(board->opts.reload, &out->reload) != OK)
        out->reload = (struct reload_view){0};
    out->has_pg = config_is_set(config, CONFIG_PG_URL);
    out->has_redis = config_is_set(config, CONFIG_REDIS_URL);
    out->limit_mode = config_text(config, CONFIG_LIMIT_MODE);
    scoreboard_sum(board->opts.board, &out->totals);
    fill_rate(board, out);
    size_t n = metrics_processes(processes, ARRAY_LEN(processes));
    for (size_t i = 0; i < n; i++)
        if (processes[i].pid != out->pid)
            fill_process(board, &processes[i], &out->processes[out->n_processes++]);
    qsort(out->processes, out->n_processes, sizeof(out->processes[0]), by_role);
}

void status_read_cache(struct status_cache *out)
{
    uint64_t missed_l1 = metrics_sum(METRIC_CACHE_L1_MISS);
    out->hits_l1 = metrics_sum(METRIC_CACHE_L1_HIT);
    out->stale_l1 = metrics_sum(METRIC_CACHE_L1_STALE);
    out->hits_l2 = metrics_sum(METRIC_CACHE_L2_HIT);
    out->misses = missed_l1 > out->hits_l2 ? missed_l1 - out->hits_l2 : 0;
    uint64_t hits = out->hits_l1 + out->stale_l1 + out->hits_l2, all = hits + out->misses;
    out->hit_ratio = all > 0 ? (double)hits / (double)all : -1;
}

int64_t status_age_ms(int64_t wall_ms)
{
    return wall_ms ? clock_wall_ms() - wall_ms : 0;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

struct status_board *status_board_new(const struct status_opts *opts)
{
    struct status_board *board = xalloc(sizeof(*board));
    board->magic = STATUS_MAGIC;
    board->opts = *opts;
    board->started_ms = clock_ms();
    board->started_wall_ms = clock_wall_ms();
    board->n_slots = metrics_n_slots();
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        board->snapshots[i].slots = xalloc(board->n_slots * sizeof(struct metrics_latency));
    on_timer(&board->timer);
    return board;
}

void status_board_free(struct status_board *board)
{
    if (!board)
        return;
    CHECK_OBJ(board, STATUS_MAGIC);
    timer_stop(board->opts.loop, &board->timer);
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        free(board->snapshots[i].slots);
    board->magic = 0;
    free(board);
}
