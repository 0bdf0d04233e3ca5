/* What systemd is told (sd_notify(3)): datagrams to $NOTIFY_SOCKET. The protocol is small and stable, so no library.
 * NULL stands for "not started by systemd": every function takes it and does nothing.
 *
 * With NotifyAccess=main only the main process is heard, so the order of an upgrade is: the old master says MAINPID=,
 * then lets the new one speak. */
#pragma once

#include <sys/types.h>

#include "net/loop.h"

struct sd_notify;

/* NULL if nobody listens. `is_heir`: of an upgrade; WATCHDOG_PID then still names the old master. */
struct sd_notify *sd_notify_new(struct loop *loop, bool is_heir); /* returns owned */
void sd_notify_free(struct sd_notify *notify);

/* READY=1, also after a reload. From the first one on WATCHDOG=1 goes out from the loop, if WatchdogSec= asks for it:
 * a master that stands still is replaced. */
void sd_notify_ready(struct sd_notify *notify);
void sd_notify_reloading(struct sd_notify *notify);
void sd_notify_stopping(struct sd_notify *notify);
void sd_notify_main_pid(struct sd_notify *notify, pid_t pid);                            /* and falls silent */
void sd_notify_status(struct sd_notify *notify, const char *fmt, ...) PRINTF_LIKE(2, 3); /* one line */
