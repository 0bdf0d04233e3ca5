#include "data/pg_lag.h"

static bool parse_hex(struct slice text, uint64_t *out)
{
    *out = 0;
    if (text.len == 0 || text.len > 8)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint64_t)digit;
    }
    return true;
}

bool pg_lsn_parse(struct slice text, uint64_t *lsn)
{
    const char *slash = text.len ? memchr(text.ptr, '/', text.len) : NULL;
    uint64_t high, low;
    if (!slash || !parse_hex(slice_of(text.ptr, (size_t)(slash - text.ptr)), &high) ||
        !parse_hex(slice_of(slash + 1, text.len - (size_t)(slash + 1 - text.ptr)), &low))
        return false;
    *lsn = high << 32 | low;
    return true;
}

void pg_lag_add(struct pg_lag *lag, uint64_t at_ms, uint64_t lsn)
{
    lag->samples[lag->n_taken++ % PG_LAG_SAMPLES] = (struct pg_lag_sample){at_ms, lsn};
}

uint64_t pg_lag_seen(const struct pg_lag *lag, uint64_t lsn)
{
    uint64_t seen_ms = 0;
    for (unsigned i = 0; i < PG_LAG_SAMPLES; i++)
        if (lag->samples[i].at_ms > seen_ms && lag->samples[i].lsn <= lsn)
            seen_ms = lag->samples[i].at_ms;
    return seen_ms;
}
