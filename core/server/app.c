#include "server/app.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "server/config_load.h"
#include "server/config_log.h"

#define VAR_DIR "var"

enum status app_open(struct app *app, const char *dir, bool development, const char *source, struct err *err)
{
    *app = (struct app){0};
    if (dir && chdir(dir) != 0)
        return err_errno(err, errno, "%s", dir);
    app->config = config_load(&(struct config_overrides){.development = development, .source = source}, err);
    if (!app->config)
        return ERR;
    log_open(STDERR_FILENO, LOG_WARN, false, NULL);
    return OK;
}

void app_close(struct app *app)
{
    config_log_stop();
    embedded_stop(app->redis);
    embedded_stop(app->pg);
    config_free(app->config);
    *app = (struct app){0};
}

bool app_has_migrations(const struct app *app)
{
    struct stat st;
    return stat(config_text(app->config, CONFIG_APP_MIGRATIONS), &st) == 0 && S_ISDIR(st.st_mode);
}

static enum status start(struct app *app, enum config_key url, bool brief,
                         struct embedded *(*fn)(const struct embedded_opts *, struct err *), struct embedded **out,
                         struct err *err)
{
    if (config_is_set(app->config, url) || !app_has_migrations(app))
        return OK;
    *out = fn(&(struct embedded_opts){.var_dir = VAR_DIR, .brief = brief}, err);
    if (!*out)
        return ERR;
    return config_set_command(app->config, url, embedded_url(*out), "private, below var/", err);
}

enum status app_start_pg(struct app *app, bool brief, struct err *err)
{
    return start(app, CONFIG_PG_URL, brief, embedded_pg_start, &app->pg, err);
}

enum status app_start_redis(struct app *app, bool brief, struct err *err)
{
    return start(app, CONFIG_REDIS_URL, brief, embedded_redis_start, &app->redis, err);
}
