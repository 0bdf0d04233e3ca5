/* `chowk webhook`: what was stored and could not be applied, and another try at it. An event may be applied any number
 * of times, so one that was applied may be replayed, too. What is due is found by the application's own job
 * webhook.sweep, which applies nothing itself: it enqueues. */
#include "server/cli_rows.h"

#define SELECTED "FROM webhook_events WHERE processed_at IS NULL AND ($1 = 'waiting' OR next_attempt_at = 'infinity') "
#define SWEEP                                                                                                          \
    ", sweep AS (INSERT INTO jobs (kind, priority, unique_key) SELECT 'webhook.sweep', 1, md5('{}') "                  \
    "WHERE EXISTS (SELECT FROM r) "                                                                                    \
    "ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL "                                                     \
    "AND state IN ('available', 'scheduled', 'running', 'retryable') DO UPDATE SET run_at = now() "                    \
    "WHERE jobs.state IN ('scheduled', 'retryable')) "

static const struct cli_verb verbs[] = {
    {"list", true, false,
     "SELECT to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '  ' || lpad(attempts::text, 5) || "
     "'  ' || rpad(event, 20) || '  ' || event_id || E'\\n    ' || left(coalesce(last_error, ''), 160) " SELECTED
     "AND $1 IN ('', 'waiting') ORDER BY received_at LIMIT 200",
     "SELECT row_to_json(e)::text FROM (SELECT event_id, event, account_id, received_at, attempts, last_error, "
     "CASE WHEN next_attempt_at <> 'infinity' THEN next_attempt_at END AS next_attempt_at, payload " SELECTED
     "AND $1 IN ('', 'waiting') ORDER BY received_at) e",
     "received (UTC)       tries  event                 id", "no webhooks"},
    {"replay", true, true,
     "WITH r AS (UPDATE webhook_events SET processed_at = NULL, attempts = 0, last_error = NULL, "
     "next_attempt_at = now() - interval '2 minutes' "
     "WHERE CASE WHEN $1 = 'all' THEN processed_at IS NULL AND next_attempt_at = 'infinity' ELSE event_id = $1 END "
     "RETURNING event_id)" SWEEP "SELECT 'to be applied again: ' || event_id FROM r ORDER BY event_id",
     NULL, NULL, "no such webhook"},
};

int cmd_webhook(struct cli_args *args)
{
    return cli_rows_run(args, verbs, ARRAY_LEN(verbs));
}
