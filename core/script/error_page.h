/* What a browser shows in development when something failed: the message, the Lua frames with their source lines, the
 * request. Everything is escaped; credentials are masked. Programs that do not ask for HTML get the problem document
 * instead (answer.c), with the same facts. */
#pragma once

#include "base/buf.h"
#include "http/request.h"

struct error_page {
    const char *title;              /* "Lua error": what happened, in two words */
    struct slice message;           /* "lua/store/routes/orders.lua:42: …" */
    const char *trace;              /* luaL_traceback's text; NULL: none */
    struct slice note;              /* what else is worth knowing, below the message; empty: nothing */
    const struct http_request *req; /* borrowed */
};

/* Does the client prefer a page? A browser's navigation does; fetch and curl do not say text/html. */
bool error_page_is_wanted(const struct http_request *req);
/* Appends the whole document. BLOCKING: reads the sources named in the message and the traceback, relative to the
 * working directory, which is the application's. For development only. */
void error_page_write(const struct error_page *page, struct buf *out);
