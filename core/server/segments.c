#include "server/segments.h"

#include <unistd.h>

#include "base/metrics.h"
#include "server/reload_state.h"
#include "server/scoreboard.h"
#include "services/cache.h"
#include "services/limit.h"
#include "services/seq.h"

static int create_seq(const struct config *config UNUSED, struct err *err)
{
    return seq_segment_create(err);
}

static int create_scoreboard(const struct config *config, struct err *err)
{
    return scoreboard_segment_create(config_workers(config) + config_job_workers(config), err);
}

static int create_limit(const struct config *config, struct err *err)
{
    return limit_segment_create((uint32_t)config_number(config, CONFIG_LIMIT_KEYS), err);
}

static int create_cache(const struct config *config, struct err *err)
{
    return cache_segment_create((size_t)config_number(config, CONFIG_CACHE_SIZE),
                                (size_t)config_number(config, CONFIG_CACHE_MAX_VALUE), err);
}

static bool does_cache_fit(const struct config *config, int fd)
{
    return cache_segment_fits(fd, (size_t)config_number(config, CONFIG_CACHE_SIZE),
                              (size_t)config_number(config, CONFIG_CACHE_MAX_VALUE));
}

static int create_reload(const struct config *config UNUSED, struct err *err)
{
    return reload_state_segment_create(err);
}

/* The master counts too. */
static int create_metrics(const struct config *config, struct err *err)
{
    unsigned max_routes = (unsigned)config_number(config, CONFIG_METRICS_MAX_ROUTES);
    return metrics_segment_create(config_workers(config) + config_job_workers(config) + 1, max_routes, err);
}

static bool does_metrics_fit(const struct config *config, int fd)
{
    unsigned max_routes = (unsigned)config_number(config, CONFIG_METRICS_MAX_ROUTES);
    return metrics_segment_fits(fd, config_workers(config) + config_job_workers(config) + 1, max_routes);
}

struct row {
    int (*create)(const struct config *config, struct err *err); /* owned memfd, or -1 */
    bool is_handed_on; /* an upgrade's new workers share it with the old ones, which still run */
    bool (*fits)(const struct config *config, int fd); /* one handed on still serves; NULL: always */
};

static const struct row rows[N_SEGMENTS] = {
    [SEGMENT_SEQ] = {create_seq, true, NULL},        [SEGMENT_SCOREBOARD] = {create_scoreboard, false, NULL},
    [SEGMENT_LIMIT] = {create_limit, true, NULL},    [SEGMENT_CACHE] = {create_cache, true, does_cache_fit},
    [SEGMENT_RELOAD] = {create_reload, false, NULL}, [SEGMENT_METRICS] = {create_metrics, true, does_metrics_fit},
};

enum status segments_create(struct segments *segments, const struct config *config, struct err *err)
{
    for (int i = 0; i < N_SEGMENTS; i++) {
        if (segments->fds[i] >= 0)
            continue;
        segments->fds[i] = rows[i].create(config, err); /* or one that was offered (shm_offer) */
        if (segments->fds[i] >= 0 && rows[i].fits && !rows[i].fits(config, segments->fds[i])) {
            close(segments->fds[i]);
            segments->fds[i] = rows[i].create(config, err);
        }
        if (segments->fds[i] < 0)
            return ERR;
    }
    return OK;
}

bool segments_is_handed_on(enum segment segment)
{
    return rows[segment].is_handed_on;
}

void segments_close(struct segments *segments)
{
    for (int i = 0; i < N_SEGMENTS; i++)
        if (segments->fds[i] >= 0)
            close(segments->fds[i]);
    *segments = SEGMENTS_NONE;
}
