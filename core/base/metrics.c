/* The slots: claimed, written, left.
 *
 * A number has one writer, so adding is a plain load and store, which the compiler makes one instruction; relaxed
 * atomics only promise readers in other processes whole numbers. What a slot names (routes, label sets) is appended and
 * then published by its count: a process that dies in between has published nothing, and the next owner finds the names
 * again and goes on. When there is no room left, a new route takes the place of one that no living code has; a sequence
 * number tells readers that they read half of that.
 *
 * Never: lock, allocate or make a system call while counting; take back what was counted. */
#include "base/metrics.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/metrics_priv.h"
#include "base/shm.h"

enum {
    LAYOUT_VERSION = 2,
    PRIVATE_SERIES = 64,
    RESERVED_SERIES = 9, /* "other", and METRICS_UNROUTED by method */
};
#define LAYOUT_MAGIC 0x3e72c501u

/* FACTS 8.2. */
static const uint64_t bounds_seconds[] = {5000,   10000,   25000,   50000,   100000,  250000,
                                          500000, 1000000, 2500000, 5000000, 10000000};
/* 2^i ms. */
static const uint64_t bounds_doubling[] = {1000,   2000,   4000,    8000,    16000,   32000,   64000,   128000,
                                           256000, 512000, 1024000, 2048000, 4096000, 8192000, 16384000};
const struct metrics_bounds metrics_bounds_seconds = {ARRAY_LEN(bounds_seconds), bounds_seconds};
const struct metrics_bounds metrics_bounds_doubling = {ARRAY_LEN(bounds_doubling), bounds_doubling};

const struct metric_info metric_infos[METRIC_N] = {
#define METRIC_ROW(id, kind, family, labels, help) [METRIC_##id] = {METRIC_KIND_##kind, family, labels, help},
#define METRIC_HISTOGRAM(...)
#include "base/metrics.tbl"
#undef METRIC_ROW
#undef METRIC_HISTOGRAM
};

const struct metric_histogram_info metric_histogram_infos[METRIC_N_HISTOGRAMS] = {
#define METRIC_ROW(...)
#define METRIC_HISTOGRAM(id, family, bounds, help) [METRIC_HISTOGRAM_##id] = {family, help, &metrics_bounds_##bounds},
#include "base/metrics.tbl"
#undef METRIC_ROW
#undef METRIC_HISTOGRAM
};

/* Where a process counts that has opened no segment. */
static union {
    struct metrics_slot slot;
    char bytes[sizeof(struct metrics_slot) + PRIVATE_SERIES * sizeof(struct metrics_series)];
} private = {.slot = {.n_series = 1}};
static unsigned private_users[PRIVATE_SERIES];

static struct {
    struct shm_segment segment;
    struct metrics_slot *slot; /* ours */
    uint32_t max_series;
    unsigned *n_users;       /* of each series: how often its route is in use; owned, unless private */
    uint64_t last[METRIC_N]; /* of metrics_sample */
    struct metrics_cell overflow;
} own = {.slot = &private.slot,
         .max_series = PRIVATE_SERIES,
         .n_users = private_users,
         .overflow = {.metric = METRIC_METRICS_DROPPED}};

/* ---- the segment --------------------------------------------------------------------------------------------- */

size_t metrics_slot_size(uint32_t max_series)
{
    size_t size = sizeof(struct metrics_slot) + max_series * sizeof(struct metrics_series);
    return (size + 63) / 64 * 64;
}

static struct shm_layout layout_of(uint32_t n_slots, uint32_t max_series)
{
    return (struct shm_layout){.name = "chowk-metrics",
                               .magic = LAYOUT_MAGIC,
                               .version = LAYOUT_VERSION,
                               .size = sizeof(struct metrics_body) + n_slots * metrics_slot_size(max_series)};
}

static struct metrics_body *body(void)
{
    return own.segment.body;
}

static struct metrics_slot *slot_of(struct metrics_body *in, unsigned index)
{
    return (struct metrics_slot *)(void *)(in->slots + index * metrics_slot_size(in->max_series));
}

static void create_slots(void *memory, const void *data)
{
    struct metrics_body *made = memory;
    const struct metrics_body *dimensions = data;
    made->n_slots = dimensions->n_slots;
    made->max_series = dimensions->max_series;
    for (unsigned i = 0; i < made->n_slots; i++) {
        struct metrics_slot *slot = slot_of(made, i);
        atomic_store(&slot->n_series, 1);
        snprintf(slot->series[0].pattern, METRICS_PATTERN_MAX, "other");
    }
}

int metrics_segment_create(unsigned n_processes, unsigned max_routes, struct err *err)
{
    struct metrics_body dimensions = {.n_slots = 2 * n_processes, .max_series = max_routes + RESERVED_SERIES};
    struct shm_layout layout = layout_of(dimensions.n_slots, dimensions.max_series);
    layout.create = create_slots;
    layout.data = &dimensions;
    return shm_create(&layout, err);
}

bool metrics_segment_fits(int fd, unsigned n_processes, unsigned max_routes)
{
    return shm_size(fd) == layout_of(2 * n_processes, max_routes + RESERVED_SERIES).size;
}

bool metrics_is_alive(const struct metrics_slot *slot)
{
    union {
        const _Atomic int *in;
        _Atomic int *out;
    } owner = {.in = &slot->owner};
    int pid = atomic_load(owner.out);
    return pid != 0 && (pid == getpid() || kill(pid, 0) == 0 || errno == EPERM);
}

static bool claim(struct metrics_slot *slot)
{
    int owner = atomic_load(&slot->owner);
    if (owner != 0 && metrics_is_alive(slot))
        return false;
    return atomic_compare_exchange_strong(&slot->owner, &owner, getpid());
}

static void clear_gauges(struct metrics_slot *slot)
{
    for (unsigned i = 0; i < METRIC_N; i++)
        if (metric_infos[i].kind == METRIC_KIND_GAUGE || metric_infos[i].kind == METRIC_KIND_EACH)
            atomic_store_explicit(&slot->values[i], 0, memory_order_relaxed);
}

/* The one of its name, then one that nobody had, then any. */
static struct metrics_slot *claim_slot(struct metrics_body *in, const char *name)
{
    for (int round = 0; round < 3; round++)
        for (unsigned i = 0; i < in->n_slots; i++) {
            struct metrics_slot *slot = slot_of(in, i);
            bool fits = round == 0   ? strncmp(slot->name, name, sizeof(slot->name)) == 0
                        : round == 1 ? slot->name[0] == '\0'
                                     : true;
            if (fits && claim(slot))
                return slot;
        }
    return NULL;
}

static enum status attach(int fd, struct err *err)
{
    struct shm_layout layout = layout_of(0, 0);
    layout.size = shm_size(fd);
    if (shm_attach(fd, &layout, &own.segment, err) != OK)
        return ERR;
    if (layout_of(body()->n_slots, body()->max_series).size == layout.size)
        return OK;
    shm_detach(&own.segment);
    return err_set(err, ERR_INVALID, "metrics: the segment's size does not fit its layout");
}

enum status metrics_open(int fd, const char *name, struct err *err)
{
    CHECK(own.slot == &private.slot);
    if (attach(fd, err) != OK)
        return ERR;
    struct metrics_slot *slot = claim_slot(body(), name);
    if (!slot) {
        shm_detach(&own.segment);
        return err_set(err, ERR_UNAVAILABLE, "metrics: every slot is taken by a living process");
    }
    snprintf(slot->name, sizeof(slot->name), "%s", name);
    clear_gauges(slot);
    own.slot = slot;
    own.max_series = body()->max_series;
    own.n_users = xalloc(own.max_series * sizeof(*own.n_users));
    return OK;
}

void metrics_close(void)
{
    if (own.slot == &private.slot)
        return;
    clear_gauges(own.slot);
    atomic_store(&own.slot->owner, 0);
    own.slot = &private.slot;
    own.max_series = PRIVATE_SERIES;
    free(own.n_users);
    own.n_users = private_users;
    shm_detach(&own.segment);
}

/* ---- counting ------------------------------------------------------------------------------------------------ */

static void add(metrics_count *count, uint64_t n)
{
    atomic_store_explicit(count, metrics_load(count) + n, memory_order_relaxed);
}

void metrics_add(enum metric metric, uint64_t n)
{
    add(&own.slot->values[metric], n);
}

void metrics_set(enum metric metric, uint64_t value)
{
    atomic_store_explicit(&own.slot->values[metric], value, memory_order_relaxed);
}

static void catch_up(metrics_count *count, uint64_t *last, uint64_t total)
{
    if (total > *last)
        add(count, total - *last);
    *last = total;
}

void metrics_sample(enum metric metric, uint64_t total)
{
    catch_up(&own.slot->values[metric], &own.last[metric], total);
}

static void observe(struct metrics_histogram *histogram, const struct metrics_bounds *bounds, uint64_t us)
{
    unsigned i = 0;
    while (i < bounds->n && us > bounds->us[i])
        i++;
    add(&histogram->buckets[i], 1);
    add(&histogram->sum_us, us);
}

void metrics_observe(enum metric_histogram histogram, uint64_t us)
{
    observe(&own.slot->histograms[histogram], metric_histogram_infos[histogram].bounds, us);
}

/* ---- label sets ---------------------------------------------------------------------------------------------- */

void metrics_label(struct buf *out, const char *name, struct slice value)
{
    if (out->len > 0)
        buf_byte(out, ',');
    buf_slice(out, slice_str(name));
    buf_lit(out, "=\"");
    for (size_t i = 0; i < value.len; i++) {
        if (value.ptr[i] == '\n')
            buf_lit(out, "\\n");
        else if (value.ptr[i] == '"' || value.ptr[i] == '\\')
            buf_printf(out, "\\%c", value.ptr[i]);
        else
            buf_byte(out, value.ptr[i]);
    }
    buf_byte(out, '"');
}

struct metrics_cell *metrics_labelled(enum metric metric, const char *labels)
{
    struct metrics_slot *slot = own.slot;
    CHECK(metric_infos[metric].kind == METRIC_KIND_LABELLED);
    uint32_t n = atomic_load(&slot->n_cells);
    for (uint32_t i = 0; i < n; i++)
        if (slot->cells[i].metric == metric && strcmp(slot->cells[i].labels, labels) == 0)
            return &slot->cells[i];
    if (n == METRICS_CELLS || strlen(labels) >= METRICS_LABELS_MAX)
        return &own.overflow;
    struct metrics_cell *cell = &slot->cells[n];
    cell->metric = metric;
    snprintf(cell->labels, sizeof(cell->labels), "%s", labels);
    atomic_store(&slot->n_cells, n + 1);
    return cell;
}

void metrics_add_to(struct metrics_cell *cell, uint64_t n)
{
    if (cell == &own.overflow)
        metrics_add(METRIC_METRICS_DROPPED, n);
    else
        add(&cell->value, n);
}

void metrics_sample_to(struct metrics_cell *cell, uint64_t *last, uint64_t total)
{
    if (total > *last)
        metrics_add_to(cell, total - *last);
    *last = total;
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

static bool is_whole(const struct metrics_series *series)
{
    return series->sequence % 2 == 0;
}

static unsigned find_series(struct metrics_slot *slot, const char *method, const char *pattern)
{
    for (uint32_t i = 1; i < slot->n_series; i++)
        if (is_whole(&slot->series[i]) && strcmp(slot->series[i].method, method) == 0 &&
            strcmp(slot->series[i].pattern, pattern) == 0)
            return i;
    return 0;
}

/* One that was never used; there is always room for what has no route. */
static unsigned append_series(struct metrics_slot *slot, const char *method, const char *pattern)
{
    uint32_t n = slot->n_series, n_routes = 0;
    bool is_unrouted = strcmp(pattern, METRICS_UNROUTED) == 0;
    for (uint32_t i = 1; i < n; i++)
        n_routes += strcmp(slot->series[i].pattern, METRICS_UNROUTED) != 0;
    if (n >= own.max_series || (!is_unrouted && n_routes >= own.max_series - RESERVED_SERIES))
        return 0;
    snprintf(slot->series[n].method, METRICS_METHOD_MAX, "%s", method);
    snprintf(slot->series[n].pattern, METRICS_PATTERN_MAX, "%s", pattern);
    atomic_store(&slot->n_series, n + 1);
    return n;
}

/* One whose route is gone, with what was counted for it: nobody else's numbers change. */
static unsigned reuse_series(struct metrics_slot *slot, const char *method, const char *pattern)
{
    for (uint32_t i = 1; i < slot->n_series; i++) {
        struct metrics_series *series = &slot->series[i];
        if (own.n_users[i] > 0 || strcmp(series->pattern, METRICS_UNROUTED) == 0)
            continue;
        uint32_t changing = series->sequence | 1; /* who had it may have died over it */
        atomic_store(&series->sequence, changing);
        atomic_thread_fence(memory_order_release);
        memset(series->classes, 0, sizeof(series->classes));
        memset(&series->duration, 0, sizeof(series->duration));
        snprintf(series->method, METRICS_METHOD_MAX, "%s", method);
        snprintf(series->pattern, METRICS_PATTERN_MAX, "%s", pattern);
        atomic_store(&series->sequence, changing + 1);
        return i;
    }
    return 0;
}

unsigned metrics_route(const char *method, const char *pattern)
{
    char name[METRICS_PATTERN_MAX];
    snprintf(name, sizeof(name), "%s", pattern);
    unsigned i = find_series(own.slot, method, name);
    if (!i)
        i = append_series(own.slot, method, name);
    if (!i)
        i = reuse_series(own.slot, method, name);
    own.n_users[i]++;
    return i;
}

void metrics_route_leave(unsigned route)
{
    if (route < own.max_series && own.n_users[route] > 0)
        own.n_users[route]--;
}

/* 0, 1, 2, 3 µs, then four buckets an octave; all beyond two minutes is in the last. */
static unsigned latency_bucket(uint64_t us)
{
    if (us < 4)
        return (unsigned)us;
    unsigned octave = 63 - (unsigned)__builtin_clzll(us), i = (octave - 1) * 4 + ((us >> (octave - 2)) & 3);
    return i < METRICS_LATENCY_BUCKETS ? i : METRICS_LATENCY_BUCKETS - 1;
}

static uint64_t latency_bound(unsigned i)
{
    return i < 4 ? i + 1 : (uint64_t)(4 + i % 4 + 1) << (i / 4 - 1);
}

void metrics_request(unsigned route, int status, uint64_t us)
{
    struct metrics_series *series = &own.slot->series[route];
    unsigned class = (unsigned)status / 100 - 1;
    add(&series->classes[class < METRICS_CLASSES ? class : METRICS_CLASSES - 1], 1);
    observe(&series->duration, &metrics_bounds_seconds, us);
    add(&own.slot->latency[latency_bucket(us)], 1);
}

void metrics_bury(int pid)
{
    for (unsigned i = 0; own.segment.body && i < body()->n_slots; i++) {
        int owner = pid;
        atomic_compare_exchange_strong(&slot_of(body(), i)->owner, &owner, 0);
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

unsigned metrics_n_slots(void)
{
    return own.segment.body ? body()->n_slots : 1;
}

const struct metrics_slot *metrics_slot_at(unsigned index)
{
    return own.segment.body ? slot_of(body(), index) : own.slot;
}

size_t metrics_processes(struct metrics_process *out, size_t max)
{
    size_t n = 0;
    for (unsigned i = 0; i < metrics_n_slots() && n < max; i++) {
        const struct metrics_slot *slot = metrics_slot_at(i);
        if (!metrics_is_alive(slot))
            continue;
        out[n] = (struct metrics_process){.slot = i, .pid = slot->owner};
        memcpy(out[n].name, slot->name, sizeof(slot->name));
        out[n++].name[sizeof(slot->name) - 1] = '\0';
    }
    return n;
}

uint64_t metrics_value_of(unsigned slot, enum metric metric)
{
    return metrics_load(&metrics_slot_at(slot)->values[metric]);
}

uint64_t metrics_sum(enum metric metric)
{
    uint64_t sum = 0;
    bool outlives = metric_infos[metric].kind == METRIC_KIND_COUNTER;
    for (unsigned i = 0; i < metrics_n_slots(); i++)
        if (outlives || metrics_is_alive(metrics_slot_at(i)))
            sum += metrics_value_of(i, metric);
    return sum;
}

uint64_t metrics_sum_labelled(enum metric metric, const char *label)
{
    uint64_t sum = 0;
    for (unsigned s = 0; s < metrics_n_slots(); s++) {
        const struct metrics_slot *slot = metrics_slot_at(s);
        for (uint32_t i = 0, n = slot->n_cells; i < n && i < METRICS_CELLS; i++)
            if (slot->cells[i].metric == metric && strstr(slot->cells[i].labels, label))
                sum += metrics_load(&slot->cells[i].value);
    }
    return sum;
}

void metrics_latency_of(unsigned slot, struct metrics_latency *out)
{
    for (unsigned i = 0; i < METRICS_LATENCY_BUCKETS; i++)
        out->buckets[i] += metrics_load(&metrics_slot_at(slot)->latency[i]);
}

uint64_t metrics_latency_count(const struct metrics_latency *latency)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < METRICS_LATENCY_BUCKETS; i++)
        n += latency->buckets[i];
    return n;
}

uint64_t metrics_latency_quantile(const struct metrics_latency *latency, double q)
{
    uint64_t n = metrics_latency_count(latency), seen = 0;
    for (unsigned i = 0; i < METRICS_LATENCY_BUCKETS && n > 0; i++) {
        seen += latency->buckets[i];
        if ((double)seen >= q * (double)n)
            return latency_bound(i);
    }
    return 0;
}
