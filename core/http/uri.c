#include "http/uri.h"

#include "base/json.h"

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

static bool has_escape(struct slice text, bool plus)
{
    return memchr(text.ptr, '%', text.len) || (plus && memchr(text.ptr, '+', text.len));
}

/* One byte of the result from text[*at], which is moved past it; -1 if invalid. */
static int decode_byte(struct slice text, size_t *at, bool plus)
{
    char c = text.ptr[(*at)++];
    if (c == '+' && plus)
        return ' ';
    if (c != '%')
        return (unsigned char)c;
    if (text.len - *at < 2)
        return -1;
    int high = hex_value(text.ptr[*at]), low = hex_value(text.ptr[*at + 1]);
    *at += 2;
    if (high < 0 || low < 0 || (high == 0 && low == 0))
        return -1;
    return high << 4 | low;
}

enum status http_uri_decode(struct slice text, bool plus, struct arena *arena, struct slice *out)
{
    if (text.len == 0 || !has_escape(text, plus)) {
        if (!json_is_utf8(text))
            return ERR;
        *out = text;
        return OK;
    }
    char *bytes = arena_alloc(arena, text.len);
    size_t len = 0;
    for (size_t at = 0; at < text.len;) {
        int byte = decode_byte(text, &at, plus);
        if (byte < 0)
            return ERR;
        bytes[len++] = (char)byte;
    }
    if (!json_is_utf8(slice_of(bytes, len)))
        return ERR;
    *out = slice_of(bytes, len);
    return OK;
}

enum status http_uri_next_pair(struct slice *rest, struct arena *arena, struct slice *name, struct slice *value)
{
    struct slice pair = {NULL, 0};
    while (pair.len == 0) {
        if (rest->len == 0)
            return AGAIN;
        const char *end = memchr(rest->ptr, '&', rest->len);
        pair = slice_of(rest->ptr, end ? (size_t)(end - rest->ptr) : rest->len);
        size_t taken = pair.len + (end ? 1 : 0);
        *rest = slice_of(rest->ptr + taken, rest->len - taken);
    }
    const char *equals = memchr(pair.ptr, '=', pair.len);
    size_t name_len = equals ? (size_t)(equals - pair.ptr) : pair.len;
    size_t value_at = equals ? name_len + 1 : name_len;
    if (http_uri_decode(slice_of(pair.ptr, name_len), true, arena, name) != OK)
        return ERR;
    return http_uri_decode(slice_of(pair.ptr + value_at, pair.len - value_at), true, arena, value);
}
