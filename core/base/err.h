/* A failure: code + text, filled by the lowest layer that knows, prefixed (never replaced) by upper ones. */
#pragma once

#include <stdarg.h>

#include "base/base.h"

enum err_code {
    ERR_NONE,
#define ERR_ROW(name, code, retryable, status) ERR_##name,
#include "base/err.tbl"
#undef ERR_ROW
    ERR_N_CODES
};

struct err {
    enum err_code code;
    char sqlstate[6];  /* "" unless PostgreSQL said so */
    char message[384]; /* NUL-terminated UTF-8, cut at a character if too long */
    char detail[384];  /* PostgreSQL's DETAIL/HINT/constraint for logs; "" if none */
};

/* Both return ERR, so that `return err_set(err, …)` reads well. err may be NULL. */
enum status err_set(struct err *err, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
enum status err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3); /* "prefix: old message" */
enum status err_errno(struct err *err, int errnum, const char *fmt, ...)
    PRINTF_LIKE(3, 4); /* ERR_SYSTEM, "…: strerror" */

const char *err_code_name(enum err_code code); /* "unavailable" …; "none" */
bool err_is_retryable(const struct err *err);  /* also 40001, 40P01, 55P03 */
int err_http_status(const struct err *err);    /* by table; 23505, 23P01 → 409; 55P03 → 503 */
