#include "server/config_log.h"

#include <unistd.h>

#include "base/log.h"

void config_log_open(const struct config *config, const char *process)
{
    static const char *const names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};
    enum log_level level = LOG_INFO;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], config_text(config, CONFIG_LOG_LEVEL)) == 0)
            level = (enum log_level)i;
    bool is_json = strcmp(config_text(config, CONFIG_LOG_FORMAT), "json") == 0;
    log_open(STDERR_FILENO, level, is_json, process);
}
