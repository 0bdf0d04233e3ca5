/* Comparing, trimming, converting and hashing borrowed bytes.
 *
 * slice_hash multiplies 64 x 64 into 128 bits and folds, as wyhash does, but with both constants drawn
 * from the kernel at the first call of each process: who cannot read our memory cannot aim collisions.
 * Its values therefore must never be stored, sent, or shared between processes. */
#include "base/slice.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/random.h>

static inline unsigned char ascii_lower(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') ? (unsigned char)(c | 0x20) : c;
}

bool slice_ieq(struct slice a, struct slice b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++) {
        if (ascii_lower((unsigned char)a.ptr[i]) != ascii_lower((unsigned char)b.ptr[i]))
            return false;
    }
    return true;
}

bool slice_has_prefix(struct slice s, struct slice prefix)
{
    return s.len >= prefix.len && slice_eq(slice_of(s.ptr, prefix.len), prefix);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct slice slice_trim(struct slice s)
{
    while (s.len > 0 && is_blank(s.ptr[0])) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && is_blank(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

bool slice_to_int(struct slice s, int64_t min, int64_t max, int64_t *out)
{
    bool negative = s.len > 0 && s.ptr[0] == '-';
    size_t i = negative ? 1 : 0;
    if (i == s.len)
        return false;
    int64_t value = 0; /* kept negative: that side holds one more */
    for (; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, s.ptr[i] - '0', &value))
            return false;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value))
        return false;
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

/* ---- hashing ---- */

static _Atomic uint64_t hash_keys[2]; /* 0 = not drawn yet; the first thread to draw wins */

static uint64_t hash_key_draw(_Atomic uint64_t *key)
{
    uint64_t drawn;
    while (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
        CHECK(errno == EINTR);
    drawn |= 1; /* never zero */
    uint64_t expected = 0;
    return atomic_compare_exchange_strong(key, &expected, drawn) ? drawn : expected;
}

static inline uint64_t hash_key(int i)
{
    uint64_t key = atomic_load_explicit(&hash_keys[i], memory_order_relaxed);
    return key ? key : hash_key_draw(&hash_keys[i]);
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load64(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static inline uint64_t load_tail(const char *p, size_t len) /* len < 8 */
{
    uint64_t word = 0;
    if (len > 0)
        memcpy(&word, p, len);
    return word;
}

uint64_t slice_hash_keyed(struct slice s, const uint64_t key[2])
{
    const uint64_t k0 = key[0], k1 = key[1];
    uint64_t hash = k0 ^ mix(s.len ^ k1, k0);
    const char *p = s.ptr;
    size_t left = s.len;
    for (; left >= 16; p += 16, left -= 16)
        hash = mix(load64(p) ^ k1, load64(p + 8) ^ hash);
    if (left >= 8)
        hash = mix(load64(p) ^ k1, load_tail(p + 8, left - 8) ^ hash);
    else if (left > 0)
        hash = mix(load_tail(p, left) ^ k1, k0 ^ hash);
    return mix(hash ^ k1, k0);
}

uint64_t slice_hash(struct slice s)
{
    return slice_hash_keyed(s, (const uint64_t[2]){hash_key(0), hash_key(1)});
}
