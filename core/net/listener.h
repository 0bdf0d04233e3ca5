/* Listening sockets. Bound by the master, accepted by workers: accept4 on a poll handle. Out of descriptors, it
 * backs off and leaves connections in the kernel's queue; when that did not help, it takes them through a
 * reserve descriptor and closes them politely, instead of spinning (T12). Logged once a minute. */
#pragma once

#include "net/addr.h"
#include "net/loop.h"

/* Binds and listens. `reuse_port`: one of several sockets for the same address (SO_REUSEPORT); TCP gets
 * SO_REUSEADDR and TCP_NODELAY (accepted sockets inherit it), a stale Unix path is replaced. Returns owned fd (CLOEXEC,
 * non-blocking), or -1. */
int listener_bind(const struct addr *addr, int backlog, bool reuse_port, struct err *err) MUST_CHECK;
/* T12: a bind without SO_REUSEPORT must succeed, or another server has the port. Closes what it opened. */
enum status listener_probe(const struct addr *addr, struct err *err) MUST_CHECK;
/* The way a TCP listening socket ends without a reset for anybody who was let in: first no new connection comes to be
 * (a filter drops SYNs) while handshakes under way still end in the queue; then, when the queue has been emptied, the
 * port refuses. For the socket, so for every process that has it. */
void listener_refuse_new(int fd);
void listener_shut(int fd);

struct listener;
typedef void (*listener_fn)(void *data, int fd /* non-blocking, CLOEXEC; now yours */, const struct addr *peer);
struct listener *listener_new(struct loop *loop, int fd /* borrowed */, listener_fn fn, void *data);
void listener_pause(struct listener *listener, bool paused);
/* What a connection is told that must be turned away; nothing by default. Borrows for the listener's life. */
void listener_set_farewell(struct listener *listener, struct slice bytes);
int listener_fd(const struct listener *listener);
void listener_free(struct listener *listener); /* does not close the fd; safe inside fn */
