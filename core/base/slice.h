/* A borrowed run of bytes, passed by value. Not NUL-terminated; never owned by the slice. */
#pragma once

#include <string.h>

#include "base/base.h"

struct slice {
    const char *ptr;
    size_t len;
};

#define SLICE(literal) ((struct slice){"" literal, sizeof(literal) - 1})
#define SLICE_FMT(s) (int)(s).len, (s).ptr /* for "%.*s" */

static inline struct slice slice_of(const char *ptr, size_t len)
{
    return (struct slice){ptr, len};
}

static inline struct slice slice_str(const char *text)
{
    return (struct slice){text, text ? strlen(text) : 0};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool slice_ieq(struct slice a, struct slice b); /* ASCII case-insensitive */
bool slice_has_prefix(struct slice s, struct slice prefix);
struct slice slice_trim(struct slice s); /* without leading and trailing space and tab */
/* Whole slice as a decimal integer within min..max; false (and *out untouched) otherwise. */
bool slice_to_int(struct slice s, int64_t min, int64_t max, int64_t *out) MUST_CHECK;
uint64_t slice_hash(struct slice s); /* keyed per process, so peers cannot aim collisions */
/* The same with a key of the caller's, drawn at random: for tables that several processes share. */
uint64_t slice_hash_keyed(struct slice s, const uint64_t key[2]);
