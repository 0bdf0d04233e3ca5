/* The master's listening sockets: one per worker with SO_REUSEPORT on TCP, one shared by all on a Unix path (T12).
 * The master holds them for its life, so that a worker's death loses no queued connection. */
#pragma once

#include "net/addr.h"

struct listen_set {
    int *fds; /* one per worker; on a Unix path all the same */
    unsigned n_workers;
    struct addr addr; /* with the real port if port 0 was asked for */
};

/* Refuses an address that somebody serves already, naming who. Port 0 lets the kernel choose. */
enum status listen_open(struct listen_set *set, const char *address, unsigned n_workers, struct err *err) MUST_CHECK;
void listen_close(struct listen_set *set); /* also removes the Unix path */
/* "http://127.0.0.1:8080" as a person would open it ("0.0.0.0" becomes 127.0.0.1); "unix:/path" for a Unix path. */
void listen_url(const struct listen_set *set, char *out, size_t size);
