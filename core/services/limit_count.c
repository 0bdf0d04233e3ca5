/* Sliding windows that are exact keep one tick per charge. A tick is the window's 32768th part, and a charge
 * counts until it is more than 32768 ticks old: never less than the window, at most two ticks more. Ticks are
 * 16 bit; they stay unambiguous because whatever is older than the window is dropped before anything is added, and the
 * whole count expires one window after its last charge.
 *
 * GCRA as in redis-cell: `full_us` is when the bucket would be full again. */
#include "services/limit_count.h"

#include <string.h>

enum { TICKS = 32768 };

static bool is_exact(const struct limit_rule *rule)
{
    return rule->limit <= LIMIT_EXACT_MAX;
}

/* ---- exact ---------------------------------------------------------------------------------------------------- */

static uint16_t tick_of(const struct limit_rule *rule, uint64_t us)
{
    return (uint16_t)((unsigned __int128)us * TICKS / rule->window_us);
}

/* When a charge that is `age` ticks old counts no more, from now. */
static uint64_t us_left(const struct limit_rule *rule, uint32_t age)
{
    return (uint64_t)(((unsigned __int128)(TICKS + 1 - age) * rule->window_us + TICKS - 1) / TICKS);
}

static uint32_t age_of(const struct limit_count *count, size_t i, uint16_t now)
{
    return (uint16_t)(now - count->log.ticks[(count->log.first + i) % LIMIT_EXACT_MAX]);
}

static void log_test(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us,
                     struct limit_verdict *verdict)
{
    uint16_t now = tick_of(rule, now_us);
    while (count->log.n > 0 && age_of(count, 0, now) > TICKS) {
        count->log.first = (uint16_t)((count->log.first + 1) % LIMIT_EXACT_MAX);
        count->log.n--;
    }
    uint32_t n = count->log.n;
    verdict->is_allowed = n + quantity <= rule->limit;
    verdict->remaining = n < rule->limit ? rule->limit - n : 0;
    verdict->reset_us = n > 0 ? us_left(rule, age_of(count, 0, now)) : 0;
    if (verdict->is_allowed)
        return;
    size_t too_many = n + quantity - rule->limit; /* so many must expire first; more than there are: never */
    verdict->retry_us = too_many <= n ? us_left(rule, age_of(count, too_many - 1, now)) : rule->window_us;
}

static void log_charge(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us)
{
    uint16_t now = tick_of(rule, now_us);
    for (; quantity > 0; quantity--)
        count->log.ticks[(count->log.first + count->log.n++) % LIMIT_EXACT_MAX] = now;
    count->until_us = now_us + us_left(rule, 0) + rule->window_us / TICKS;
}

/* ---- estimated from two windows ------------------------------------------------------------------------------- */

static void window_move(struct limit_count *count, const struct limit_rule *rule, uint64_t now_us)
{
    uint64_t start_us = now_us - now_us % rule->window_us;
    if (count->window.start_us == start_us)
        return;
    count->window.previous = count->window.start_us + rule->window_us == start_us ? count->window.current : 0;
    count->window.current = 0;
    count->window.start_us = start_us;
}

/* The part of `n` that still counts when `left_us` of its window overlap ours; rounded up. */
static uint64_t share(uint64_t n, uint64_t left_us, uint64_t window_us)
{
    return (uint64_t)(((unsigned __int128)n * left_us + window_us - 1) / window_us);
}

/* How long until at most `room` of n count, when left_us of its window overlap ours now. */
static uint64_t wait_for(uint64_t n, uint64_t room, uint64_t left_us, uint64_t window_us)
{
    uint64_t overlap_us = n > room ? (uint64_t)((unsigned __int128)room * window_us / n) : window_us;
    return overlap_us < left_us ? left_us - overlap_us : 0;
}

static void window_test(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us,
                        struct limit_verdict *verdict)
{
    window_move(count, rule, now_us);
    uint64_t left_us = count->window.start_us + rule->window_us - now_us, current = count->window.current;
    uint64_t used = current + share(count->window.previous, left_us, rule->window_us);
    verdict->is_allowed = used + quantity <= rule->limit;
    verdict->remaining = used < rule->limit ? (uint32_t)(rule->limit - used) : 0;
    verdict->reset_us = used > 0 ? left_us : 0;
    if (verdict->is_allowed)
        return;
    if (quantity > rule->limit)
        verdict->retry_us = rule->window_us;
    else if (current + quantity <= rule->limit)
        verdict->retry_us =
            wait_for(count->window.previous, rule->limit - current - quantity, left_us, rule->window_us);
    else
        verdict->retry_us = left_us + wait_for(current, rule->limit - quantity, rule->window_us, rule->window_us);
}

static void window_charge(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity)
{
    count->window.current += quantity;
    count->until_us = count->window.start_us + 2 * rule->window_us;
}

/* ---- GCRA ----------------------------------------------------------------------------------------------------- */

static void gcra_test(const struct limit_count *count, const struct limit_rule *rule, uint32_t quantity,
                      uint64_t now_us, struct limit_verdict *verdict)
{
    uint64_t unit_us = rule->window_us / rule->limit, room_us = unit_us * rule->burst;
    uint64_t used_us = count->gcra.full_us > now_us ? count->gcra.full_us - now_us : 0;
    uint64_t wanted_us = unit_us * quantity;
    verdict->is_allowed = used_us + wanted_us <= room_us;
    verdict->remaining = used_us < room_us ? (uint32_t)((room_us - used_us) / unit_us) : 0;
    verdict->reset_us = used_us;
    if (!verdict->is_allowed)
        verdict->retry_us = wanted_us <= room_us ? used_us + wanted_us - room_us : rule->window_us;
}

static void gcra_charge(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us)
{
    uint64_t from_us = count->gcra.full_us > now_us ? count->gcra.full_us : now_us;
    count->until_us = count->gcra.full_us = from_us + rule->window_us / rule->limit * quantity;
}

/* ---- one of them ---------------------------------------------------------------------------------------------- */

void limit_count_test(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us,
                      struct limit_verdict *verdict)
{
    *verdict = (struct limit_verdict){0};
    if (count->until_us <= now_us)
        *count = (struct limit_count){0};
    if (rule->algorithm == LIMIT_GCRA)
        gcra_test(count, rule, quantity, now_us, verdict);
    else if (is_exact(rule))
        log_test(count, rule, quantity, now_us, verdict);
    else
        window_test(count, rule, quantity, now_us, verdict);
}

void limit_count_charge(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity, uint64_t now_us,
                        struct limit_verdict *verdict)
{
    if (quantity == 0)
        return;
    if (rule->algorithm == LIMIT_GCRA)
        gcra_charge(count, rule, quantity, now_us);
    else if (is_exact(rule))
        log_charge(count, rule, quantity, now_us);
    else
        window_charge(count, rule, quantity);
    limit_count_test(count, rule, 0, now_us, verdict);
}
