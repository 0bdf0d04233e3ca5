#include "server/ops_status.h"

#include <stdlib.h>

#include "base/json.h"

enum { TIMEOUT_MS = 5000 };

static void on_status(void *data, struct ops_call *call)
{
    struct status_report *report = xalloc(sizeof(*report)); /* large, and asked for rarely */
    struct buf answer = {0}, text = {0};
    status_collect(data, report);
    if (ops_has_arg(call, "--json")) {
        status_write_json(&answer, report);
    } else {
        status_write_text(&text, report, ops_has_arg(call, "--colour"));
        buf_lit(&answer, "{\"text\":");
        json_write_string(&answer, buf_as_slice(&text));
        buf_byte(&answer, '}');
    }
    ops_done(call, buf_as_slice(&answer));
    buf_free(&text);
    buf_free(&answer);
    free(report);
}

void ops_status_register(struct ops *ops, struct status_board *board)
{
    ops_register(ops, "status", TIMEOUT_MS, on_status, board);
}
