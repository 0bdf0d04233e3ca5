#include "server/loaded.h"

#include <unistd.h>

#include "server/config_json.h"

enum status loaded_open(struct loaded *loaded, const struct app *app, bool has_services, struct err *err)
{
    *loaded = (struct loaded){0};
    int bundle_fd = host_build_bundle(app->config, err);
    if (bundle_fd < 0)
        return ERR;
    config_write_json(app->config, &loaded->json);
    struct host_opts opts = {.config = app->config,
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
