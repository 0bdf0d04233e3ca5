#include "server/respawn.h"

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

int respawn_on_death(struct respawn *respawn, enum respawn_cause cause, uint64_t ready_ms)
{
    enum { MAX_DOUBLINGS = 16 };
    if (ready_ms >= RESPAWN_SETTLED_MS)
        *respawn = (struct respawn){0};
    bool is_at_start = cause == RESPAWN_ITSELF && ready_ms < RESPAWN_SETTLED_MS;
    respawn->n_in_row++;
    respawn->n_at_start = is_at_start ? respawn->n_at_start + 1 : 0;
    if (respawn_is_loop(respawn))
        return -1;
    if (respawn->n_in_row == 1)
        return 0;
    int delay_ms = RESPAWN_FIRST_MS << min_int((int)respawn->n_in_row - 2, MAX_DOUBLINGS);
    return min_int(delay_ms, is_at_start ? RESPAWN_MAX_MS : RESPAWN_CALM_MAX_MS);
}

bool respawn_is_loop(const struct respawn *respawn)
{
    return respawn->n_at_start >= RESPAWN_CRASH_LOOP;
}
