/* An application directory as the commands see it: where it is, its configuration, and the databases it can count on.
 */
#pragma once

#include "server/config.h"
#include "server/embedded.h"

struct app {
    struct config *config;
    struct embedded *pg, *redis; /* private servers we lean on; NULL: not needed */
};

/* Goes to `dir` (NULL: stays), loads the configuration. The log shows warnings, as text: a
 * command that serves opens its own. `source` names who asked, for `chowk config`.
 */
enum status app_open(struct app *app, const char *dir, bool development, const char *source,
                     struct err *err) MUST_CHECK;
/* Stops what app_start_* started; tolerates a half-opened one. */
void app_close(struct app *app);

/* An application with migrations has a database: for each URL that is not configured its private server is started,
 * and the URL set. `brief`: a short command, which a `chowk dev` started meanwhile waits for. */
bool app_has_migrations(const struct app *app);
enum status app_start_pg(struct app *app, bool brief, struct err *err) MUST_CHECK;
enum status app_start_redis(struct app *app, bool brief, struct err *err) MUST_CHECK;
