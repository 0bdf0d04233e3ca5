/* The control channel between the master and one worker: a SOCK_SEQPACKET pair, one message per packet, descriptors
 * by SCM_RIGHTS. Either end closing it is a message too: a worker whose master is gone drains; a master whose worker
 * is gone waits for its exit. An upgrade's two masters speak over one too. Never blocks: a full socket drops beats, and
 * nothing else is ever sent in numbers. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

enum control_type {
    CONTROL_READY = 1, /* worker → master: it accepts; value = ms since it was started */
    CONTROL_FAIL,      /* worker → master: it cannot start; text = why, as the operator should read it */
    CONTROL_BEAT,      /* worker → master: its loop turns; value = requests in flight */
    CONTROL_DRAIN,     /* master → worker: finish and exit; value = lame duck in ms */
    CONTROL_ADOPT,     /* master → worker: also accept from the descriptor passed along (T12); value = its number */
    CONTROL_RELEASE,   /* master → worker: accept no more from it */
    CONTROL_REOPEN,    /* master → worker: the log files (USR1) */
    /* A reload (server/reload.h); value = number of the generation */
    CONTROL_PREPARE,  /* master → worker: load the bundle passed along, and vote */
    CONTROL_ABORT,    /* master → worker: forget what was prepared under that number */
    CONTROL_COMMIT,   /* master → worker: look at the committed number */
    CONTROL_PREPARED, /* worker → master: its vote: yes */
    CONTROL_REFUSED,  /* worker → master: its vote: no; text = why, with the traceback */
    /* An upgrade */
    CONTROL_LEAVE, /* master → worker: finish and exit; the new master's workers accept from the same listeners */
    CONTROL_SHARE, /* master → worker: value = percent of pg.pool_size that the old master's workers leave to us */
    /* Between two masters, which may be of different versions: a number for ever (server/handover.h) */
    CONTROL_MASTERS = 1000,
};

#define CONTROL_TEXT_MAX 4000
struct control_message {
    enum control_type type;
    uint32_t value;
    int fd;                          /* received: yours to close, -1 = none. Sent: borrowed */
    char text[CONTROL_TEXT_MAX + 1]; /* NUL-terminated */
};

/* Both ends CLOEXEC and non-blocking. */
enum status control_pair(int fds[2], struct err *err) MUST_CHECK;
/* OK: sent. AGAIN: no room, dropped. ERR: the other end is gone. `text` may be NULL; cut at CONTROL_TEXT_MAX. */
enum status control_send(int fd, enum control_type type, uint32_t value, const char *text, int pass_fd);
/* OK: one message. AGAIN: none now. ERR: the other end is gone, or spoke nonsense. */
enum status control_receive(int fd, struct control_message *out);
