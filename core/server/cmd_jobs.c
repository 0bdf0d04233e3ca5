/* `chowk jobs`: a look into the queue, and a hand for what lies dead in it. Straight on the database, so it works
 * whether a server runs or not; workers find what was changed by polling. */
#include <inttypes.h>
#include <stdio.h>

#include "data/pg_admin.h"
#include "server/app.h"
#include "server/cli.h"

struct verb {
    const char *name;
    bool takes_operand, needs_operand;
    const char *sql;      /* one text column; $1 is the operand */
    const char *sql_json; /* with --json; NULL: the verb has none */
    const char *header, *nothing;
};

#define COLUMNS                                                                                                        \
    "lpad(id::text, 10) || '  ' || rpad(state::text, 10) || '  ' || rpad(queue, 10) || '  ' || rpad(kind, 24) || '  "  \
    "' "                                                                                                               \
    "|| lpad((attempt - parked) || '/' || max_attempts, 7) || '  ' || to_char(run_at AT TIME ZONE 'UTC', "             \
    "'YYYY-MM-DD HH24:MI:SS')"
#define JSON                                                                                                           \
    "SELECT row_to_json(j)::text FROM (SELECT id, state, queue, kind, args, priority, attempt - parked AS attempt, "   \
    "max_attempts, run_at, attempted_by, finalized_at, errors, created_at FROM jobs "
#define HEADER "        id  state       queue       kind                        tries  due (UTC)"
#define OPEN "state NOT IN ('completed', 'discarded', 'cancelled')"

static const struct verb verbs[] = {
    {"list", true, false,
     "SELECT " COLUMNS " FROM jobs WHERE CASE WHEN $1 = '' THEN " OPEN " ELSE state::text = $1 OR queue = $1 END "
     "ORDER BY run_at, id LIMIT 200",
     JSON "WHERE CASE WHEN $1 = '' THEN " OPEN " ELSE state::text = $1 OR queue = $1 END ORDER BY run_at, id) j",
     HEADER, "no jobs"},
    {"dead", false, false,
     "SELECT " COLUMNS " || E'\\n            ' || left(coalesce(errors -> -1 ->> 'error', ''), 160) "
     "FROM jobs WHERE state = 'discarded' AND $1 = '' ORDER BY finalized_at DESC LIMIT 200",
     JSON "WHERE state = 'discarded' AND $1 = '' ORDER BY finalized_at DESC) j", HEADER, "no dead jobs"},
    {"retry", true, true,
     "WITH r AS (UPDATE jobs SET state = 'available', run_at = now(), finalized_at = NULL, parked = attempt "
     "WHERE state = 'discarded' AND ($1 = 'all' OR id::text = $1) RETURNING id) "
     "SELECT 'enqueued again: ' || id FROM r",
     NULL, NULL, "no such dead job"},
    {"cancel", true, true,
     "WITH r AS (UPDATE jobs SET state = 'cancelled', finalized_at = now() "
     "WHERE state IN ('available', 'scheduled', 'retryable') AND id::text = $1 RETURNING id) "
     "SELECT 'cancelled: ' || id FROM r",
     NULL, NULL, "no such job is waiting"},
};

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

static int show(const struct verb *verb, bool as_json, const struct slice *rows, size_t n)
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

static enum status run(const struct app *app, const struct verb *verb, const char *operand, bool as_json, int *code,
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

int cmd_jobs(struct cli_args *args)
{
    struct err err = {0};
    struct app app;
    bool as_json = cli_take_flag(args, "--json");
    if (cli_check_operands(args, 0, 2) != OK)
        return CLI_MISUSE;
    const struct verb *verb = find_verb(args->argc > 0 ? args->argv[0] : "list");
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
