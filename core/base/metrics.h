/* What the processes of one server count. Each process writes one slot of a shared segment, alone and without locks;
 * /metrics adds the slots up. A slot outlives its process: the next one claims it and counts on, so that counters never
 * go backwards, whatever is killed. Before metrics_open, and in commands that open none, the numbers go to memory of
 * the process's own: whoever counts need not ask.
 *
 * One writer a slot: only the main thread of a process counts. (DESIGN 3, FACTS 8.2) */
#pragma once

#include <stdatomic.h>

#include "base/buf.h"
#include "base/err.h"

enum metric {
#define METRIC_ROW(id, ...) METRIC_##id,
#define METRIC_HISTOGRAM(id, ...)
#include "base/metrics.tbl"
#undef METRIC_ROW
#undef METRIC_HISTOGRAM
    METRIC_N
};

enum metric_histogram {
#define METRIC_ROW(id, ...)
#define METRIC_HISTOGRAM(id, ...) METRIC_HISTOGRAM_##id,
#include "base/metrics.tbl"
#undef METRIC_ROW
#undef METRIC_HISTOGRAM
    METRIC_N_HISTOGRAMS
};

/* ---- the segment --------------------------------------------------------------------------------------------- */

/* For n_processes at once and as many again, which an upgrade starts beside them. Returns owned memfd, or -1. */
int metrics_segment_create(unsigned n_processes, unsigned max_routes, struct err *err) MUST_CHECK;
bool metrics_segment_fits(int fd, unsigned n_processes, unsigned max_routes); /* it was made so */
#define METRICS_MASTER "master"                                               /* the name of the one that has no Lua */
/* Claims a slot, preferring the one that a process of that name had ("worker 0"). What was counted before is counted
 * in. ERR: the segment is another version's, or full; counting goes on in private memory. fd: borrowed for the call. */
enum status metrics_open(int fd, const char *name, struct err *err) MUST_CHECK;
void metrics_close(void); /* the slot is free; its counters stay in the sum */
/* As metrics_close of a process that was killed, before its pid can be another's. */
void metrics_bury(int pid);

/* ---- counting ------------------------------------------------------------------------------------------------ */

void metrics_add(enum metric metric, uint64_t n);
void metrics_set(enum metric metric, uint64_t value);
/* A counter that somebody keeps for himself, counted from 0 since the process began. */
void metrics_sample(enum metric metric, uint64_t total);
void metrics_observe(enum metric_histogram histogram, uint64_t us);

/* One set of labels of a LABELLED row: the number to add to with metrics_add_to; for the process's life. `labels` as
 * metrics_label writes them; at most 95 bytes. When there is no room it is one that METRICS_DROPPED counts. */
struct metrics_cell;
struct metrics_cell *metrics_labelled(enum metric metric, const char *labels);
void metrics_add_to(struct metrics_cell *cell, uint64_t n);
void metrics_sample_to(struct metrics_cell *cell, uint64_t *last, uint64_t total); /* *last: the caller's, first 0 */
/* Appends name="value", escaped; with a comma before it unless `out` is empty. */
void metrics_label(struct buf *out, const char *name, struct slice value);

/* Requests by route template. A route's number, until metrics_route_leave; beyond metrics.max_routes in use all are 0,
 * "other". A route that nobody uses keeps its numbers until another one needs their room. May be called on another
 * thread than the counting one, by one at a time. */
#define METRICS_UNROUTED "none" /* the pattern of what has no route */
unsigned metrics_route(const char *method, const char *pattern);
void metrics_route_leave(unsigned route); /* once for each metrics_route */
void metrics_request(unsigned route, int status, uint64_t us);

/* ---- reading ------------------------------------------------------------------------------------------------- */

struct metrics_process {
    unsigned slot;
    int pid; /* it lives */
    char name[24];
};
unsigned metrics_n_slots(void);
/* The living processes, in order of their slots; returns how many. */
size_t metrics_processes(struct metrics_process *out, size_t max);
uint64_t metrics_value_of(unsigned slot, enum metric metric);
uint64_t metrics_sum(enum metric metric); /* as /metrics shows it */
/* Of a LABELLED row: of all sets of labels that have this one, as metrics_label writes it. */
uint64_t metrics_sum_labelled(enum metric metric, const char *label);

/* How long requests took, in buckets of a quarter octave. */
enum { METRICS_LATENCY_BUCKETS = 112 };
struct metrics_latency {
    uint64_t buckets[METRICS_LATENCY_BUCKETS];
};
void metrics_latency_of(unsigned slot, struct metrics_latency *out); /* adds to *out */
uint64_t metrics_latency_count(const struct metrics_latency *latency);
/* What the fraction q of them stayed under, in µs; 0: there were none. */
uint64_t metrics_latency_quantile(const struct metrics_latency *latency, double q);
