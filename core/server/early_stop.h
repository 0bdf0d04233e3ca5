/* TERM and INT before there is a loop to deliver them on (starting the private PostgreSQL takes seconds): the
 * first is remembered and honoured at the next step of the start, a second one ends the process at once. net/signal.h
 * takes over when the loop watches them. */
#pragma once

#include "base/base.h"

void early_stop_catch(void);
bool early_stop_is_wanted(void);
bool early_stop_wants_reopen(void); /* USR1 came: of the log files, once there is a loop */
/* HUP asks for a reload (before there is a loop, for nothing), but a terminal that closes says it as well: then nobody
 * is there any more to reload for, and it means TERM. Async-signal-safe. */
bool early_stop_is_hangup(void);
