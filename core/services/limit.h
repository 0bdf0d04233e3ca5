/* Rate limits: how often a key (an address, an account, an order) may do something. A check tests all its demands and
 * charges all of them or none, so that a request refused by one limit does not use up another.
 *
 * The counts live in shared memory of this machine (limit_store.h) or, for several machines, in Redis, by one atomic
 * script that uses Redis' clock (limit_redis.h). When that store does not answer, each rule's own policy decides.
 *
 * Two algorithms. A sliding window allows `limit` in any window of time: exactly up to LIMIT_EXACT_MAX, above that
 * by the usual estimate from two adjacent windows. GCRA spreads `limit` evenly over the window after a burst. */
#pragma once

#include "base/err.h"
#include "base/slice.h"
#include "net/loop.h"

struct redis;

enum limit_algorithm { LIMIT_SLIDING, LIMIT_GCRA };
enum limit_policy { LIMIT_LOCAL, LIMIT_OPEN, LIMIT_CLOSED }; /* without Redis: count here, let pass, refuse */

enum {
    LIMIT_NAME_MAX = 31,
    LIMIT_EXACT_MAX = 108, /* what one slot of the shared memory remembers one by one */
    LIMIT_DEMANDS_MAX = 8,
    LIMIT_WINDOW_MAX_S = 86400 * 31,
};

struct limit_rule {
    char name[LIMIT_NAME_MAX + 1];
    enum limit_algorithm algorithm;
    enum limit_policy policy;
    uint32_t limit; /* at least 1 */
    uint32_t burst; /* GCRA: how many at once, 1 … ; else ignored */
    uint64_t window_us;
};

struct limit_demand {
    const struct limit_rule *rule; /* borrowed until the check has ended */
    struct slice key;              /* whom to charge; copied where it must last */
};

struct limit_verdict {
    bool is_allowed;
    uint32_t remaining;          /* what is left after this check */
    uint64_t retry_us, reset_us; /* until this demand would pass (0: it does) · until the first unit comes back */
};

struct limits;
struct limits_opts {
    struct loop *loop;
    struct redis *redis; /* NULL: this machine alone */
    bool is_dry_run;     /* nothing will be refused: a closed rule without its store lets pass */
    const char *prefix;  /* prefix of the keys in Redis; borrowed for ever */
    uint32_t redis_ms;   /* how long Redis may take before the policies decide; 0 = 250 */
    int segment_fd;      /* shared with the other workers (limit_segment_create); borrowed for the call; -1: none */
    uint32_t n_keys;     /* as given to limit_segment_create */
};

int limit_segment_create(uint32_t n_keys, struct err *err) MUST_CHECK; /* by the master; returns owned fd, or -1 */
struct limits *limits_new(const struct limits_opts *opts, struct err *err);
void limits_free(struct limits *limits); /* before redis. Checks under way complete with ERR_CANCELLED */

struct limit_check;
struct limit_call {
    const struct limit_demand *demands;
    size_t n_demands;  /* 1 … LIMIT_DEMANDS_MAX */
    uint32_t quantity; /* 0: only looks */
    uint64_t deadline_ms;
    /* This call with its demands, and their verdicts; all borrowed. err: a rule that is closed had no store, or
     * cancelled. */
    void (*done)(void *data, const struct limit_call *call, const struct limit_verdict *verdicts,
                 const struct err *err);
    void *data;
};
/* OK: answered, verdicts are filled and `done` is never called. AGAIN: it will be, unless cancelled; *check is set.
 * ERR: err, at once. */
enum status limits_check(struct limits *limits, const struct limit_call *call, struct limit_verdict *verdicts,
                         struct limit_check **check, struct err *err) MUST_CHECK;
void limits_cancel(struct limit_check *check);

/* All of them allowed? */
bool limit_is_allowed(const struct limit_verdict *verdicts, size_t n);

/* The address as a key: IPv4 as it is, also when mapped into IPv6, of IPv6 the /56 that one subscriber has. */
#define LIMIT_IP_KEY_MAX 64
struct slice limit_ip_key(const char *ip, char out[LIMIT_IP_KEY_MAX]);

/* Checks by class are counted as they end, in base/metrics. */
struct limits_stats {
    uint64_t n_busy, n_evicted, n_orphaned; /* of the shared memory: no lock in time, keys forgotten, parts reset */
    uint64_t n_fallbacks;                   /* checks that Redis did not answer */
};
void limits_stats(const struct limits *limits, struct limits_stats *out); /* of this process */
