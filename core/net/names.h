/* Host names → addresses on up to four threads of its own (getaddrinfo blocks, and libpq's and curl's own look-ups
 * would block our loop: T5, T14). Bounded queue; numeric addresses and "localhost" need none. A look-up
 * takes as long as resolv.conf allows: whoever has a deadline cancels. */
#pragma once

#include "net/addr.h"
#include "net/loop.h"

#define NAMES_MAX_ADDRS 8
struct names;
struct names_query;
typedef void (*names_fn)(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err /* NULL if ok */);

struct names *names_new(struct loop *loop);
void names_free(struct names *names); /* pending queries complete with ERR_CANCELLED first; never waits */
/* Completes exactly once, never from inside this call: ERR_UNAVAILABLE (no such host, no answer),
 * ERR_QUEUE_FULL, ERR_INVALID, ERR_CANCELLED. Copies host. Returns a handle valid until then. */
struct names_query *names_resolve(struct names *names, const char *host, int port, names_fn fn, void *data);
void names_cancel(struct names_query *query); /* fn is not called afterwards */
