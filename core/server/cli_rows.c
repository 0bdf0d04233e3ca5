#include "server/cli_rows.h"

#include <stdio.h>
#include <string.h>

#include "data/pg_admin.h"
#include "server/app.h"

static const struct cli_verb *find_verb(const struct cli_verb *verbs, size_t n_verbs, const char *name)
{
    for (size_t i = 0; i < n_verbs; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

static int show(const struct cli_verb *verb, bool as_json, const struct slice *rows, size_t n)
{
    if (as_json)
        puts("[");
    else if (n > 0 && verb->header)
        puts(verb->header);
    for (size_t i = 0; i < n; i++)
        printf("%.*s%s\n", SLICE_FMT(rows[i]), as_json && i + 1 < n ? "," : "");
    if (as_json)
        puts("]");
    else if (n == 0)
        puts(verb->nothing);
    return n == 0 && verb->needs_operand ? CLI_FAILED : CLI_OK;
}

static enum status run(const struct app *app, const struct cli_verb *verb, const char *operand, bool as_json, int *code,
                       struct err *err)
{
    if (!config_is_set(app->config, CONFIG_PG_URL))
        return err_set(err, ERR_INVALID, "no database: set DATABASE_URL or pg.url");
    struct pg_admin *admin = pg_admin_open(config_text(app->config, CONFIG_PG_URL), err);
    if (!admin)
        return ERR;
    struct arena arena;
    struct slice *rows;
    size_t n;
    arena_create(&arena);
    enum status status =
        pg_admin_column(admin, as_json ? verb->sql_json : verb->sql, &operand, 1, &arena, &rows, &n, err);
    if (status == OK)
        *code = show(verb, as_json, rows, n);
    arena_destroy(&arena);
    pg_admin_close(admin);
    return status;
}

int cli_rows_run(struct cli_args *args, const struct cli_verb *verbs, size_t n_verbs)
{
    struct err err = {0};
    struct app app;
    bool as_json = cli_take_flag(args, "--json");
    if (cli_check_operands(args, 0, 2) != OK)
        return CLI_MISUSE;
    const struct cli_verb *verb = find_verb(verbs, n_verbs, args->argc > 0 ? args->argv[0] : verbs[0].name);
    if (!verb)
        return cli_misuse(args, "unexpected argument \"%s\"", args->argv[0]);
    if (args->argc == 2 && !verb->takes_operand)
        return cli_misuse(args, "unexpected argument \"%s\"", args->argv[1]);
    if (verb->needs_operand && args->argc < 2)
        return cli_misuse(args, "%s: which one?", verb->name);
    if (as_json && !verb->sql_json)
        return cli_misuse(args, "%s has no --json", verb->name);
    int code = CLI_OK;
    enum status status = app_open(&app, NULL, false, NULL, &err);
    if (status == OK && (status = app_start_pg(&app, true, &err)) == OK)
        status = run(&app, verb, args->argc == 2 ? args->argv[1] : "", as_json, &code, &err);
    app_close(&app);
    return status == OK ? code : cli_fail(&err);
}
