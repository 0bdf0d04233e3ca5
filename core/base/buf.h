/* Growable heap buffer of bytes. Zero-initialised (struct buf){0} is empty and valid. Aborts on OOM;
 * whoever appends bytes sized by a peer checks its own limit first. */
#pragma once

#include "base/slice.h"

struct buf {
    char *ptr;
    size_t len, cap;
};

void buf_free(struct buf *buf); /* releases and zeroes */
static inline void buf_clear(struct buf *buf)
{
    buf->len = 0;
}
void buf_grow(struct buf *buf, size_t extra); /* makes room for `extra` more bytes */

/* Room for `extra` bytes at the end; write there, then add to buf->len yourself. */
static inline char *buf_reserve(struct buf *buf, size_t extra)
{
    if (buf->cap - buf->len < extra)
        buf_grow(buf, extra);
    return buf->ptr + buf->len;
}

static inline void buf_append(struct buf *buf, const void *ptr, size_t len)
{
    if (len == 0)
        return;
    memcpy(buf_reserve(buf, len), ptr, len);
    buf->len += len;
}

static inline void buf_byte(struct buf *buf, char byte)
{
    *buf_reserve(buf, 1) = byte;
    buf->len++;
}

static inline void buf_slice(struct buf *buf, struct slice s)
{
    buf_append(buf, s.ptr, s.len);
}
static inline struct slice buf_as_slice(const struct buf *buf)
{
    return slice_of(buf->ptr, buf->len);
}
#define buf_lit(buf, literal) buf_append((buf), "" literal, sizeof(literal) - 1)
void buf_printf(struct buf *buf, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_int(struct buf *buf, int64_t value); /* decimal */
void buf_consume(struct buf *buf, size_t n);  /* drops n bytes from the front */
