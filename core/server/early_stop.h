/* TERM, INT and HUP before there is a loop to deliver them on (starting the private PostgreSQL takes seconds): the
 * first is remembered and honoured at the next step of the start, a second one ends the process at once. net/signal.h
 * takes over when the loop watches them. */
#pragma once

#include "base/base.h"

void early_stop_catch(void);
bool early_stop_is_wanted(void);
