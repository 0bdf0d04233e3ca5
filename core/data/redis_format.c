/* Commands as RESP: arrays of bulk strings, written straight into the output buffer. */
#include "data/redis_link.h"

static char *put_number(char *at, char type, size_t number)
{
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    *at++ = type;
    while (n > 0)
        *at++ = digits[--n];
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

void redis_format_head(struct buf *out, size_t argc)
{
    char *start = buf_reserve(out, 24);
    out->len += (size_t)(put_number(start, '*', argc) - start);
}

void redis_format_args(struct buf *out, const struct slice *argv, size_t argc)
{
    size_t room = 0;
    for (size_t i = 0; i < argc; i++)
        room += argv[i].len + 26;
    char *start = buf_reserve(out, room), *at = start;
    for (size_t i = 0; i < argc; i++) {
        at = put_number(at, '$', argv[i].len);
        if (argv[i].len > 0)
            memcpy(at, argv[i].ptr, argv[i].len);
        at += argv[i].len;
        *at++ = '\r';
        *at++ = '\n';
    }
    out->len += (size_t)(at - start);
}

void redis_format(struct buf *out, const struct slice *argv, size_t argc)
{
    redis_format_head(out, argc);
    redis_format_args(out, argv, argc);
}
