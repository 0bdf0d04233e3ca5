/* Which store counts, and what happens when it does not answer: a check goes to shared memory, or to Redis with a short
 * deadline of its own, and from a silent Redis to the rules' policies. Who was kept waiting in vain spares others that:
 * for a moment only closed rules ask it again. The store's silence is logged once a minute. */
#include "services/limit.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/metrics.h"
#include "data/redis.h"
#include "services/limit_redis.h"
#include "services/limit_store.h"

#define LIMITS_MAGIC 0x11317001u
#define CHECK_MAGIC 0x11317002u

enum { REDIS_MS = 250, REST_MS = 1000, COMPLAIN_MS = 60000 };

enum result { ALLOWED, REFUSED, REPORTED, N_RESULTS };

/* What came of the checks of one rule. As many as the configuration has rules. */
struct tally {
    char name[LIMIT_NAME_MAX + 1];
    struct metrics_cell *cells[N_RESULTS];
};

struct limits {
    unsigned magic;
    struct limits_opts opts;
    struct limit_store store;
    struct redis_script script;
    struct list checks;
    struct tally *tallies;
    size_t n_tallies;
    uint64_t rest_until_ms; /* Redis has let a check wait in vain */
    uint64_t complained_ms, n_fallbacks;
};

struct limit_check {
    unsigned magic;
    struct limits *limits;
    struct list node;
    struct redis_op *op;
    uint64_t due_ms; /* Redis is silent if it has not answered by then */
    struct limit_call call;
    struct limit_demand demands[LIMIT_DEMANDS_MAX];
    char keys[]; /* what the demands' keys borrow */
};

struct limits *limits_new(const struct limits_opts *opts, struct err *err)
{
    struct limits *limits = xalloc(sizeof(*limits));
    *limits = (struct limits){.magic = LIMITS_MAGIC, .opts = *opts};
    list_init(&limits->checks);
    redis_script_create(&limits->script, slice_str(limit_script_source));
    if (limit_store_open(&limits->store, opts->segment_fd, opts->n_keys, err) == OK)
        return limits;
    free(limits);
    return NULL;
}

bool limit_is_allowed(const struct limit_verdict *verdicts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!verdicts[i].is_allowed)
            return false;
    return true;
}

/* ---- counting ------------------------------------------------------------------------------------------------- */

static struct tally *tally_of(struct limits *limits, const char *name)
{
    for (size_t i = 0; i < limits->n_tallies; i++)
        if (strcmp(limits->tallies[i].name, name) == 0)
            return &limits->tallies[i];
    limits->tallies = xrealloc(limits->tallies, (limits->n_tallies + 1) * sizeof(*limits->tallies));
    struct tally *tally = &limits->tallies[limits->n_tallies++];
    *tally = (struct tally){.name = ""};
    snprintf(tally->name, sizeof(tally->name), "%s", name);
    return tally;
}

static void count_one(struct limits *limits, const struct limit_rule *rule, enum result result)
{
    static const char *const results[N_RESULTS] = {"allowed", "refused", "reported"};
    struct tally *tally = tally_of(limits, rule->name);
    if (!tally->cells[result]) {
        struct buf labels = {0};
        metrics_label(&labels, "class", slice_str(rule->name));
        metrics_label(&labels, "result", slice_str(results[result]));
        buf_byte(&labels, '\0');
        tally->cells[result] = metrics_labelled(METRIC_LIMIT_CHECKS, labels.ptr);
        buf_free(&labels);
    }
    metrics_add_to(tally->cells[result], 1);
}

/* A rule that would have allowed what another one refused has said nothing. */
static void count(struct limits *limits, const struct limit_call *call, const struct limit_verdict *verdicts)
{
    bool is_allowed = limit_is_allowed(verdicts, call->n_demands);
    enum result otherwise = limits->opts.is_dry_run ? REPORTED : REFUSED;
    if (call->quantity == 0)
        return;
    for (size_t i = 0; i < call->n_demands; i++)
        if (is_allowed || !verdicts[i].is_allowed)
            count_one(limits, call->demands[i].rule, is_allowed ? ALLOWED : otherwise);
}

/* ---- this machine --------------------------------------------------------------------------------------------- */

static void let_pass(const struct limit_rule *rule, struct limit_verdict *verdict)
{
    *verdict = (struct limit_verdict){.is_allowed = true, .remaining = rule->limit};
}

static bool is_closed(const struct limits *limits, const struct limit_call *call)
{
    for (size_t i = 0; i < call->n_demands; i++)
        if (call->demands[i].rule->policy == LIMIT_CLOSED)
            return !limits->opts.is_dry_run;
    return false;
}

static enum status refuse_closed(struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "the rate limit's store does not answer");
}

/* A shard that is not to be had within its 5 ms: the next request will find it again, so only a closed rule minds. */
static enum status check_here(struct limits *limits, const struct limit_call *call, struct limit_verdict *verdicts,
                              struct err *err)
{
    enum status status =
        limit_store_check(&limits->store, call->demands, call->n_demands, call->quantity, clock_us(), verdicts);
    if (status != OK && is_closed(limits, call))
        return refuse_closed(err);
    for (size_t i = 0; status != OK && i < call->n_demands; i++)
        let_pass(call->demands[i].rule, &verdicts[i]);
    count(limits, call, verdicts);
    return OK;
}

/* ---- Redis ---------------------------------------------------------------------------------------------------- */

static void complain(struct limits *limits, const struct err *why)
{
    uint64_t now_ms = clock_ms();
    if (limits->complained_ms && now_ms - limits->complained_ms < COMPLAIN_MS)
        return;
    limits->complained_ms = now_ms;
    log_warn("rate limits: Redis does not answer, each class follows its on_store_failure", LOG_S("why", why->message));
}

/* Open rules pass, local ones are counted here, together; one closed rule refuses. */
static enum status fall_back(struct limits *limits, const struct limit_call *call, struct limit_verdict *verdicts,
                             struct err *err)
{
    struct limit_demand local[LIMIT_DEMANDS_MAX];
    struct limit_verdict local_verdicts[LIMIT_DEMANDS_MAX];
    struct limit_call local_call = *call;
    size_t n = 0;
    limits->n_fallbacks++;
    if (is_closed(limits, call))
        return refuse_closed(err);
    for (size_t i = 0; i < call->n_demands; i++)
        if (call->demands[i].rule->policy == LIMIT_LOCAL)
            local[n++] = call->demands[i];
    local_call.demands = local;
    local_call.n_demands = n;
    if (n > 0 && check_here(limits, &local_call, local_verdicts, err) != OK)
        return ERR;
    for (size_t i = 0, at = 0; i < call->n_demands; i++) {
        if (call->demands[i].rule->policy == LIMIT_LOCAL)
            verdicts[i] = local_verdicts[at++];
        else
            let_pass(call->demands[i].rule, &verdicts[i]);
    }
    return OK;
}

static void check_free(struct limit_check *check)
{
    list_remove(&check->node);
    check->magic = 0;
    free(check);
}

static void on_reply(void *data, const struct redis_value *value, const struct err *err)
{
    struct limit_check *check;
    struct limit_verdict verdicts[LIMIT_DEMANDS_MAX];
    struct err why = {0};
    CAST_OBJ(check, data, CHECK_MAGIC);
    struct limits *limits = check->limits;
    struct limit_call call = check->call;
    enum status status = ERR;
    if (!err && limit_script_read(value, verdicts, call.n_demands, &why) == OK) {
        count(limits, &call, verdicts);
        status = OK;
    } else if (!err || err->code != ERR_CANCELLED) {
        complain(limits, err ? err : &why);
        if (loop_now(limits->opts.loop) >= check->due_ms)
            limits->rest_until_ms = loop_now(limits->opts.loop) + REST_MS;
        status = fall_back(limits, &call, verdicts, &why);
    } else {
        why = *err;
    }
    call.done(call.data, &call, status == OK ? verdicts : NULL, status == OK ? NULL : &why);
    check_free(check);
}

static struct limit_check *check_new(struct limits *limits, const struct limit_call *call)
{
    size_t len = 0;
    for (size_t i = 0; i < call->n_demands; i++)
        len += call->demands[i].key.len;
    struct limit_check *check = xalloc(sizeof(*check) + len);
    check->magic = CHECK_MAGIC;
    check->limits = limits;
    check->call = *call;
    check->call.demands = check->demands;
    char *at = check->keys;
    for (size_t i = 0; i < call->n_demands; i++) {
        struct slice key = call->demands[i].key;
        if (key.len > 0)
            memcpy(at, key.ptr, key.len);
        check->demands[i] = (struct limit_demand){call->demands[i].rule, slice_of(at, key.len)};
        at += key.len;
    }
    list_push(&limits->checks, &check->node);
    return check;
}

static struct limit_check *ask_redis(struct limits *limits, const struct limit_call *call)
{
    struct limit_script_args args;
    uint64_t soon_ms = loop_now(limits->opts.loop) + (limits->opts.redis_ms ? limits->opts.redis_ms : REDIS_MS);
    limit_script_args_create(&args, limits->opts.prefix, call->demands, call->n_demands, call->quantity, 0);
    struct limit_check *check = check_new(limits, call);
    check->due_ms = soon_ms;
    struct redis_script_call run = {.keys = args.keys,
                                    .args = args.args,
                                    .n_keys = args.n_keys,
                                    .n_args = args.n_args,
                                    .deadline_ms =
                                        call->deadline_ms && call->deadline_ms < soon_ms ? call->deadline_ms : soon_ms,
                                    .done = on_reply,
                                    .data = check};
    check->op = redis_script_run(limits->opts.redis, &limits->script, &run);
    return check;
}

/* ---- a check -------------------------------------------------------------------------------------------------- */

enum status limits_check(struct limits *limits, const struct limit_call *call, struct limit_verdict *verdicts,
                         struct limit_check **check, struct err *err)
{
    CHECK_OBJ(limits, LIMITS_MAGIC);
    CHECK(call->n_demands > 0 && call->n_demands <= LIMIT_DEMANDS_MAX);
    if (!limits->opts.redis)
        return check_here(limits, call, verdicts, err);
    if (loop_now(limits->opts.loop) < limits->rest_until_ms && !is_closed(limits, call))
        return fall_back(limits, call, verdicts, err);
    *check = ask_redis(limits, call);
    return AGAIN;
}

void limits_cancel(struct limit_check *check)
{
    CHECK_OBJ(check, CHECK_MAGIC);
    redis_op_cancel(check->op);
    check_free(check);
}

void limits_free(struct limits *limits)
{
    if (!limits)
        return;
    CHECK_OBJ(limits, LIMITS_MAGIC);
    struct err cancelled = {0};
    (void)err_set(&cancelled, ERR_CANCELLED, "the server stops");
    list_each (node, &limits->checks) {
        struct limit_check *check = container_of(node, struct limit_check, node);
        redis_op_cancel(check->op);
        check->call.done(check->call.data, &check->call, NULL, &cancelled);
        check_free(check);
    }
    limit_store_close(&limits->store);
    free(limits->tallies);
    limits->magic = 0;
    free(limits);
}

void limits_stats(const struct limits *limits, struct limits_stats *out)
{
    *out = (struct limits_stats){.n_busy = limits->store.n_busy,
                                 .n_evicted = limits->store.n_evicted,
                                 .n_orphaned = limits->store.n_orphaned,
                                 .n_fallbacks = limits->n_fallbacks};
}
