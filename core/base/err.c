/* Filling and prefixing struct err, and the one table (err.tbl) that says what each code means outside.
 * Texts are formatted aside first, so that an err's own message may be among the arguments. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    bool is_retryable;
    int http_status;
} codes[ERR_N_CODES] = {
    [ERR_NONE] = {"none", false, 500},
#define ERR_ROW(name, code, retryable, status) [ERR_##name] = {code, retryable, status},
#include "base/err.tbl"
#undef ERR_ROW
};

/* What PostgreSQL's SQLSTATE adds to the row of ERR_PG. */
static const struct {
    const char *sqlstate;
    bool is_retryable;
    int http_status;
} sqlstates[] = {
    {"40001", true, 500},  /* serialization_failure: pg.tx has re-run it until its deadline */
    {"40P01", true, 500},  /* deadlock_detected */
    {"55P03", true, 503},  /* lock_not_available */
    {"23505", false, 409}, /* unique_violation */
    {"23P01", false, 409}, /* exclusion_violation */
};

/* A text that filled its buffer may end inside a character: cuts that character off. */
static void cut_at_character(char *text, size_t len)
{
    size_t start = len;
    while (start > 0 && len - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (len - (start - 1) < want)
        text[start - 1] = '\0';
}

static size_t format(char *out, size_t size, const char *fmt, va_list args)
{
    int len = vsnprintf(out, size, fmt, args);
    if (len < 0)
        out[0] = '\0';
    else if ((size_t)len >= size)
        cut_at_character(out, size - 1);
    return strlen(out);
}

/* Appends `tail` to the `len` bytes in `out`, cut to fit. */
static void append(char *out, size_t len, size_t size, const char *tail)
{
    size_t room = size - 1 - len, tail_len = strlen(tail);
    size_t taken = tail_len < room ? tail_len : room;
    memcpy(out + len, tail, taken);
    out[len + taken] = '\0';
    if (taken < tail_len)
        cut_at_character(out, len + taken);
}

static void fill(struct err *err, enum err_code code, const char *message)
{
    err->code = code;
    err->sqlstate[0] = err->detail[0] = '\0';
    memcpy(err->message, message, strlen(message) + 1);
}

enum status err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    if (!err)
        return ERR;
    char message[sizeof err->message];
    va_list args;
    va_start(args, fmt);
    format(message, sizeof message, fmt, args);
    va_end(args);
    fill(err, code, message);
    return ERR;
}

enum status err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err)
        return ERR;
    char message[sizeof err->message];
    va_list args;
    va_start(args, fmt);
    size_t len = format(message, sizeof message, fmt, args);
    va_end(args);
    append(message, len, sizeof message, ": ");
    append(message, strlen(message), sizeof message, err->message);
    memcpy(err->message, message, sizeof message);
    return ERR;
}

enum status err_errno(struct err *err, int errnum, const char *fmt, ...)
{
    if (!err)
        return ERR;
    char message[sizeof err->message], reason[128];
    va_list args;
    va_start(args, fmt);
    size_t len = format(message, sizeof message, fmt, args);
    va_end(args);
    append(message, len, sizeof message, ": ");
    append(message, strlen(message), sizeof message, strerror_r(errnum, reason, sizeof reason));
    fill(err, ERR_SYSTEM, message);
    return ERR;
}

const char *err_code_name(enum err_code code)
{
    CHECK((unsigned)code < ERR_N_CODES);
    return codes[code].name;
}

/* Row of err's SQLSTATE, or -1. */
static int sqlstate_row(const struct err *err)
{
    if (err->code != ERR_PG)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(sqlstates); i++) {
        if (strcmp(err->sqlstate, sqlstates[i].sqlstate) == 0)
            return (int)i;
    }
    return -1;
}

bool err_is_retryable(const struct err *err)
{
    CHECK((unsigned)err->code < ERR_N_CODES);
    int row = sqlstate_row(err);
    return row >= 0 ? sqlstates[row].is_retryable : codes[err->code].is_retryable;
}

int err_http_status(const struct err *err)
{
    CHECK((unsigned)err->code < ERR_N_CODES);
    int row = sqlstate_row(err);
    return row >= 0 ? sqlstates[row].http_status : codes[err->code].http_status;
}
