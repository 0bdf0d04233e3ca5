/* Which addresses a call out may connect to. Whoever can make the server fetch a URL must not thereby reach what only
 * the server can reach: refused is everything that is not globally routable (IANA's special-purpose registries:
 * private, loopback, link-local, shared, multicast, documentation …), and the clouds' metadata services. IPv6 that
 * carries an IPv4 address (v4-mapped, NAT64) is judged by that. (SSRF; TRAPS T14) */
#pragma once

#include "net/addr.h"

struct address_guard;

/* `allowed`: CIDR blocks ("10.0.0.0/8", "fd00::/8"), single addresses, or "all"; they win over what is refused. NULL:
 * err names the one that is none. Returns owned. */
struct address_guard *address_guard_new(const char *const *allowed, size_t n_allowed, struct err *err);
void address_guard_free(struct address_guard *guard); /* NULL is fine */

/* NULL: may be connected to; else what it is, for a message: "a private address". */
const char *address_guard_refuses(const struct address_guard *guard, const struct sockaddr *sa);
