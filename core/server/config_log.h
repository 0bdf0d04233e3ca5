/* The log of a process as configured: level, format, what is masked, files, and the threads that write them. One per
 * process, as the log is (base/log). */
#pragma once

#include "net/log_writer.h"
#include "server/config.h"

/* Written at once, by who logs: for processes that live for a moment. The name is borrowed for ever; NULL: none. */
void config_log_open(const struct config *config, const char *process);
/* For those that have a loop: written beside it (net/log_writer). ERR: a file cannot be opened, and there is no name:
 * the master. */
enum status config_log_start(const struct config *config, const char *process, struct err *err) MUST_CHECK;
struct log_writer *config_log_access(void); /* where lines of requests go; borrowed. NULL: not started */
void config_log_reopen(void);               /* the files, on USR1 */
/* Waits for what is not written yet, max_ms at most. Async-signal-safe. */
void config_log_drain(uint32_t max_ms);
void config_log_stop(void); /* BLOCKING for two seconds at most: what is left is written; then as config_log_open */
