#include "http/close.h"

static const struct http_close_info infos[HTTP_N_CLOSES] = {
    [HTTP_CLOSE_NONE] = {"none", LOG_DEBUG, 0, "", ""},
#define CLOSE_ROW(name, metric, level, status, code, text)                                                             \
    [HTTP_CLOSE_##name] = {(metric), LOG_##level, (status), (code), (text)},
#include "http/close.tbl"
#undef CLOSE_ROW
};

const struct http_close_info *http_close_info(enum http_close why)
{
    CHECK((unsigned)why < HTTP_N_CLOSES);
    return &infos[why];
}
