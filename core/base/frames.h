/* The C call stack of a signal handler: captured there with nothing but reads and stores, told as text elsewhere.
 * Frames are module + offset, so that another process of the same binary can name the functions, wherever its own
 * modules lie: "chowk+0x8f121 (http_respond+0x41)". `addr2line -e build/chowk 0x8f121` knows the line. */
#pragma once

#include "base/buf.h"

enum { FRAMES_MAX = 24, FRAMES_MODULE = 24 };

struct frames {
    uint32_t n;
    struct frame {
        char module[FRAMES_MODULE]; /* file name without directory, cut; "" = in no module: code made at run time */
        uint64_t offset;            /* in the module's file as mapped; the address itself if there is none */
    } at[FRAMES_MAX];
};

/* Once per process, before handlers are installed: notes the modules and loads the unwinder. */
void frames_prepare(void);
/* Async-signal-safe. The stack below a signal's `context` (ucontext_t *), innermost first; NULL: the caller's own. */
void frames_capture(struct frames *out, const void *context);
void frames_capture_pc(struct frames *out, const void *context); /* only where the signal interrupted */
/* Async-signal-safe: where the signal interrupted. */
uintptr_t frames_pc(const void *context);
uintptr_t frames_sp(const void *context);
/* One line: frames separated by " < ". Not in a handler. */
void frames_text(const struct frames *frames, struct buf *out);
