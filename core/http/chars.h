/* What a byte may be part of, as one table (RFC 9110 5.5, 5.6.2; RFC 3986 3.2.2). */
#pragma once

#include "base/slice.h"

enum {
    HTTP_CHAR_TOKEN = 1,  /* tchar */
    HTTP_CHAR_VALUE = 2,  /* field content: HTAB, SP, visible ASCII, obs-text */
    HTTP_CHAR_TARGET = 4, /* visible ASCII except '#' */
    HTTP_CHAR_HOST = 8,   /* reg-name and IPv4 of a URI, except ',' */
};

extern const unsigned char http_chars[256];

static inline bool http_char_is(char c, unsigned kinds)
{
    return (http_chars[(unsigned char)c] & kinds) != 0;
}

/* Every byte is of that kind; true for an empty slice. */
static inline bool http_chars_are(struct slice s, unsigned kinds)
{
    unsigned char all = (unsigned char)kinds;
    for (size_t i = 0; i < s.len; i++)
        all &= http_chars[(unsigned char)s.ptr[i]];
    return s.len == 0 || all != 0;
}
