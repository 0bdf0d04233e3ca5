/* The shared memory of one server: a memfd for each service that its workers share, made by the master, mapped by the
 * workers, handed on by an upgrade. A new one is a row in `rows` (segments.c) and a name here. */
#pragma once

#include "server/config.h"

enum segment {
    SEGMENT_SEQ,        /* leased numbers: services/seq.h */
    SEGMENT_SCOREBOARD, /* who runs what: server/scoreboard.h; never handed on */
    SEGMENT_LIMIT,      /* rate limits: services/limit.h */
    SEGMENT_CACHE,      /* L1 of the cache: services/cache.h */
    SEGMENT_RELOAD,     /* the committed generation: server/reload_state.h; never handed on */
    SEGMENT_METRICS,    /* what is counted: base/metrics.h */
    N_SEGMENTS
};

struct segments {
    int fds[N_SEGMENTS]; /* -1 = not there */
};

#define SEGMENTS_NONE ((struct segments){.fds = {[0 ... N_SEGMENTS - 1] = -1}})

/* Creates those that are not there yet. ERR: those that were made stay; close them. */
enum status segments_create(struct segments *segments, const struct config *config, struct err *err) MUST_CHECK;
/* It goes to the master that replaces this one. What one process at a time may write by its number does not, nor what
 * only this master's generation means anything to. */
bool segments_is_handed_on(enum segment segment);
void segments_close(struct segments *segments);
