/* The admin listener: what the server does, for machines, read-only. GET /metrics, /status, /healthz, /readyz; nothing
 * else, and nothing that changes anything: that is the operator's socket's.
 *
 * It lives in the master, on core/http: the master serves no request of the shop and never waits, so the listener
 * answers while every worker is busy, stalled or dead. Few connections, short timeouts. (DESIGN 3, 7) */
#pragma once

#include "net/loop.h"
#include "server/status.h"

struct admin;
struct admin_opts {
    struct loop *loop;
    const struct config *config; /* admin.listen */
    struct status_board *status; /* borrowed for its life */
    bool is_upgrade;             /* the old master still listens there: share the port with it until it goes */
};

/* OK with *out NULL: it is off, or (development only) every port near the default is taken, which is logged. ERR: the
 * address is not to be had; err names who has it. */
enum status admin_new(const struct admin_opts *opts, struct admin **out, struct err *err) MUST_CHECK;
void admin_free(struct admin *admin);             /* NULL is fine; the loop must turn once more */
const char *admin_url(const struct admin *admin); /* "http://127.0.0.1:9180"; "" if it is off */
