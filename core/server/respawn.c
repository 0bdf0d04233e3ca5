#include "server/respawn.h"

int respawn_on_death(struct respawn *respawn, uint64_t lived_ms)
{
    if (lived_ms >= RESPAWN_YOUNG_MS)
        respawn->young_deaths = 0;
    respawn->young_deaths++;
    if (respawn->young_deaths >= RESPAWN_CRASH_LOOP)
        return -1;
    if (respawn->young_deaths == 1)
        return 0;
    int delay = RESPAWN_FIRST_MS << (respawn->young_deaths - 2);
    return delay < RESPAWN_MAX_MS ? delay : RESPAWN_MAX_MS;
}
