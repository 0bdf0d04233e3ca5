#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BUF_MIN_CAP 64

void buf_free(struct buf *buf)
{
    free(buf->ptr);
    *buf = (struct buf){0};
}

void buf_grow(struct buf *buf, size_t extra)
{
    size_t need, cap;
    CHECK(!__builtin_add_overflow(buf->len, extra, &need) && need <= SIZE_MAX / 2);
    if (need <= buf->cap && buf->ptr)
        return;
    cap = buf->cap ? buf->cap : BUF_MIN_CAP;
    while (cap < need)
        cap *= 2;
    buf->ptr = xrealloc(buf->ptr, cap);
    buf->cap = cap;
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list args;
    buf_reserve(buf, BUF_MIN_CAP);
    va_start(args, fmt);
    int len = vsnprintf(buf->ptr + buf->len, buf->cap - buf->len, fmt, args);
    va_end(args);
    CHECK(len >= 0);
    if ((size_t)len >= buf->cap - buf->len) { /* vsnprintf wants room for its NUL too */
        buf_reserve(buf, (size_t)len + 1);
        va_start(args, fmt);
        vsnprintf(buf->ptr + buf->len, buf->cap - buf->len, fmt, args);
        va_end(args);
    }
    buf->len += (size_t)len;
}

static const char two_digits[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                 "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                 "8081828384858687888990919293949596979899";

void buf_int(struct buf *buf, int64_t value)
{
    char text[20]; /* "-9223372036854775808" */
    char *p = text + sizeof text;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    while (left >= 100) {
        p -= 2;
        memcpy(p, two_digits + left % 100 * 2, 2);
        left /= 100;
    }
    if (left >= 10) {
        p -= 2;
        memcpy(p, two_digits + left * 2, 2);
    } else {
        *--p = (char)('0' + left);
    }
    if (value < 0)
        *--p = '-';
    buf_append(buf, p, (size_t)(text + sizeof text - p));
}

void buf_consume(struct buf *buf, size_t n)
{
    CHECK(n <= buf->len);
    if (n == 0)
        return;
    buf->len -= n;
    if (buf->len > 0)
        memmove(buf->ptr, buf->ptr + n, buf->len);
}
