/* Whether a JSON text's numbers survive a double. PostgreSQL keeps jsonb numbers as numeric, with any number of digits;
 * Lua has doubles. Up to 15 significant digits always come back as they were; of more it is tried. The text is the
 * server's, so it is valid JSON. */
#include "data/pg_result.h"

#include <stdio.h>
#include <stdlib.h>

enum { SAFE_DIGITS = 15, MAX_LEN = 64 /* no double needs more */ };

static bool is_number_byte(char c)
{
    return (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E';
}

/* Significant digits, without the zeros around them: "-0.0120e5" → "12" */
static size_t take_digits(struct slice text, char *out, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < text.len && text.ptr[i] != 'e' && text.ptr[i] != 'E'; i++)
        if (text.ptr[i] >= '0' && text.ptr[i] <= '9' && (len || text.ptr[i] != '0') && len < size)
            out[len++] = text.ptr[i];
    while (len && out[len - 1] == '0')
        len--;
    return len;
}

static bool is_exact_number(struct slice text)
{
    char digits[MAX_LEN + 1], again[MAX_LEN], copy[MAX_LEN + 1], shown[32];
    size_t len = take_digits(text, digits, sizeof(digits));
    if (len <= SAFE_DIGITS)
        return true;
    if (text.len > MAX_LEN)
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    int n = snprintf(shown, sizeof(shown), "%.17g", strtod(copy, NULL));
    size_t again_len = take_digits(slice_of(shown, (size_t)n), again, sizeof(again));
    return again_len == len && memcmp(digits, again, len) == 0;
}

static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p + 1;
}

bool pg_json_is_exact(struct slice json)
{
    const char *p = json.ptr, *end = json.ptr + json.len;
    while (p < end) {
        if (*p == '"') {
            p = skip_string(p, end);
        } else if (*p == '-' || (*p >= '0' && *p <= '9')) {
            const char *start = p;
            while (p < end && is_number_byte(*p))
                p++;
            if (!is_exact_number(slice_of(start, (size_t)(p - start))))
                return false;
        } else {
            p++;
        }
    }
    return true;
}
