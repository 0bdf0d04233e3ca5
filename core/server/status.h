/* What the server does, as its master knows it: from the scoreboard, the metrics slots and /proc, put together when
 * somebody asks. One collection, three forms: JSON (GET /status), a table (`chowk status`) and the samples of /metrics
 * that no process counts. Reads only; a worker that hangs is shown, not asked. */
#pragma once

#include "base/metrics_text.h"
#include "net/loop.h"
#include "server/config.h"
#include "server/reload_state.h"
#include "server/scoreboard.h"

struct status_opts {
    struct loop *loop;           /* samples rates, once a second */
    const struct config *config; /* borrowed for its life, like the rest */
    const struct scoreboard *board;
    const struct reload_state *reload;
    const char *url; /* where it serves; borrowed */
};

struct status_board;
struct status_board *status_board_new(const struct status_opts *opts); /* returns owned */
void status_board_free(struct status_board *board);

void status_set_up(struct status_board *board); /* every worker has been ready once */
void status_set_stopping(struct status_board *board);
/* The start is over, a worker serves, none has been given up, and no stop has begun. */
bool status_is_ready(const struct status_board *board);

/* ---- collected ----------------------------------------------------------------------------------------------- */

struct status_rate { /* of the last seconds */
    double per_s;
    uint64_t p50_us, p99_us; /* 0: there was nothing */
};

struct status_process {
    char name[24]; /* "worker 0" */
    int pid;
    const char *state;
    int64_t uptime_ms;
    uint32_t generation, n_generations; /* of new requests; alive */
    char hash[SCOREBOARD_HASH];
    uint64_t in_flight, connections, requests, rss, lua_heap;
    struct status_rate rate;
    uint64_t beat_age_ms;        /* since its loop last turned */
    struct running_view running; /* since_ms 0: no Lua runs */
};

enum { STATUS_PROCESSES_MAX = 520 };

struct status_report {
    const char *url, *environment, *file;
    int pid;
    int64_t started_wall_ms, uptime_ms;
    bool is_ready, is_stopping;
    struct reload_view reload;
    uint64_t requests;
    struct status_rate rate;
    struct scoreboard_totals totals;
    bool has_pg, has_redis;
    const char *limit_mode;
    size_t n_processes;
    struct status_process processes[STATUS_PROCESSES_MAX];
};
void status_collect(struct status_board *board, struct status_report *out);

struct status_cache {
    uint64_t hits_l1, stale_l1, hits_l2, misses; /* misses: had by neither */
    double hit_ratio;                            /* of all look-ups; below 0: there were none */
};
void status_read_cache(struct status_cache *out);
int64_t status_age_ms(int64_t wall_ms); /* 0 for 0 */

/* ---- written (status_write.c, status_table.c)
 * -------------------------------------------------------------------------------- */

void status_write_json(struct buf *out, const struct status_report *status);
void status_write_text(struct buf *out, const struct status_report *status, bool is_colour);
/* All of /metrics. */
void status_write_metrics(struct buf *out, const struct status_report *status, enum metrics_format format);
