/* The master's listening sockets. They come from one of three places: bound here, one per worker with SO_REUSEPORT on
 * TCP and one shared by all on a Unix path; made by systemd (T12: one, shared by all workers, never closed for others);
 * or inherited from the master that an upgrade replaces. The master holds them for its life, so that a worker's death
 * loses no queued connection. */
#pragma once

#include "net/addr.h"

struct listen_set {
    int *fds; /* one per worker; when shared all the same */
    unsigned n_workers;
    int *extra; /* inherited, beyond one per worker: whoever queues there is served too */
    unsigned n_extra;
    struct addr addr; /* with the real port if port 0 was asked for */
    bool is_shared;
    bool is_lent;  /* systemd's: it lives on */
    bool is_ended; /* listen_refuse_new, or an heir has it: the path is not ours to remove */
};

/* Refuses an address that somebody serves already, naming who. Port 0 lets the kernel choose. */
enum status listen_open(struct listen_set *set, const char *address, unsigned n_workers, struct err *err) MUST_CHECK;

struct listen_given { /* sockets that listen already */
    int *fds;         /* taken: on ERR they are closed */
    size_t n_fds;     /* at least 1 */
    bool is_shared, is_lent;
};
/* More of the same kind are bound if there are more workers. */
enum status listen_take(struct listen_set *set, struct listen_given *given, unsigned n_workers,
                        struct err *err) MUST_CHECK;
/* Socket activation (sd_listen_fds(3)): OK with what systemd passed to this very process; AGAIN if it passed nothing.
 * Takes the variables out of the environment. */
enum status listen_activated(struct listen_given *given, struct err *err) MUST_CHECK;

/* The end for clients, in two steps: listener_refuse_new and listener_shut. Neither touches what systemd lent. */
void listen_refuse_new(struct listen_set *set);
void listen_shut(const struct listen_set *set);
void listen_close(struct listen_set *set); /* also removes the Unix path, unless is_ended */
/* "http://127.0.0.1:8080" as a person would open it ("0.0.0.0" becomes 127.0.0.1); "unix:/path" for a Unix path. */
void listen_url(const struct listen_set *set, char *out, size_t size);
