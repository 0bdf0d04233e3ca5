/* What one process calls out with, from its configuration: HTTP and mail, and the guard over where they may go. */
#pragma once

#include "net/loop.h"
#include "net/names.h"
#include "server/config.h"

struct outbound { /* zeroed: closed */
    struct address_guard *guard;
    struct http_client *http;
    struct mail *mail; /* NULL: not configured */
};

/* ERR names the key. `names` outlives it. */
enum status outbound_open(struct outbound *outbound, struct loop *loop, struct names *names,
                          const struct config *config, struct err *err) MUST_CHECK;
void outbound_close(struct outbound *outbound); /* after the VM; safe when half open */
