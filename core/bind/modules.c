/* See modules.h. */
#include "bind/modules.h"

/* One a line. */
/* clang-format off */
const struct vm_module bind_modules[] = {
    {"app", bind_app_open},
    {"req", bind_req_open},
    {"json", bind_json_open},
    {"log", bind_log_open},
    {"time", bind_time_open},
    {"config", bind_config_open},
    {"crypto", bind_crypto_open},
    {"razorpay", bind_razorpay_open},
    {"task", bind_task_open},
    {"pg", bind_pg_open},
    {"redis", bind_redis_open},
    {"seq", bind_seq_open},
    {"jobs", bind_jobs_open},
    {"limit", bind_limit_open},
    {"cache", bind_cache_open},
    {"idempotency", bind_idempotency_open},
    {"http", bind_http_open},
    {"mail", bind_mail_open},
    {NULL, NULL},
};
/* clang-format on */
