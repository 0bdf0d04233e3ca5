/* `chowk dev`: private databases if need be → migrations → seed → a Razorpay to practise with, if the application names
 * one → serve → stop all of it, the databases last.
 * What it prints is for a person at a terminal; the start stays quick and quiet for an application without a database.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/pg_admin.h"
#include "server/app.h"
#include "server/cli.h"
#include "server/companion.h"
#include "server/config_dump.h"
#include "server/config_log.h"
#include "server/early_stop.h"
#include "server/master.h"
#include "server/seed.h"
#include "services/migrate.h"

#define SANDBOX_PORT 9090 /* or the next free one */

struct dev {
    struct app app;
    struct companion sandbox;
    uint64_t started_ms;
};

static void on_file(void *data, const char *file, const char *state, uint64_t ms)
{
    (void)data;
    if (strcmp(state, "applied") == 0)
        fprintf(stderr, "  migrated  %s  %llu ms\n", file, (unsigned long long)ms);
}

static enum status seed(const struct dev *dev, struct pg_admin *admin, struct err *err)
{
    char path[512];
    enum seed_outcome outcome;
    snprintf(path, sizeof(path), "%s/seed.sql", config_text(dev->app.config, CONFIG_APP_MIGRATIONS));
    if (seed_apply(admin, path, &outcome, err) != OK)
        return ERR;
    if (outcome == SEED_APPLIED)
        fprintf(stderr, "  seeded    %s\n", path);
    else if (outcome == SEED_CHANGED)
        fprintf(stderr, "  note      %s has changed since it was applied; drop the data to apply it anew\n", path);
    return OK;
}

static enum status prepare_database(struct dev *dev, struct err *err)
{
    const struct config *config = dev->app.config;
    if (!app_has_migrations(&dev->app) || !config_is_set(config, CONFIG_PG_URL))
        return OK;
    struct pg_admin *admin = pg_admin_open(config_text(config, CONFIG_PG_URL), err);
    if (!admin)
        return err_prefix(err, "PostgreSQL");
    struct migrate_opts opts = {.dir = config_text(config, CONFIG_APP_MIGRATIONS), .on_file = on_file};
    enum status status = migrate_run(admin, &opts, err);
    if (status == OK)
        status = seed(dev, admin, err);
    pg_admin_close(admin);
    return status;
}

/* ---- the sandbox ---------------------------------------------------------------------------------------------- */

static bool is_given(const struct config *config, enum config_key key)
{
    return config_is_set(config, key) && config->values[key].origin != CONFIG_FROM_DEFAULT;
}

/* Where it delivers webhooks: our own port, as far as it is known beforehand. */
static void print_shop(const struct config *config, char *out, size_t size)
{
    const char *colon = strrchr(config_text(config, CONFIG_LISTEN), ':');
    snprintf(out, size, "SHOP_URL=http://127.0.0.1:%s", colon ? colon + 1 : "8080");
}

static enum status start_sandbox(struct dev *dev, struct err *err)
{
    struct config *config = dev->app.config;
    const char *dir = config_text(config, CONFIG_RAZORPAY_SANDBOX);
    const struct config_value *secrets = &config->values[CONFIG_RAZORPAY_WEBHOOK_SECRETS];
    struct buf key = {0}, webhook = {0};
    char shop[64], api[80];
    if (!dir || is_given(config, CONFIG_RAZORPAY_URL) || is_given(config, CONFIG_RAZORPAY_KEY_ID))
        return OK;
    print_shop(config, shop, sizeof(shop));
    buf_printf(&key, "RAZORPAY_KEY_SECRET=%s", config_text(config, CONFIG_RAZORPAY_KEY_SECRET));
    buf_printf(&webhook, "RAZORPAY_WEBHOOK_SECRET=%s", secrets->n_items > 0 ? secrets->items[0] : "");
    buf_byte(&key, '\0');
    buf_byte(&webhook, '\0');
    const char *const env[] = {shop, key.ptr, webhook.ptr, NULL};
    enum status status =
        companion_start(&dev->sandbox, &(struct companion_opts){.dir = dir, .port = SANDBOX_PORT, .env = env}, err);
    buf_free(&key);
    buf_free(&webhook);
    if (status != OK)
        return err_prefix(err, "razorpay.sandbox");
    snprintf(api, sizeof(api), "%s/v1", dev->sandbox.url);
    return config_set_command(config, CONFIG_RAZORPAY_URL, api, "the sandbox beside it", err);
}

/* ---- what a person sees --------------------------------------------------------------------------------------- */

static void print_url(const char *label, const char *command, const struct config *config, enum config_key key)
{
    struct buf url = {0};
    if (!config_is_set(config, key))
        return;
    config_mask(config, key, &url);
    fprintf(stderr, "  %-9s %s '%.*s'\n", label, command, (int)url.len, url.ptr);
    buf_free(&url);
}

/* redis-cli takes a Unix socket by -s, not as a URL. */
static void print_redis(const struct config *config)
{
    const char *url = config_text(config, CONFIG_REDIS_URL);
    if (url && strncmp(url, "unix://", 7) == 0)
        fprintf(stderr, "  %-9s redis-cli -s '%.*s'\n", "redis", (int)strcspn(url + 7, "?"), url + 7);
    else
        print_url("redis", "redis-cli -u", config, CONFIG_REDIS_URL);
}

static void on_ready(void *data, const char *url)
{
    const struct dev *dev = data;
    const struct config *config = dev->app.config;
    bool is_colour = isatty(STDERR_FILENO);
    fprintf(stderr, "\n%schowk%s %s  %s\n", is_colour ? "\033[1m" : "", is_colour ? "\033[0m" : "", CHOWK_VERSION, url);
    print_url("database", "psql", config, CONFIG_PG_URL);
    print_redis(config);
    if (dev->sandbox.pid > 0)
        fprintf(stderr, "  %-9s %s  a stand-in: pay there, nothing is charged\n", "razorpay", dev->sandbox.url);
    fprintf(stderr, "  %-9s Ctrl-C; a saved file is loaded by itself\n", "stop");
    fprintf(stderr, "  %-9s in %llu ms, %u workers\n\n", "ready", (unsigned long long)(clock_ms() - dev->started_ms),
            config_workers(config));
}

static void on_child(void *data)
{
    struct dev *dev = data;
    (void)embedded_revive(dev->app.pg);
    (void)embedded_revive(dev->app.redis);
    if (companion_has_ended(&dev->sandbox))
        log_error("the stand-in for Razorpay has ended: no payment can be opened until chowk dev is started again");
}

static enum status start_servers(struct dev *dev, struct err *err)
{
    if (app_start_pg(&dev->app, false, err) != OK || app_start_redis(&dev->app, false, err) != OK)
        return ERR;
    if (!early_stop_is_wanted() && prepare_database(dev, err) != OK)
        return ERR;
    return early_stop_is_wanted() ? OK : start_sandbox(dev, err);
}

int cmd_dev(struct cli_args *args)
{
    struct err err = {0};
    struct dev dev = {.started_ms = clock_ms()};
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    early_stop_catch();
    int code = CLI_FAILED;
    enum status status = app_open(&dev.app, args->argc ? args->argv[0] : NULL, true, "chowk dev", &err);
    if (status == OK)
        status = config_log_start(dev.app.config, NULL, &err);
    if (status == OK)
        status = start_servers(&dev, &err);
    if (early_stop_is_wanted())
        code = CLI_OK; /* whatever the interrupted step says of it */
    else if (status == OK)
        code = master_run(
            &(struct master_opts){.config = dev.app.config,
                                  .on_ready = on_ready,
                                  .on_child = on_child,
                                  .no_upgrade = "chowk dev ends with its private databases: stop it and start it again",
                                  .data = &dev},
            &err);
    companion_stop(&dev.sandbox);
    app_close(&dev.app);
    return code == CLI_OK ? CLI_OK : cli_fail(&err);
}
