/* Cron expressions: minute, hour, day of the month, month, day of the week. Lists, ranges, steps, names (jan, mon), 0
 * and 7 are Sunday, and @hourly @daily @midnight @weekly @monthly @yearly @annually. If both days are restricted,
 * either will do, as in every cron since the 1970s. Pure. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

struct zone;

struct cron { /* bit n: value n matches */
    uint64_t minutes;
    uint32_t hours, days, months, weekdays;
    bool any_day, any_weekday; /* written as * */
    bool any_hour;             /* an interval: it follows the clock's run, not its hands */
};

/* ERR: ERR_INVALID, naming the field and what may stand there; also for a date that never comes. */
enum status cron_parse(struct slice text, struct cron *out, struct err *err) MUST_CHECK;

/* The first slot after a moment, both in seconds since 1970. When the zone's clock is put forward over a slot, it runs
 * at the first moment afterwards; when the clock is put back, a slot runs in the first pass only. Neither holds for
 * expressions whose hour is *: "every ten minutes" goes on regardless. */
int64_t cron_next(const struct cron *cron, const struct zone *zone, int64_t after_s);
/* The last slot in (after_s, until_s], or 0: none. */
int64_t cron_latest(const struct cron *cron, const struct zone *zone, int64_t after_s, int64_t until_s);
