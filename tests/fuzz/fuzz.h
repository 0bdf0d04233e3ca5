/* What fuzz targets share. A target is one file tests/fuzz/<noun>_fuzz.c with one function of libFuzzer's shape. It
 * states what must hold for every byte string, with CHECK, so that a wrong answer is found as surely as a crash; where
 * two ways must agree (whole and in pieces, read and written back) it goes both ways and compares.
 *
 * `make fuzz` links it with libFuzzer (clang, ASan, UBSan) and looks for new inputs; `make test` links the same file
 * with replay.c and plays the committed corpus. A new target needs its file, a directory corpus/<noun>/ with a few
 * readable inputs, and nothing else; dict/<noun>.dict, if there is one, teaches the fuzzer words.
 *
 * A target must be deterministic: same bytes, same result; no clock, no random number, no state left behind. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline struct slice fuzz_input(const uint8_t *data, size_t size)
{
    return size ? slice_of((const char *)data, size) : SLICE("");
}

/* Takes the first line, without its newline, off the front of *rest. */
static inline struct slice fuzz_take_line(struct slice *rest)
{
    const char *end = rest->len ? memchr(rest->ptr, '\n', rest->len) : NULL;
    struct slice line = slice_of(rest->ptr, end ? (size_t)(end - rest->ptr) : rest->len);
    size_t used = line.len + (end ? 1 : 0);
    *rest = slice_of(rest->ptr + used, rest->len - used);
    return line;
}

/* `part` is empty, or lies within `whole`. */
static inline bool fuzz_is_within(struct slice part, struct slice whole)
{
    return part.len == 0 || (part.ptr >= whole.ptr && part.ptr + part.len <= whole.ptr + whole.len);
}

/* One field of a trace: its length first, so that two traces are equal only if they say the same. */
static inline void fuzz_trace(struct buf *trace, char kind, struct slice bytes)
{
    buf_printf(trace, "%c%zu:", kind, bytes.len);
    buf_slice(trace, bytes);
    buf_byte(trace, '\n');
}

static inline bool fuzz_same(const struct buf *a, const struct buf *b)
{
    return slice_eq(buf_as_slice(a), buf_as_slice(b));
}

/* By decoding, unlike the core's own check. */
static inline bool fuzz_is_utf8(struct slice text)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    for (size_t i = 0; i < text.len;) {
        unsigned char lead = (unsigned char)text.ptr[i];
        size_t len = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
        if (len == 0 || len > text.len - i)
            return false;
        uint32_t code = len == 1 ? lead : lead & (0x7Fu >> len);
        for (size_t k = 1; k < len; k++) {
            if (((unsigned char)text.ptr[i + k] & 0xC0) != 0x80)
                return false;
            code = code << 6 | ((unsigned char)text.ptr[i + k] & 0x3F);
        }
        if (code < least[len] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
            return false;
        i += len;
    }
    return true;
}
