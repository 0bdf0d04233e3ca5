/* An application loaded for a short command: bundle, configuration snapshot and host, without workers. */
#pragma once

#include "script/guard.h"
#include "server/app.h"
#include "server/host.h"

struct loaded {
    struct host host;
    struct buf json;    /* the snapshot that host borrows */
    struct guard guard; /* while the code is loaded */
};

/* `has_services`: connects to PostgreSQL and Redis. ERR names file:line. */
enum status loaded_open(struct loaded *loaded, const struct app *app, bool has_services, struct err *err) MUST_CHECK;
void loaded_close(struct loaded *loaded);
