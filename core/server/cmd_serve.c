#include "base/clock.h"
#include "base/log.h"
#include "server/app.h"
#include "server/cli.h"
#include "server/config_log.h"
#include "server/early_stop.h"
#include "server/handover.h"
#include "server/master.h"

struct serve {
    const struct config *config;
    uint64_t started_ms;
};

static void on_ready(void *data, const char *url)
{
    const struct serve *serve = data;
    log_info("serving", LOG_S("url", url), LOG_I("workers", config_workers(serve->config)),
             LOG_S("version", CHOWK_VERSION), LOG_I("ready_ms", (int64_t)(clock_ms() - serve->started_ms)));
}

int cmd_serve(struct cli_args *args)
{
    struct err err = {0};
    struct app app = {0};
    struct handover *handover = NULL;
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    uint64_t started_ms = clock_ms();
    early_stop_catch();
    int code = CLI_FAILED;
    if (handover_receive(&handover, &err) != ERR &&
        app_open(&app, args->argc ? args->argv[0] : NULL, false, NULL, &err) == OK &&
        config_log_start(app.config, NULL, &err) == OK) {
        if (app_has_migrations(&app) && !config_is_set(app.config, CONFIG_PG_URL))
            log_error("no database: set DATABASE_URL or pg.url");
        struct serve serve = {.config = app.config, .started_ms = started_ms};
        code = master_run(
            &(struct master_opts){.config = app.config, .on_ready = on_ready, .handover = handover, .data = &serve},
            &err);
    }
    if (code != CLI_OK)
        handover_say_failed(handover, &err);
    handover_free(handover);
    app_close(&app);
    return code == CLI_OK ? CLI_OK : cli_fail(&err);
}
