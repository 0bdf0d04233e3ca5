/* Reading the slots and writing them out. Numbers of one name are added up over the slots; names that are data (routes,
 * label sets) are merged by a map, since processes may know different ones while code is being replaced.
 *
 * A reader may see a sum between two additions of a request: a bucket without its sum. Totals are therefore derived
 * from the buckets they belong to, so that each exposition agrees with itself. */
#include "base/metrics_text.h"

#include <stdlib.h>

#include "base/map.h"
#include "base/metrics_priv.h"

#define MICROSECONDS 1000000u

struct slice metrics_content_type(enum metrics_format format)
{
    return format == METRICS_OPENMETRICS ? SLICE("application/openmetrics-text; version=1.0.0; charset=utf-8")
                                         : SLICE("text/plain; version=0.0.4; charset=utf-8");
}

/* ---- lines --------------------------------------------------------------------------------------------------- */

/* OpenMetrics names a counter's family without the _total of its samples. */
static struct slice family_name(enum metrics_format format, const char *family, const char *type)
{
    struct slice name = slice_str(family);
    bool is_cut = format == METRICS_OPENMETRICS && strcmp(type, "counter") == 0;
    return is_cut ? slice_of(name.ptr, name.len - sizeof("_total") + 1) : name;
}

void metrics_write_family(struct buf *out, enum metrics_format format, const char *family, const char *type,
                          const char *help)
{
    struct slice name = family_name(format, family, type);
    buf_printf(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", SLICE_FMT(name), help, SLICE_FMT(name), type);
}

static void write_name(struct buf *out, const char *family, const char *suffix, struct slice labels)
{
    buf_slice(out, slice_str(family));
    buf_slice(out, slice_str(suffix));
    if (labels.len > 0)
        buf_printf(out, "{%.*s}", SLICE_FMT(labels));
    buf_byte(out, ' ');
}

/* A count of microseconds as seconds: 1.5, 0.000003, 2. */
static void write_seconds(struct buf *out, uint64_t us)
{
    char digits[8];
    buf_int(out, (int64_t)(us / MICROSECONDS));
    uint64_t rest = us % MICROSECONDS;
    if (rest == 0)
        return;
    int len = 7;
    digits[0] = '.';
    for (int i = 6; i > 0; i--, rest /= 10)
        digits[i] = (char)('0' + rest % 10);
    while (digits[len - 1] == '0')
        len--;
    buf_append(out, digits, (size_t)len);
}

void metrics_write_sample(struct buf *out, const char *family, struct slice labels, uint64_t value)
{
    write_name(out, family, "", labels);
    buf_int(out, (int64_t)value);
    buf_byte(out, '\n');
}

void metrics_write_sample_us(struct buf *out, const char *family, struct slice labels, uint64_t us)
{
    write_name(out, family, "", labels);
    write_seconds(out, us);
    buf_byte(out, '\n');
}

void metrics_write_end(struct buf *out, enum metrics_format format)
{
    if (format == METRICS_OPENMETRICS)
        buf_lit(out, "# EOF\n");
}

/* ---- histograms ---------------------------------------------------------------------------------------------- */

struct histogram_sum {
    uint64_t buckets[METRICS_BOUNDS_MAX + 1], sum_us;
};

static void add_histogram(struct histogram_sum *to, const struct metrics_histogram *from)
{
    for (unsigned i = 0; i <= METRICS_BOUNDS_MAX; i++)
        to->buckets[i] += metrics_load(&from->buckets[i]);
    to->sum_us += metrics_load(&from->sum_us);
}

static void write_bucket(struct buf *out, enum metrics_format format, const char *family, struct slice labels,
                         const uint64_t *bound_us, uint64_t n)
{
    struct buf all = {0};
    struct buf bound = {0};
    buf_slice(&all, labels);
    if (bound_us)
        write_seconds(&bound, *bound_us);
    else
        buf_lit(&bound, "+Inf");
    if (bound_us && *bound_us % MICROSECONDS == 0 && format == METRICS_OPENMETRICS)
        buf_lit(&bound, ".0"); /* a float there, always */
    metrics_label(&all, "le", buf_as_slice(&bound));
    write_name(out, family, "_bucket", buf_as_slice(&all));
    buf_int(out, (int64_t)n);
    buf_byte(out, '\n');
    buf_free(&bound);
    buf_free(&all);
}

static void write_histogram(struct buf *out, enum metrics_format format, const char *family, struct slice labels,
                            const struct metrics_bounds *bounds, const struct histogram_sum *sum)
{
    uint64_t n = 0;
    for (unsigned i = 0; i <= bounds->n; i++) {
        n += sum->buckets[i];
        write_bucket(out, format, family, labels, i < bounds->n ? &bounds->us[i] : NULL, n);
    }
    write_name(out, family, "_sum", labels);
    write_seconds(out, sum->sum_us);
    buf_byte(out, '\n');
    write_name(out, family, "_count", labels);
    buf_int(out, (int64_t)n);
    buf_byte(out, '\n');
}

static void write_histograms(struct buf *out, enum metrics_format format)
{
    for (unsigned i = 0; i < METRIC_N_HISTOGRAMS; i++) {
        const struct metric_histogram_info *info = &metric_histogram_infos[i];
        struct histogram_sum sum = {0};
        for (unsigned s = 0; s < metrics_n_slots(); s++)
            add_histogram(&sum, &metrics_slot_at(s)->histograms[i]);
        metrics_write_family(out, format, info->family, "histogram", info->help);
        write_histogram(out, format, info->family, SLICE(""), info->bounds, &sum);
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

static void write_each(struct buf *out, enum metric metric)
{
    struct metrics_process processes[512];
    size_t n = metrics_processes(processes, ARRAY_LEN(processes));
    for (size_t i = 0; i < n; i++) {
        struct buf labels = {0};
        if (strcmp(processes[i].name, METRICS_MASTER) == 0)
            continue;
        metrics_label(&labels, "process", slice_str(processes[i].name));
        metrics_write_sample(out, metric_infos[metric].family, buf_as_slice(&labels),
                             metrics_value_of(processes[i].slot, metric));
        buf_free(&labels);
    }
}

struct cell_sum {
    struct slice labels; /* in the first slot that had them */
    uint64_t value;
};

static struct slice labels_of(const struct metrics_cell *cell)
{
    return slice_of(cell->labels, strnlen(cell->labels, METRICS_LABELS_MAX));
}

static void add_cells(struct map *map, const struct metrics_slot *slot, enum metric metric)
{
    uint32_t n = slot->n_cells;
    for (uint32_t i = 0; i < n && i < METRICS_CELLS; i++) {
        const struct metrics_cell *cell = &slot->cells[i];
        if (cell->metric != metric)
            continue;
        struct slice labels = labels_of(cell);
        struct cell_sum *sum = map_get(map, labels);
        if (!sum) {
            sum = xalloc(sizeof(*sum));
            sum->labels = labels;
            map_put(map, labels, sum);
        }
        sum->value += metrics_load(&cell->value);
    }
}

static int by_labels(const void *a, const void *b)
{
    const struct cell_sum *const *x = a, *const *y = b;
    size_t len = (*x)->labels.len < (*y)->labels.len ? (*x)->labels.len : (*y)->labels.len;
    int order = memcmp((*x)->labels.ptr, (*y)->labels.ptr, len);
    return order ? order : ((*x)->labels.len > (*y)->labels.len) - ((*x)->labels.len < (*y)->labels.len);
}

static void write_labelled(struct buf *out, enum metric metric)
{
    struct map map = {0};
    for (unsigned s = 0; s < metrics_n_slots(); s++)
        add_cells(&map, metrics_slot_at(s), metric);
    struct cell_sum **sums = xalloc((map.len + 1) * sizeof(*sums));
    size_t n = 0, it = 0;
    struct slice key;
    void *value;
    while (map_next(&map, &it, &key, &value))
        sums[n++] = value;
    qsort(sums, n, sizeof(*sums), by_labels);
    for (size_t i = 0; i < n; i++) {
        metrics_write_sample(out, metric_infos[metric].family, sums[i]->labels, sums[i]->value);
        free(sums[i]);
    }
    free(sums);
    map_free(&map);
}

static void write_rows(struct buf *out, enum metrics_format format)
{
    for (unsigned i = 0; i < METRIC_N; i++) {
        const struct metric_info *info = &metric_infos[i];
        bool is_counter = info->kind == METRIC_KIND_COUNTER || info->kind == METRIC_KIND_LABELLED;
        if (info->help)
            metrics_write_family(out, format, info->family, is_counter ? "counter" : "gauge", info->help);
        if (info->kind == METRIC_KIND_EACH)
            write_each(out, i);
        else if (info->kind == METRIC_KIND_LABELLED)
            write_labelled(out, i);
        else
            metrics_write_sample(out, info->family, slice_str(info->labels), metrics_sum(i));
    }
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

struct route_sum {
    char key[METRICS_METHOD_MAX + METRICS_PATTERN_MAX + 1];
    struct slice method, pattern; /* in key */
    uint64_t classes[METRICS_CLASSES];
    struct histogram_sum duration;
};

struct route_sums {
    struct map map;
    struct route_sum **list; /* in the order they were met, which is that of the routes */
    size_t n;
};

static struct route_sum *find_route(struct route_sums *sums, const struct metrics_series *series)
{
    struct route_sum fresh = {0};
    size_t method_len = strnlen(series->method, METRICS_METHOD_MAX);
    size_t pattern_len = strnlen(series->pattern, METRICS_PATTERN_MAX), len = method_len + 1 + pattern_len;
    memcpy(fresh.key, series->method, method_len);
    memcpy(fresh.key + method_len + 1, series->pattern, pattern_len);
    struct route_sum *sum = map_get(&sums->map, slice_of(fresh.key, len));
    if (sum)
        return sum;
    sum = xalloc(sizeof(*sum));
    *sum = fresh;
    sum->method = slice_of(sum->key, method_len);
    sum->pattern = slice_of(sum->key + method_len + 1, pattern_len);
    sums->list = xrealloc(sums->list, (sums->n + 1) * sizeof(struct route_sum *));
    sums->list[sums->n++] = sum;
    map_put(&sums->map, slice_of(sum->key, len), sum);
    return sum;
}

/* One consistent copy. False: it is being given to another route. */
static bool read_series(const struct metrics_series *series, struct metrics_series *out)
{
    memcpy(out, series, sizeof(*out));
    atomic_thread_fence(memory_order_acquire);
    return out->sequence % 2 == 0 && out->sequence == series->sequence;
}

static void sum_routes(struct route_sums *sums)
{
    for (unsigned s = 0; s < metrics_n_slots(); s++) {
        const struct metrics_slot *slot = metrics_slot_at(s);
        uint32_t n = slot->n_series;
        for (uint32_t i = 0; i < n; i++) {
            struct metrics_series series;
            if (!read_series(&slot->series[i], &series))
                continue;
            struct route_sum *sum = find_route(sums, &series);
            for (unsigned c = 0; c < METRICS_CLASSES; c++)
                sum->classes[c] += series.classes[c];
            add_histogram(&sum->duration, &series.duration);
        }
    }
}

static void route_labels(struct buf *out, const struct route_sum *sum)
{
    buf_clear(out);
    metrics_label(out, "method", sum->method.len > 0 ? sum->method : SLICE("other"));
    metrics_label(out, "route", sum->pattern);
}

static bool is_used(const struct route_sum *sum)
{
    uint64_t n = 0;
    for (unsigned c = 0; c < METRICS_CLASSES; c++)
        n += sum->classes[c];
    return n > 0;
}

static void write_classes(struct buf *out, struct buf *labels, const struct route_sum *sum)
{
    for (unsigned c = 0; c < METRICS_CLASSES; c++) {
        if (sum->classes[c] == 0)
            continue;
        route_labels(labels, sum);
        metrics_label(labels, "status", slice_of((char[]){(char)('1' + c), 'x', 'x'}, 3));
        metrics_write_sample(out, "http_requests_total", buf_as_slice(labels), sum->classes[c]);
    }
}

static void write_requests(struct buf *out, enum metrics_format format)
{
    struct route_sums sums = {0};
    struct buf labels = {0};
    sum_routes(&sums);
    metrics_write_family(out, format, "http_requests_total", "counter",
                         "Requests answered, by route template and class of status");
    for (size_t i = 0; i < sums.n; i++)
        write_classes(out, &labels, sums.list[i]);
    metrics_write_family(out, format, "http_request_duration_seconds", "histogram",
                         "From the end of a request's head to the end of its answer");
    for (size_t i = 0; i < sums.n; i++) {
        route_labels(&labels, sums.list[i]);
        if (is_used(sums.list[i]))
            write_histogram(out, format, "http_request_duration_seconds", buf_as_slice(&labels),
                            &metrics_bounds_seconds, &sums.list[i]->duration);
        free(sums.list[i]);
    }
    buf_free(&labels);
    free(sums.list);
    map_free(&sums.map);
}

void metrics_write(struct buf *out, enum metrics_format format)
{
    write_requests(out, format);
    write_rows(out, format);
    write_histograms(out, format);
}
