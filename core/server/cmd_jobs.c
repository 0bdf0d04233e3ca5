/* `chowk jobs`: a look into the queue, and a hand for what lies dead in it. Workers find what was changed by polling.
 */
#include "server/cli_rows.h"

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

static const struct cli_verb verbs[] = {
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

int cmd_jobs(struct cli_args *args)
{
    return cli_rows_run(args, verbs, ARRAY_LEN(verbs));
}
