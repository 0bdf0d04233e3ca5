/* Strings: scanning, unescaping and escaping. The common string has no escapes and is ASCII: it is scanned
 * sixteen bytes at a time and never copied on the way in, copied once on the way out.
 *
 * Noncharacters (U+FFFE and the like) and U+0000 pass: RFC 7493 would have senders avoid the former, but
 * they lose nothing, and refusing a signed webhook for one would lose money. */
#include "base/json_priv.h"

#include <endian.h>

typedef signed char bytes16 __attribute__((vector_size(16))); /* GCC and Clang: whatever the machine has for it */

int json_utf8_step(const char *p, const char *end)
{
    const unsigned char *s = (const unsigned char *)p;
    size_t left = (size_t)(end - p);
    unsigned char lead = s[0];
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return -1;
    int want = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    /* The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF. */
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (left < 2 || s[1] < low || s[1] > high)
        return -1;
    for (int i = 2; i < want; i++) {
        if ((size_t)i >= left || (s[i] & 0xC0) != 0x80)
            return -i;
    }
    return want;
}

bool json_is_utf8(struct slice text)
{
    const char *p = text.ptr, *end = text.len ? text.ptr + text.len : text.ptr;
    while (p < end) {
        int step = (unsigned char)*p < 0x80 ? 1 : json_utf8_step(p, end);
        if (step < 0)
            return false;
        p += step;
    }
    return true;
}

static const bool is_plain[256] = {
    [0x20 ... '"' - 1] = true, ['"' + 1 ... '\\' - 1] = true, ['\\' + 1 ... 0x7F] = true};

const char *json_skip_plain(const char *p, const char *end)
{
    for (; end - p >= (ptrdiff_t)sizeof(bytes16); p += sizeof(bytes16)) {
        bytes16 bytes;
        uint64_t halves[2];
        memcpy(&bytes, p, sizeof bytes);
        /* Signed: 0x80 and above are less than 0. */
        bytes16 special = (bytes < 0x20) | (bytes == '"') | (bytes == '\\');
        memcpy(halves, &special, sizeof special);
        if (halves[0])
            return p + __builtin_ctzll(le64toh(halves[0])) / 8;
        if (halves[1])
            return p + 8 + __builtin_ctzll(le64toh(halves[1])) / 8;
    }
    while (p < end && is_plain[(unsigned char)*p])
        p++;
    return p;
}

/* ---- reading ---- */

/* Appends at *len, growing the scratch by doubling: what it takes in all is at most twice the longest string. */
static void scratch_put(struct json_reader *r, size_t *len, const char *ptr, size_t n)
{
    if (r->scratch_cap - *len < n) {
        size_t cap = r->scratch_cap ? r->scratch_cap : 128;
        while (cap - *len < n)
            cap *= 2;
        char *grown = arena_alloc(r->arena, cap);
        if (*len > 0)
            memcpy(grown, r->scratch, *len);
        r->scratch = grown;
        r->scratch_cap = cap;
    }
    if (n > 0)
        memcpy(r->scratch + *len, ptr, n);
    *len += n;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Four hex digits at p, or -1. */
static int32_t take_hex4(const char *p, const char *end)
{
    if (end - p < 4)
        return -1;
    int32_t unit = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0)
            return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

static size_t utf8_put(char out[4], uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* At the 'u' of a \u escape; a high surrogate takes the low one's escape with it. */
static enum status take_unicode(struct json_reader *r, size_t *len)
{
    const char *at = r->p - 1;
    int32_t unit = take_hex4(r->p + 1, r->end);
    if (unit < 0)
        return json_fail(r, at, "\\u wants four hex digits");
    r->p += 5;
    uint32_t code = (uint32_t)unit;
    if (unit >= 0xDC00 && unit <= 0xDFFF)
        return json_fail(r, at, "low surrogate without a high one");
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        int32_t low = -1;
        if (r->end - r->p >= 6 && r->p[0] == '\\' && r->p[1] == 'u')
            low = take_hex4(r->p + 2, r->end);
        if (low < 0xDC00 || low > 0xDFFF)
            return json_fail(r, at, "high surrogate without a low one");
        code = 0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
        r->p += 6;
    }
    char bytes[4];
    scratch_put(r, len, bytes, utf8_put(bytes, code));
    return OK;
}

/* After a backslash. */
static enum status take_escape(struct json_reader *r, size_t *len)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (r->p == r->end)
        return json_fail(r, r->p, "string without an end");
    if (*r->p == 'u')
        return take_unicode(r, len);
    const char *found = memchr(names, *r->p, sizeof names - 1);
    if (!found)
        return json_fail(r, r->p - 1, "unknown escape");
    scratch_put(r, len, &values[found - names], 1);
    r->p++;
    return OK;
}

/* Moves over everything that may stand for itself: up to the closing quote or an escape. */
static enum status skip_verbatim(struct json_reader *r)
{
    for (;;) {
        r->p = json_skip_plain(r->p, r->end);
        if (r->p == r->end)
            return json_fail(r, r->p, "string without an end");
        unsigned char c = (unsigned char)*r->p;
        if (c == '"' || c == '\\')
            return OK;
        if (c < 0x20)
            return json_fail(r, r->p, "control character in a string (write it as an escape)");
        do { /* other scripts come in runs, too */
            int step = json_utf8_step(r->p, r->end);
            if (step < 0)
                return json_fail(r, r->p, "not UTF-8");
            r->p += step;
        } while (r->p < r->end && (unsigned char)*r->p >= 0x80);
    }
}

enum status json_take_string(struct json_reader *r, struct slice *out)
{
    const char *run = ++r->p;
    r->p = json_skip_plain(run, r->end);
    if ((r->p == r->end || *r->p != '"') && skip_verbatim(r) != OK)
        return ERR;
    if (*r->p == '"') {
        *out = slice_of(run, (size_t)(r->p++ - run));
        return OK;
    }
    size_t len = 0;
    for (;;) {
        scratch_put(r, &len, run, (size_t)(r->p - run));
        if (*r->p++ == '"')
            break;
        if (take_escape(r, &len) != OK)
            return ERR;
        run = r->p;
        if (skip_verbatim(r) != OK)
            return ERR;
    }
    *out = slice_of(r->scratch, len);
    return OK;
}

/* ---- writing ---- */

static void write_escape(struct buf *buf, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char short_names[0x20] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    if (c >= 0x20 || short_names[c]) {
        const char pair[2] = {'\\', c >= 0x20 ? (char)c : short_names[c]};
        buf_append(buf, pair, sizeof pair);
        return;
    }
    const char unit[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    buf_append(buf, unit, sizeof unit);
}

void json_write_string(struct buf *buf, struct slice utf8)
{
    const char *p = utf8.ptr, *end = utf8.len ? utf8.ptr + utf8.len : utf8.ptr, *run = p;
    buf_reserve(buf, utf8.len + 2);
    buf_byte(buf, '"');
    for (;;) {
        p = json_skip_plain(p, end);
        if (p == end)
            break;
        unsigned char c = (unsigned char)*p;
        int step = c < 0x80 ? 0 : json_utf8_step(p, end);
        if (step > 0) { /* well-formed: stays part of the run, as what follows in other scripts */
            p += step;
            while (end - p >= 3 && (unsigned char)*p >= 0x80 && (step = json_utf8_step(p, end)) > 0)
                p += step;
            continue;
        }
        buf_append(buf, run, (size_t)(p - run));
        if (step == 0) {
            write_escape(buf, c);
            p++;
        } else {
            buf_lit(buf, "\xEF\xBF\xBD"); /* U+FFFD */
            p -= step;
        }
        run = p;
    }
    buf_append(buf, run, (size_t)(end - run));
    buf_byte(buf, '"');
}
