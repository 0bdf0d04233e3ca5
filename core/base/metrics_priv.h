/* The segment's layout: metrics.c writes it, metrics_text.c reads it. */
#pragma once

#include "base/metrics.h"

enum {
    METRICS_BOUNDS_MAX = 16, /* of a histogram, +Inf not counted */
    METRICS_CLASSES = 5,     /* 1xx … 5xx */
    METRICS_CELLS = 256,
    METRICS_LABELS_MAX = 96,
    METRICS_PATTERN_MAX = 112,
    METRICS_METHOD_MAX = 8,
};

typedef _Atomic uint64_t metrics_count;

struct metrics_bounds {
    unsigned n;
    const uint64_t *us; /* ascending, inclusive */
};
extern const struct metrics_bounds metrics_bounds_seconds, metrics_bounds_doubling;

enum metric_kind { METRIC_KIND_COUNTER, METRIC_KIND_GAUGE, METRIC_KIND_EACH, METRIC_KIND_LABELLED };
struct metric_info {
    enum metric_kind kind;
    const char *family, *labels, *help;
};
struct metric_histogram_info {
    const char *family, *help;
    const struct metrics_bounds *bounds;
};
extern const struct metric_info metric_infos[METRIC_N];
extern const struct metric_histogram_info metric_histogram_infos[METRIC_N_HISTOGRAMS];

struct metrics_histogram {
    metrics_count buckets[METRICS_BOUNDS_MAX + 1]; /* not cumulative; the last used one is +Inf */
    metrics_count sum_us;
};

struct metrics_cell {
    uint32_t metric;
    char labels[METRICS_LABELS_MAX];
    metrics_count value;
};

struct metrics_series {        /* of one route */
    _Atomic uint32_t sequence; /* odd while it is given to another route */
    char method[METRICS_METHOD_MAX], pattern[METRICS_PATTERN_MAX];
    metrics_count classes[METRICS_CLASSES];
    struct metrics_histogram duration;
};

struct metrics_slot {
    _Atomic int owner; /* pid; 0: nobody */
    char name[24];     /* of the owner, or of the last one */
    metrics_count values[METRIC_N];
    struct metrics_histogram histograms[METRIC_N_HISTOGRAMS];
    metrics_count latency[METRICS_LATENCY_BUCKETS];
    _Atomic uint32_t n_cells, n_series; /* published after they are filled */
    struct metrics_cell cells[METRICS_CELLS];
    struct metrics_series series[]; /* max_series; [0] is "other" */
};

struct metrics_body {
    uint32_t n_slots, max_series;
    char rest[56];
    char slots[]; /* metrics_slot_size(max_series) each */
};

size_t metrics_slot_size(uint32_t max_series);
/* Of metrics_n_slots; without a segment, [0] is private memory. */
const struct metrics_slot *metrics_slot_at(unsigned index);
bool metrics_is_alive(const struct metrics_slot *slot);

static inline uint64_t metrics_load(const metrics_count *count)
{
    /* Not const for C11's generic functions; a load changes nothing. */
    union {
        const metrics_count *in;
        metrics_count *out;
    } at = {.in = count};
    return atomic_load_explicit(at.out, memory_order_relaxed);
}
