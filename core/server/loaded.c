#include "server/loaded.h"

#include <unistd.h>

#include "base/clock.h"
#include "server/config_json.h"

enum status loaded_open(struct loaded *loaded, const struct app *app, bool has_services, struct err *err)
{
    *loaded = (struct loaded){0};
    int bundle_fd = host_build_bundle(app->config, err);
    if (bundle_fd < 0)
        return ERR;
    config_write_json(app->config, &loaded->json);
    loaded->guard.time_key = "reload.timeout";
    loaded->guard.max_bytes = (size_t)config_number(app->config, CONFIG_RELOAD_MAX_MEMORY);
    atomic_store(&loaded->guard.deadline_ms, clock_ms() + (uint64_t)config_number(app->config, CONFIG_RELOAD_TIMEOUT));
    struct host_opts opts = {.config = app->config,
                             .guard = &loaded->guard,
                             .config_json = buf_as_slice(&loaded->json),
                             .bundle_fd = bundle_fd,
                             .worker_id = -1,
                             .n_processes = config_workers(app->config) + config_job_workers(app->config),
                             .has_services = has_services};
    enum status status = host_open(&loaded->host, &opts, err);
    close(bundle_fd);
    if (status != OK)
        buf_free(&loaded->json);
    return status;
}

void loaded_close(struct loaded *loaded)
{
    host_close(&loaded->host);
    buf_free(&loaded->json);
}
