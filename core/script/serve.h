/* A request's life in Lua: coroutine from the free list → handler → the returned values into one answer
 * (DESIGN 5: a table is JSON, a string is text, raw JSON as it is; status, body, headers; app.empty; anything else is
 * an error naming the route). Uncaught errors become problems by err.tbl, with an error id and a logged traceback. */
#pragma once

#include "http/request.h"
#include "script/vm.h"

void serve_request(struct vm *vm, struct http_request *req); /* an http_handler_fn's body */
