/* `chowk status`, the master's side: answers {"text": …}, the table, or with --json what GET /status answers. */
#pragma once

#include "server/ops.h"
#include "server/status.h"

void ops_status_register(struct ops *ops, struct status_board *board);
