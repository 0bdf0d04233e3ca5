/* Opens this process's log on stderr as the configuration says. */
#pragma once

#include "server/config.h"

void config_log_open(const struct config *config, const char *process /* borrowed for ever */);
