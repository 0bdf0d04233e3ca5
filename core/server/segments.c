#include "server/segments.h"

#include <unistd.h>

#include "server/scoreboard.h"
#include "services/seq.h"

static int create_seq(const struct config *config UNUSED, struct err *err)
{
    return seq_segment_create(err);
}

static int create_scoreboard(const struct config *config, struct err *err)
{
    return scoreboard_segment_create(config_workers(config), err);
}

/* Returns an owned memfd, or -1. */
typedef int (*create_fn)(const struct config *config, struct err *err);

static const create_fn rows[N_SEGMENTS] = {
    [SEGMENT_SEQ] = create_seq,
    [SEGMENT_SCOREBOARD] = create_scoreboard,
};

enum status segments_create(struct segments *segments, const struct config *config, struct err *err)
{
    for (int i = 0; i < N_SEGMENTS; i++) {
        if (segments->fds[i] < 0)
            segments->fds[i] = rows[i](config, err);
        if (segments->fds[i] < 0)
            return ERR;
    }
    return OK;
}

void segments_close(struct segments *segments)
{
    for (int i = 0; i < N_SEGMENTS; i++)
        if (segments->fds[i] >= 0)
            close(segments->fds[i]);
    *segments = SEGMENTS_NONE;
}
