/* The PROXY protocol's greeting, versions 1 and 2 (haproxy.org, proxy-protocol.txt): what a TCP load balancer says
 * about its client before the client's first byte. Pure. */
#pragma once

#include "net/addr.h"

enum { PROXY_MAX = 4096 }; /* bytes of a greeting with its extensions; a longer one is refused */

/* OK: *len bytes were the greeting; has_client says whether it names a client (a health check of the balancer's own
 * does not), whose address is then in *client. AGAIN: not whole yet. ERR: not a greeting. */
enum status proxy_line_read(struct slice in, size_t *len, bool *has_client, struct addr *client) MUST_CHECK;
