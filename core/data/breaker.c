#include "data/breaker.h"

bool breaker_allow(struct breaker *breaker, uint64_t now_ms, bool *is_probe)
{
    *is_probe = false;
    if (!breaker->is_open)
        return true;
    if (breaker->is_probing || now_ms < breaker->open_until_ms)
        return false;
    *is_probe = breaker->is_probing = true;
    return true;
}

bool breaker_report(struct breaker *breaker, const struct breaker_opts *opts, uint64_t now_ms, bool is_probe,
                    enum breaker_outcome outcome)
{
    if (is_probe)
        breaker->is_probing = false;
    if (outcome == BREAKER_UNKNOWN)
        return false;
    if (breaker->is_open && !is_probe)
        return false; /* a straggler from before it opened */
    if (outcome == BREAKER_SUCCESS) {
        *breaker = (struct breaker){0};
        return false;
    }
    breaker->n_failures++;
    if (!is_probe && (opts->failures == 0 || breaker->n_failures < opts->failures))
        return false;
    breaker->is_open = true;
    breaker->open_until_ms = now_ms + opts->open_ms;
    return true;
}
