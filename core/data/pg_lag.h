/* How old what a replica shows is, without comparing clocks. The primary's WAL position is noted now and then with our
 * own time; a replica that has replayed a position shows everything that was committed before its time. */
#pragma once

#include "base/slice.h"

#define PG_LAG_SAMPLES 32

struct pg_lag { /* zeroed = nothing known; read its fields nowhere */
    struct pg_lag_sample {
        uint64_t at_ms, lsn;
    } samples[PG_LAG_SAMPLES];
    unsigned n_taken;
};

bool pg_lsn_parse(struct slice text, uint64_t *lsn) MUST_CHECK; /* "16/B374D848" */
/* `at_ms` is from before the primary was asked. Samples come in the order of time. */
void pg_lag_add(struct pg_lag *lag, uint64_t at_ms, uint64_t lsn);
/* The latest time whose commits a replica that has replayed up to `lsn` shows; 0: older than every sample. */
uint64_t pg_lag_seen(const struct pg_lag *lag, uint64_t lsn);
