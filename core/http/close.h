/* Why connections end: the rows of close.tbl as an enum and as facts. */
#pragma once

#include "base/log.h"

enum http_close {
    HTTP_CLOSE_NONE,
#define CLOSE_ROW(name, metric, level, status, code, text) HTTP_CLOSE_##name,
#include "http/close.tbl"
#undef CLOSE_ROW
    HTTP_N_CLOSES
};

struct http_close_info {
    const char *metric; /* label of the counter; "none" for HTTP_CLOSE_NONE */
    enum log_level level;
    int status; /* 0: nothing is sent */
    const char *code, *text;
};

const struct http_close_info *http_close_info(enum http_close why);
