/* Time zones by the system's zone database (TZif, RFC 8536), without the process's TZ: many zones at once, safe on any
 * thread. "UTC" and "Asia/Kolkata" are known without it. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

struct zone;

/* BLOCKING: reads a small file, once. NULL: ERR_INVALID, no such zone. Returns owned. */
struct zone *zone_new(struct slice name, struct err *err) MUST_CHECK;
void zone_free(struct zone *zone); /* NULL is fine */

/* What of its own time that zone is ahead of UTC at this moment, in seconds. */
int32_t zone_offset(const struct zone *zone, int64_t unix_s);
/* The first moment after unix_s at which the offset changes; INT64_MAX: none. */
int64_t zone_next_change(const struct zone *zone, int64_t unix_s);

/* Days since 1970-01-01 of a date of the Gregorian calendar, and back. month and day count from 1. */
int64_t civil_to_days(int64_t year, int month, int day);
void civil_from_days(int64_t days, int64_t *year, int *month, int *day);
