/* `chowk migrate`: the services/migrate.h runner on the configured database, or on the private one. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/pg_admin.h"
#include "server/app.h"
#include "server/cli.h"
#include "services/migrate.h"

enum { NAME_MAX_LEN = 60 };

enum action { APPLY, STATUS, DRY_RUN };

struct listing {
    enum action action;
    unsigned n_files;
};

/* What is done already only interests who asks for the status. */
static void print_file(void *data, const char *file, const char *state, uint64_t ms)
{
    struct listing *listing = data;
    if (listing->action != STATUS && strcmp(state, "done") == 0)
        return;
    listing->n_files++;
    if (ms > 0)
        printf("  %-8s %s  %llu ms\n", state, file, (unsigned long long)ms);
    else
        printf("  %-8s %s\n", state, file);
}

static int last_number(const char *dir_path)
{
    int last = 0;
    DIR *dir = opendir(dir_path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int number = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
        last = number > last ? number : last;
    }
    if (dir)
        closedir(dir);
    return last;
}

static bool is_good_name(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return len > 0 && len <= NAME_MAX_LEN && !name[len];
}

static int create_file(const struct app *app, const char *name)
{
    const char *dir = config_text(app->config, CONFIG_APP_MIGRATIONS);
    struct err err = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s/%04d_%s.sql", dir, last_number(dir) + 1, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        err_errno(&err, errno, "%s", path);
        return cli_fail(&err);
    }
    dprintf(fd, "-- %s: one transaction; a first line `-- chowk: no transaction` runs it without.\n", name);
    close(fd);
    puts(path);
    return CLI_OK;
}

static enum status migrate(const struct app *app, enum action action, struct err *err)
{
    if (!config_is_set(app->config, CONFIG_PG_URL))
        return err_set(err, ERR_INVALID, "no database: set DATABASE_URL or pg.url, or create %s/",
                       config_text(app->config, CONFIG_APP_MIGRATIONS));
    struct pg_admin *admin = pg_admin_open(config_text(app->config, CONFIG_PG_URL), err);
    if (!admin)
        return ERR;
    struct listing listing = {.action = action};
    struct migrate_opts opts = {.dir = config_text(app->config, CONFIG_APP_MIGRATIONS),
                                .dry_run = action == DRY_RUN,
                                .on_file = print_file,
                                .data = &listing};
    enum status status = action == STATUS ? migrate_status(admin, &opts, err) : migrate_run(admin, &opts, err);
    pg_admin_close(admin);
    if (status == OK && listing.n_files == 0)
        puts(action == STATUS ? "no migrations" : "nothing to apply");
    return status;
}

static int parse(struct cli_args *args, enum action *action, const char **new_name)
{
    *action = cli_take_flag(args, "--dry-run") ? DRY_RUN : APPLY;
    if (cli_check_operands(args, 0, 2) != OK)
        return CLI_MISUSE;
    if (args->argc == 0)
        return CLI_OK;
    bool is_status = strcmp(args->argv[0], "status") == 0;
    if (*action == DRY_RUN || (!is_status && strcmp(args->argv[0], "new") != 0))
        return cli_misuse(args, "unexpected argument \"%s\"", args->argv[0]);
    if (is_status && args->argc == 2)
        return cli_misuse(args, "unexpected argument \"%s\"", args->argv[1]);
    if (is_status) {
        *action = STATUS;
        return CLI_OK;
    }
    if (args->argc != 2 || !is_good_name(args->argv[1]))
        return cli_misuse(args, "new: expected a name of a-z, 0-9 and _, such as add_gift_cards");
    *new_name = args->argv[1];
    return CLI_OK;
}

int cmd_migrate(struct cli_args *args)
{
    struct err err = {0};
    struct app app;
    enum action action;
    const char *new_name = NULL;
    int code = parse(args, &action, &new_name);
    if (code != CLI_OK)
        return code;
    enum status status = app_open(&app, NULL, false, NULL, &err);
    if (status == OK && new_name)
        code = create_file(&app, new_name);
    else if (status == OK && (status = app_start_pg(&app, true, &err)) == OK)
        status = migrate(&app, action, &err);
    app_close(&app);
    return status == OK ? code : cli_fail(&err);
}
