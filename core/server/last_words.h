/* What a worker's signal handlers leave in its slot of the scoreboard: where it is when the watchdog asks, and where it
 * was when it crashed. The master reads and logs it; the handlers only read and store. (T8) */
#pragma once

#include "server/scoreboard.h"

/* Once per process: handlers on a stack of their own for the watchdog's signal and for SEGV, BUS, ILL, FPE, ABRT. After
 * a crash the signal takes its course, so that the exit status is true. Core dumps only if asked for. */
void last_words_install(struct scoreboard_slot *slot, bool dumps_core);
/* The master's, who has nobody to read them: a line on stderr, with the stack as addresses for addr2line. */
void last_words_install_master(bool dumps_core);
