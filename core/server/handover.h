/* An upgrade as the new master sees it, and the words both masters speak. They may be of different versions: each
 * message is a word with text, at most one descriptor beside it; a word that is not known is passed over, its
 * descriptor closed.
 *
 *   old → new   "address 127.0.0.1:8080"  "shared"  "lent"  "listener" +fd, in the workers' order  "lock" +fd
 *               "ops" +fd  "segment" +fd  "end"      all of them wait in the channel when the new master starts
 *   new → old   "ready"         every worker of mine is ready
 *               "failed WHY"    as the operator should read it
 *   old → new   "take over"     serve, beside me for a moment
 *   new → old   "serving"       paths and operators' socket are mine
 *   old → new   "alone"         I have retired: speak to systemd
 *               "give up"       at any time before "serving" has come: I go on; end
 *               "left 1/4"      so many of my workers still run
 *
 * An old master that dies without a word leaves the server to the new one. */
#pragma once

#include "net/loop.h"
#include "server/listen.h"

#define HANDOVER_ENV "CHOWK_HANDOVER" /* the number of the channel's descriptor */
enum { HANDOVER_MAX_SEGMENTS = 32 };

enum handover_event {
    HANDOVER_TAKE_OVER,
    HANDOVER_ALONE,
    HANDOVER_GIVE_UP,
    HANDOVER_LEFT, /* value = percent of the old master's workers that still run; 0 once it is gone */
};

struct handover { /* descriptors are owned, -1 = not there: who takes one puts -1 */
    int channel, lock_fd, ops_fd;
    pid_t from;
    char address[256]; /* `listen` as the old configuration had it */
    struct listen_given listeners;
    int segments[HANDOVER_MAX_SEGMENTS];
    size_t n_segments;
    /* private */
    struct loop *loop;
    struct poll *poll;
    bool is_over; /* nothing is left to be decided between the two */
    void (*on_event)(void *data, enum handover_event event, unsigned value);
    void *data;
};

/* AGAIN: this process was not started by an upgrade. Takes the variable out of the environment. */
enum status handover_receive(struct handover **out, struct err *err) MUST_CHECK;
/* Hears the old master on the loop, until handover_free. */
void handover_watch(struct handover *handover, struct loop *loop,
                    void (*on_event)(void *data, enum handover_event event, unsigned value), void *data);
void handover_unwatch(struct handover *handover); /* before the loop goes */
void handover_say_ready(struct handover *handover);
void handover_say_serving(struct handover *handover);
void handover_say_failed(struct handover *handover, const struct err *err); /* NULL is fine */
void handover_free(struct handover *handover);                              /* NULL is fine */

/* One message. OK: sent. */
enum status handover_say(int channel, const char *text, int fd);
/* As control_receive. *fd is yours to close, -1 = none. */
enum status handover_hear(int channel, char *text, size_t size, int *fd);
