/* Records of tx:forget: rows of the table cache_forget, written in the transaction that changed what they name. When
 * the forget has been done the row goes; a row that is still there after a while belongs to a process that died between
 * the two, or to a time when Redis was away, and somebody does it for him. Once a second and machine, by whoever of the
 * workers comes first. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/pg.h"
#include "services/cache_priv.h"

#define SWEEP_MAGIC 0xcac4e906u

enum {
    LOOK_MS = 250,   /* how often a worker looks whether a sweep is due */
    EVERY_MS = 1000, /* how often one is */
    DELETE_MS = 20,  /* how long done records are collected */
    QUERY_MS = 5000,
    NO_TABLE_MS = 30000,
    NAMES_MAX = 256, /* of one record; more is everything */
    RECORDS_MAX = 1000,
};

#define SELECT_SQL                                                                                                     \
    "SELECT id, keys, tags FROM cache_forget WHERE at < now() - interval '2 seconds' ORDER BY at LIMIT 1000"
#define DELETE_SQL "DELETE FROM cache_forget WHERE id = ANY($1)"

struct cache_sweep {
    unsigned magic;
    struct cache *cache;
    struct pg *pg;
    struct timer look, clear;
    struct pg_op *select_op, *delete_op;
    struct buf done; /* "{id,id": whose rows may go */
};

static void on_look(struct timer *timer);
static void on_clear(struct timer *timer);

static void arm(struct cache_sweep *sweep, struct timer *timer, uint32_t in_ms, void (*fn)(struct timer *timer))
{
    struct loop *loop = sweep->cache->loop;
    if (!timer_is_armed(timer))
        timer_arm(loop, timer, loop_now(loop) + in_ms, fn);
}

/* ---- rows that may go ---------------------------------------------------------------------------------------- */

void cache_sweep_done(struct cache_sweep *sweep, struct slice records)
{
    buf_byte(&sweep->done, sweep->done.len ? ',' : '{');
    buf_slice(&sweep->done, records);
    arm(sweep, &sweep->clear, DELETE_MS, on_clear);
}

/* A failure needs no care: the rows are found again. */
static void on_cleared(void *data, const struct pg_result *result UNUSED, const struct err *err UNUSED)
{
    struct cache_sweep *sweep = data;
    CHECK_OBJ(sweep, SWEEP_MAGIC);
    sweep->delete_op = NULL;
    if (sweep->done.len)
        arm(sweep, &sweep->clear, DELETE_MS, on_clear);
}

static void on_clear(struct timer *timer)
{
    struct cache_sweep *sweep = container_of(timer, struct cache_sweep, clear);
    if (sweep->delete_op || sweep->done.len == 0)
        return;
    buf_append(&sweep->done, "}", 2); /* with its NUL */
    struct pg_param param = {.text = sweep->done.ptr};
    struct pg_call call = {.sql = SLICE(DELETE_SQL),
                           .params = &param,
                           .n_params = 1,
                           .deadline_ms = loop_now(sweep->cache->loop) + QUERY_MS,
                           .done = on_cleared,
                           .data = sweep,
                           .is_core = true};
    sweep->delete_op = pg_query(sweep->pg, &call);
    buf_clear(&sweep->done);
}

/* ---- rows that were left ------------------------------------------------------------------------------------- */

struct names {
    struct arena *arena;
    struct slice items[NAMES_MAX];
    size_t n;
    bool is_too_many;
};

static void add_name(void *data, bool is_null, struct slice text)
{
    struct names *names = data;
    if (is_null)
        return;
    if (names->n == NAMES_MAX || text.len > CACHE_KEY_MAX)
        names->is_too_many = true;
    else
        names->items[names->n++] = arena_copy(names->arena, text);
}

static void on_dimension(void *data UNUSED) {}

static void read_names(struct names *names, const struct pg_result *result, int row, int col)
{
    static const struct pg_array_events events = {
        .on_begin = on_dimension, .on_end = on_dimension, .on_item = add_name};
    names->n = 0;
    if (!pg_result_is_null(result, row, col) && !pg_array_read(pg_result_value(result, row, col), &events, names))
        names->is_too_many = true;
}

static void redo(struct cache_sweep *sweep, const struct pg_result *result, int row)
{
    static const struct slice all = {"", 0};
    struct arena arena;
    arena_create(&arena);
    struct slice id = arena_copy(&arena, pg_result_value(result, row, 0));
    struct names *keys = arena_zalloc(&arena, sizeof(*keys)), *tags = arena_zalloc(&arena, sizeof(*tags));
    keys->arena = tags->arena = &arena;
    read_names(keys, result, row, 1);
    read_names(tags, result, row, 2);
    struct cache_names names = {keys->items, tags->items, keys->n, tags->n};
    if (keys->is_too_many || tags->is_too_many)
        names = (struct cache_names){.tags = &all, .n_tags = 1};
    (void)cache_forget(sweep->cache, &names, id);
    arena_destroy(&arena);
}

static void pause_until(struct cache_sweep *sweep, uint32_t in_ms)
{
    atomic_store(&sweep->cache->shm.head->sweep_due_ms, clock_ms() + in_ms);
}

static void on_selected(void *data, const struct pg_result *result, const struct err *err)
{
    struct cache_sweep *sweep = data;
    CHECK_OBJ(sweep, SWEEP_MAGIC);
    sweep->select_op = NULL;
    if (err) {
        if (strcmp(err->sqlstate, "42P01") == 0) /* this application has no such table, and so no records */
            pause_until(sweep, NO_TABLE_MS);
        return;
    }
    int n = pg_result_n_rows(result);
    if (n > 0)
        log_info("cache: forgetting what a stopped process or an absent Redis has left", LOG_I("records", n));
    for (int row = 0; row < n; row++)
        redo(sweep, result, row);
    if (n >= RECORDS_MAX) { /* there may be more: until they have been done Redis is not to be trusted */
        cache_set_behind(sweep->cache);
        pause_until(sweep, 0);
    }
}

static void on_look(struct timer *timer)
{
    struct cache_sweep *sweep = container_of(timer, struct cache_sweep, look);
    _Atomic uint64_t *due = &sweep->cache->shm.head->sweep_due_ms;
    uint64_t now_ms = clock_ms(), due_ms = atomic_load(due);
    arm(sweep, &sweep->look, LOOK_MS, on_look);
    if (sweep->select_op || now_ms < due_ms || !pg_is_up(sweep->pg) ||
        !atomic_compare_exchange_strong(due, &due_ms, now_ms + EVERY_MS))
        return;
    struct pg_call call = {.sql = SLICE(SELECT_SQL),
                           .deadline_ms = loop_now(sweep->cache->loop) + QUERY_MS,
                           .done = on_selected,
                           .data = sweep,
                           .is_core = true};
    sweep->select_op = pg_query(sweep->pg, &call);
}

struct cache_sweep *cache_sweep_new(struct cache *cache, struct pg *pg)
{
    struct cache_sweep *sweep = xalloc(sizeof(*sweep));
    sweep->magic = SWEEP_MAGIC;
    sweep->cache = cache;
    sweep->pg = pg;
    arm(sweep, &sweep->look, LOOK_MS, on_look);
    return sweep;
}

void cache_sweep_free(struct cache_sweep *sweep)
{
    if (!sweep)
        return;
    CHECK_OBJ(sweep, SWEEP_MAGIC);
    timer_stop(sweep->cache->loop, &sweep->look);
    timer_stop(sweep->cache->loop, &sweep->clear);
    if (sweep->select_op)
        pg_op_cancel(sweep->select_op);
    if (sweep->delete_op)
        pg_op_cancel(sweep->delete_op);
    buf_free(&sweep->done);
    sweep->cache->sweep = NULL;
    sweep->magic = 0;
    free(sweep);
}
