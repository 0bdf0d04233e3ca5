/* Who waits for numbers, and who fetches them.
 *
 * Taking a number is one look into shared memory. When that was the one that left half a block, the same look made this
 * process the one to lease more, in the background. Only when nothing is left a caller waits: in a queue of its line
 * (one per sequence), first come first served, until one of these brings numbers:
 *
 *   our own lease, once its commit was seen    → first to the queue, the rest to shared memory
 *   another worker's lease                     → seen by looking again every POLL_MS
 *   neither within OTHERS_MS, or no lock       → a lease of our own, of exactly as many as wait
 *
 * A lease whose outcome is unknown is discarded, whatever it may have been: the next one is another block. Refusals
 * that pass (a lock on the row held too long) are tried again; anything else fails the queue, and prefetching pauses.
 * One lease per line is under way at most. No callback of ours holds a lock: a slot is locked within seq_store only. */
#include "services/seq.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/pg.h"
#include "net/timer.h"
#include "services/seq_store.h"

#define SEQ_MAGIC 0x5e90a902u
#define SEQ_WAIT_MAGIC 0x5e90a903u

enum {
    LEASE_MS = 2000,       /* deadline of one lease, with its retries */
    LEASE_UNKNOWN_MAX = 2, /* of which so many may end in an unknown outcome */
    POLL_MS = 2,
    OTHERS_MS = 20, /* how long another worker's lease is waited for */
    TICK_MS = 20,   /* how late a waiting caller's deadline may be seen */
    PAUSE_MS = 100, /* after a failed lease, before the next in advance */
    MAX_WAITING = 10000,
    DAY_MS = 86400000,
    KOLKATA_MS = 19800000,
};

struct seq_wait {
    unsigned magic;
    struct list node;
    struct line *line;
    struct seq_call call;
};

struct line {
    struct seq *seq;
    const struct seq_def *def;
    struct seq_key key; /* with the period of `day` */
    int64_t day;        /* in Kolkata, since 1970 */
    struct list waits;
    uint32_t n_waits;
    uint64_t since_ms; /* waiting for others since; 0: not waiting */
    struct timer timer;
    uint64_t pause_until_ms;
    bool is_failing;  /* said so in the log */
    struct pg_op *op; /* the lease under way */
    struct {
        uint32_t n, n_unknown;
        uint64_t until_ms;
        struct seq_period period;
    } lease;
};

struct seq {
    unsigned magic;
    struct loop *loop;
    struct pg *pg;
    struct seq_store store;
    struct seq_defs defs;
    struct line *lines;
    struct seq_stats stats;
    bool is_closing;
};

static struct line *line_of(const struct seq *seq, int id)
{
    CHECK_OBJ(seq, SEQ_MAGIC);
    CHECK(id >= 0 && (size_t)id < seq->defs.n_items);
    return &seq->lines[id];
}

/* By the wall clock of this very call, so that March's numbers end at 00:00 and not at the next lease. */
static void set_period(struct line *line)
{
    int64_t wall_ms = clock_wall_ms(), day = (wall_ms + KOLKATA_MS) / DAY_MS;
    if (day == line->day)
        return;
    line->day = day;
    line->key.period = seq_period_at(line->def->cycle, wall_ms);
}

static bool has_period(struct line *line, const struct seq_period *period)
{
    set_period(line);
    return memcmp(period, &line->key.period, sizeof(*period)) == 0;
}

/* ---- the queue ----------------------------------------------------------------------------------------------- */

static void wait_end(struct seq_wait *wait, const struct seq_number *number, const struct err *err)
{
    struct seq_call call = wait->call;
    list_remove(&wait->node);
    wait->line->n_waits--;
    wait->magic = 0;
    free(wait);
    call.done(call.data, number, err);
}

static struct seq_wait *first_wait(struct line *line)
{
    struct seq_wait *wait;
    if (list_is_empty(&line->waits))
        return NULL;
    CAST_OBJ(wait, (void *)container_of(line->waits.next, struct seq_wait, node), SEQ_WAIT_MAGIC);
    return wait;
}

/* Numbers to the queue; what is left stays in *range. A caller may come back while he is served. */
static void hand_out(struct line *line, struct seq_range *range, struct seq_period period)
{
    struct seq_wait *wait;
    while (range->next < range->end && (wait = first_wait(line))) {
        struct seq_number number = {.def = line->def, .value = range->next++, .period = period};
        line->seq->stats.n_numbers++;
        wait_end(wait, &number, NULL);
    }
    line->since_ms = 0;
}

/* Only who waits now: who comes back while he is told may try again. */
static void fail_all(struct line *line, const struct err *err)
{
    struct err why = *err;
    struct seq_wait *wait;
    for (uint32_t n = line->n_waits; n > 0 && (wait = first_wait(line)); n--)
        wait_end(wait, NULL, &why);
    line->since_ms = 0;
}

static void expire(struct line *line, uint64_t now_ms)
{
    struct err err = {0};
    err_set(&err, ERR_DEADLINE, "no number of sequence %s was leased before the deadline", line->def->name);
    bool found = true;
    while (found) { /* from the start again: a completion may change the queue */
        found = false;
        list_each (node, &line->waits) {
            struct seq_wait *wait = container_of(node, struct seq_wait, node);
            if (wait->call.deadline_ms > now_ms)
                continue;
            wait_end(wait, NULL, &err);
            found = true;
            break;
        }
    }
}

/* ---- leases -------------------------------------------------------------------------------------------------- */

static void on_leased(void *data, const struct pg_result *result, const struct err *err);

static void send_lease(struct line *line)
{
    struct seq *seq = line->seq;
    char n[16];
    snprintf(n, sizeof(n), "%" PRIu32, line->lease.n);
    struct pg_param params[] = {{line->def->name}, {line->lease.period.text}, {n}};
    struct pg_call call = {.sql = SLICE("SELECT get_next_order_sequence($1, $2, $3)"),
                           .params = params,
                           .n_params = ARRAY_LEN(params),
                           .deadline_ms = line->lease.until_ms,
                           .is_core = true,
                           .done = on_leased,
                           .data = line};
    line->op = pg_query(seq->pg, &call);
}

static void start_lease(struct line *line, uint32_t n)
{
    CHECK(!line->op);
    line->lease.n = n;
    line->lease.n_unknown = 0;
    line->lease.until_ms = loop_now(line->seq->loop) + LEASE_MS;
    line->lease.period = line->key.period;
    send_lease(line);
}

/* Takes numbers, and starts the lease that the store tells us to. */
static struct seq_answer ask_store(struct line *line, uint32_t n_wanted, uint32_t n_waiting)
{
    struct seq *seq = line->seq;
    uint64_t now_ms = loop_now(seq->loop), n_orphaned = seq->store.n_orphaned;
    struct seq_ask ask = {.now_ms = now_ms,
                          .n_wanted = n_wanted,
                          .n_waiting = n_waiting,
                          .may_claim = !line->op,
                          .may_prefetch = now_ms >= line->pause_until_ms};
    struct seq_answer answer;
    set_period(line);
    seq_store_take(&seq->store, &line->key, &ask, &answer);
    if (seq->store.n_orphaned != n_orphaned)
        log_warn("a process died with a sequence's lock: its leased numbers are dropped",
                 LOG_S("sequence", line->def->name));
    if (answer.n_lease > 0)
        start_lease(line, answer.n_lease);
    return answer;
}

/* Numbers nobody came for, unless their period ended meanwhile. */
static void put_back(struct line *line, struct seq_range range, struct seq_period period)
{
    struct seq *seq = line->seq;
    if (seq_range_len(range) == 0)
        return;
    if (has_period(line, &period))
        seq_store_put(&seq->store, &line->key, loop_now(seq->loop), range, 0);
    else
        seq->store.n_dropped += (uint64_t)seq_range_len(range);
}

/* From shared memory to the queue, as long as there is something. */
static void serve(struct line *line)
{
    while (line->n_waits > 0) {
        uint32_t n_waiting = line->n_waits < SEQ_BLOCK_MAX ? line->n_waits : SEQ_BLOCK_MAX;
        struct seq_answer answer = ask_store(line, n_waiting, n_waiting);
        if (answer.is_busy && !line->op)
            start_lease(line, n_waiting);
        if (seq_range_len(answer.range) == 0)
            return;
        struct seq_period period = line->key.period;
        hand_out(line, &answer.range, period);
        put_back(line, answer.range, period);
    }
}

static void on_timer(struct timer *timer);

/* As long as somebody waits: looks for others' numbers often, at deadlines now and then. */
static void arm(struct line *line)
{
    struct loop *loop = line->seq->loop;
    if (line->n_waits == 0) {
        timer_stop(loop, &line->timer);
        return;
    }
    if (!line->op && line->since_ms == 0)
        line->since_ms = loop_now(loop);
    if (!timer_is_armed(&line->timer))
        timer_arm(loop, &line->timer, loop_now(loop) + (line->op ? TICK_MS : POLL_MS), on_timer);
}

static void on_timer(struct timer *timer)
{
    struct line *line = container_of(timer, struct line, timer);
    uint64_t now_ms = loop_now(line->seq->loop);
    expire(line, now_ms);
    if (!line->op)
        serve(line);
    if (line->n_waits > 0 && !line->op && line->since_ms > 0 && now_ms >= line->since_ms + OTHERS_MS)
        start_lease(line, line->n_waits < SEQ_BLOCK_MAX ? line->n_waits : SEQ_BLOCK_MAX);
    arm(line);
}

/* ---- the end of a lease -------------------------------------------------------------------------------------- */

static enum status read_block(const struct line *line, const struct pg_result *result, struct seq_range *out,
                              struct err *err)
{
    int64_t last, max = INT64_C(1) << 53; /* what Lua can hold */
    if (pg_result_n_rows(result) != 1 || pg_result_n_cols(result) != 1 ||
        !slice_to_int(pg_result_value(result, 0, 0), line->lease.n, max, &last))
        return err_set(err, ERR_INVALID, "get_next_order_sequence must return the last of the %u numbers it took",
                       line->lease.n);
    *out = (struct seq_range){.next = last - line->lease.n + 1, .end = last + 1};
    return OK;
}

static void take_block(struct line *line, struct seq_range block)
{
    struct seq *seq = line->seq;
    uint64_t now_ms = loop_now(seq->loop);
    struct seq_period period = line->lease.period;
    if (line->is_failing)
        log_info("sequence leases again", LOG_S("sequence", line->def->name));
    line->is_failing = false;
    seq->stats.n_leases++;
    if (!has_period(line, &period)) { /* asked for before midnight */
        seq->store.n_dropped += (uint64_t)seq_range_len(block);
        seq_store_give_up(&seq->store, &line->key, now_ms);
        return;
    }
    int64_t n_direct = seq_range_len(block) < (int64_t)line->n_waits ? seq_range_len(block) : (int64_t)line->n_waits;
    struct seq_range direct = {block.next, block.next + n_direct}, rest = {direct.end, block.end};
    seq_store_put(&seq->store, &line->key, now_ms, rest, (uint32_t)n_direct);
    hand_out(line, &direct, period);
    put_back(line, direct, period);
    if (n_direct > 0 && line->n_waits == 0) /* the queue took what would have been the advance */
        (void)ask_store(line, 0, 0);
}

/* What was leased, if anything was, is nobody's: another lease takes another block. */
static bool may_lease_again(struct line *line, const struct err *err)
{
    static const char *const passing[] = {"55P03", "57014", "40001", "40P01"};
    if (loop_now(line->seq->loop) >= line->lease.until_ms)
        return false;
    if (err->code == ERR_OUTCOME_UNKNOWN || err->code == ERR_COMMIT_UNKNOWN) {
        log_warn("outcome of a lease is unknown: its numbers are dropped", LOG_S("sequence", line->def->name),
                 LOG_I("n", line->lease.n));
        line->seq->store.n_dropped += line->lease.n;
        return line->lease.n_unknown++ < LEASE_UNKNOWN_MAX;
    }
    for (size_t i = 0; i < ARRAY_LEN(passing); i++)
        if (strcmp(err->sqlstate, passing[i]) == 0)
            return true;
    return false;
}

static void fail_lease(struct line *line, const struct err *err)
{
    struct seq *seq = line->seq;
    struct err why = *err;
    err_prefix(&why, "sequence %s", line->def->name);
    seq->stats.n_lease_errors++;
    line->pause_until_ms = loop_now(seq->loop) + PAUSE_MS;
    if (!line->is_failing)
        log_error("sequence cannot lease numbers", LOG_S("sequence", line->def->name), LOG_S("why", err->message));
    line->is_failing = true;
    seq_store_give_up(&seq->store, &line->key, loop_now(seq->loop));
    fail_all(line, &why);
}

static void on_leased(void *data, const struct pg_result *result, const struct err *err)
{
    struct line *line = data;
    struct seq_range block = {0};
    struct err why = {0};
    CHECK_OBJ(line->seq, SEQ_MAGIC);
    line->op = NULL;
    if (err && may_lease_again(line, err)) {
        send_lease(line);
        return;
    }
    if (err)
        why = *err;
    if (!err && read_block(line, result, &block, &why) == OK)
        take_block(line, block);
    else
        fail_lease(line, &why);
    if (!line->op)
        serve(line);
    arm(line);
}

/* ---- calls --------------------------------------------------------------------------------------------------- */

enum status seq_take(struct seq *seq, int id, struct seq_number *out, struct err *err)
{
    struct line *line = line_of(seq, id);
    if (!seq->pg)
        return err_set(err, ERR_UNAVAILABLE, "PostgreSQL is not configured: set pg.url, or DATABASE_URL");
    if (seq->is_closing)
        return err_set(err, ERR_CANCELLED, "the worker is stopping");
    if (line->n_waits >= MAX_WAITING)
        return err_set(err, ERR_QUEUE_FULL, "%u calls wait for a number of sequence %s", line->n_waits,
                       line->def->name);
    if (line->n_waits > 0)
        return AGAIN; /* first come, first served */
    struct seq_answer answer = ask_store(line, 1, 1);
    if (seq_range_len(answer.range) == 0)
        return AGAIN;
    *out = (struct seq_number){.def = line->def, .value = answer.range.next, .period = line->key.period};
    seq->stats.n_numbers++;
    return OK;
}

struct seq_wait *seq_wait_start(struct seq *seq, int id, const struct seq_call *call)
{
    struct line *line = line_of(seq, id);
    struct seq_wait *wait = xalloc(sizeof(*wait));
    *wait = (struct seq_wait){.magic = SEQ_WAIT_MAGIC, .line = line, .call = *call};
    list_push(&line->waits, &wait->node);
    line->n_waits++;
    seq->stats.n_waits++;
    arm(line);
    return wait;
}

void seq_wait_cancel(struct seq_wait *wait)
{
    CHECK_OBJ(wait, SEQ_WAIT_MAGIC);
    list_remove(&wait->node);
    wait->line->n_waits--;
    wait->magic = 0;
    free(wait);
}

bool seq_read(struct seq *seq, int id, struct slice text, struct seq_number *out)
{
    struct line *line = line_of(seq, id);
    set_period(line);
    *out = (struct seq_number){.def = line->def, .period = line->key.period};
    return seq_format_read(line->def, out->period, text, &out->value);
}

void seq_skip(struct seq *seq, int id, const struct seq_number *number)
{
    struct line *line = line_of(seq, id);
    if (has_period(line, &number->period))
        seq_store_skip(&seq->store, &line->key, loop_now(seq->loop), number->value);
}

int seq_find(const struct seq *seq, struct slice name)
{
    for (size_t i = 0; i < seq->defs.n_items; i++)
        if (slice_eq(name, slice_str(seq->defs.items[i].name)))
            return (int)i;
    return -1;
}

const struct seq_def *seq_def(const struct seq *seq, int id)
{
    return line_of(seq, id)->def;
}

void seq_stats(const struct seq *seq, struct seq_stats *out)
{
    CHECK_OBJ(seq, SEQ_MAGIC);
    *out = seq->stats;
    out->n_dropped = seq->store.n_dropped;
    out->n_orphaned = seq->store.n_orphaned;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

int seq_segment_create(struct err *err)
{
    return shm_create(&seq_layout, err);
}

static void create_lines(struct seq *seq)
{
    seq->lines = xalloc((seq->defs.n_items ? seq->defs.n_items : 1) * sizeof(*seq->lines));
    for (size_t i = 0; i < seq->defs.n_items; i++) {
        struct line *line = &seq->lines[i];
        line->seq = seq;
        line->def = &seq->defs.items[i];
        line->key.name = line->def->name;
        line->day = INT64_MIN;
        list_init(&line->waits);
    }
}

struct seq *seq_new(const struct seq_opts *opts, struct err *err)
{
    struct seq *seq = xalloc(sizeof(*seq));
    seq->magic = SEQ_MAGIC;
    seq->loop = opts->loop;
    seq->pg = opts->pg;
    if (seq_defs_read(opts->config_json, &seq->defs, NULL, err) == OK &&
        seq_store_open(&seq->store, opts->segment_fd, err) == OK) {
        create_lines(seq);
        return seq;
    }
    free(seq);
    return NULL;
}

void seq_free(struct seq *seq)
{
    struct err err = {0};
    if (!seq)
        return;
    CHECK_OBJ(seq, SEQ_MAGIC);
    seq->is_closing = true;
    err_set(&err, ERR_CANCELLED, "the worker is stopping");
    for (size_t i = 0; i < seq->defs.n_items; i++) {
        struct line *line = &seq->lines[i];
        if (line->op) {
            pg_op_cancel(line->op);
            seq_store_give_up(&seq->store, &line->key, loop_now(seq->loop));
        }
        fail_all(line, &err);
        timer_stop(seq->loop, &line->timer);
    }
    seq_store_close(&seq->store);
    free(seq->lines);
    seq->magic = 0;
    free(seq);
}
