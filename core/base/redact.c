#include "base/redact.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

#include "base/json.h"

/* ---- by name ------------------------------------------------------------------------------------------------- */

enum { NAME_MAX_LEN = 64, DIGITS_MIN = 8, DIGITS_MAX = 19 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80;
}

/* API-Key, api_key and apiKey are one name: letters and digits, lower case. */
static void normalize(struct slice name, char out[NAME_MAX_LEN + 1])
{
    size_t len = 0;
    for (size_t i = 0; i < name.len && len < NAME_MAX_LEN; i++)
        if (is_digit(name.ptr[i]) || is_letter(name.ptr[i]))
            out[len++] = name.ptr[i] >= 'A' && name.ptr[i] <= 'Z' ? (char)(name.ptr[i] + 32) : name.ptr[i];
    out[len] = '\0';
}

bool redact_is_name(struct slice name)
{
    static const char *const parts[] = {
        "password", "passwd",     "secret",    "token", "authorization", "cookie", "signature",  "credential",
        "apikey",   "privatekey", "sessionid", "email", "phone",         "mobile", "cardnumber", "aadhaar"};
    static const char *const words[] = {"pwd", "otp", "pin", "cvv", "cvc", "jwt", "contact", "upi", "vpa", "pan"};
    char text[NAME_MAX_LEN + 1];
    normalize(name, text);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (strstr(text, parts[i]))
            return true;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcmp(text, words[i]) == 0)
            return true;
    return false;
}

/* ---- by look ------------------------------------------------------------------------------------------------- */

static bool is_local(char c)
{
    return is_letter(c) || is_digit(c) || (c && strchr("._%+-", c));
}

static bool is_host(char c)
{
    return is_letter(c) || is_digit(c) || c == '.' || c == '-';
}

/* An address around the '@' at `at`: from *begin to its end, which is returned; 0: it is none. */
static size_t find_email(struct slice s, size_t at, size_t *begin)
{
    size_t from = at, to = at + 1, dot = 0;
    while (from > 0 && is_local(s.ptr[from - 1]))
        from--;
    for (; to < s.len && is_host(s.ptr[to]); to++)
        dot = s.ptr[to] == '.' && to + 1 < s.len && is_letter(s.ptr[to + 1]) ? to : dot;
    *begin = from;
    return from < at && dot > at + 1 ? to : 0;
}

static bool passes_luhn(const char *digits, size_t n)
{
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned digit = (unsigned)(digits[n - 1 - i] - '0') * (1 + i % 2);
        sum += digit > 9 ? digit - 9 : digit;
    }
    return sum % 10 == 0;
}

/* What digits mean; "" is nothing to hide. Times in ms, µs and ns begin with 1. */
static const char *meaning(const char *digits, size_t n, bool has_plus)
{
    if (n >= 13 && digits[0] >= '2' && digits[0] <= '6' && passes_luhn(digits, n))
        return "[card]";
    bool is_indian = (n == 10 && digits[0] >= '6') || (n == 11 && digits[0] == '0' && digits[1] >= '6') ||
                     (n == 12 && digits[0] == '9' && digits[1] == '1' && digits[2] >= '6');
    return is_indian || (has_plus && n >= DIGITS_MIN && n <= 15) ? "[phone]" : "";
}

/* Groups of digits with a blank or a dash between them, from s[at], where a number begins. Returns the end of the
 * longest that means something and sets *what; else the end of the first group, with "". */
static size_t read_number(struct slice s, size_t at, const char **what)
{
    char digits[DIGITS_MAX];
    size_t n = 0, end = 0, i = at + (s.ptr[at] == '+');
    *what = "";
    for (; i < s.len && n < DIGITS_MAX && is_digit(s.ptr[i]); i++) {
        digits[n++] = s.ptr[i];
        bool is_group = i + 1 == s.len || !is_digit(s.ptr[i + 1]);
        if (!is_group)
            continue;
        const char *is = i + 1 == s.len || !is_letter(s.ptr[i + 1]) ? meaning(digits, n, s.ptr[at] == '+') : "";
        if (*is || !end) {
            end = i + 1;
            *what = *is ? is : *what;
        }
        if (i + 2 < s.len && (s.ptr[i + 1] == ' ' || s.ptr[i + 1] == '-') && is_digit(s.ptr[i + 2]))
            i++;
    }
    while (!end && i < s.len && is_digit(s.ptr[i]))
        i++; /* a group that is too long to mean anything */
    return end ? end : i > at ? i : at + 1;
}

static bool begins_number(struct slice s, size_t i)
{
    char before = i > 0 ? s.ptr[i - 1] : ' ';
    bool is_plus = s.ptr[i] == '+' && i + 1 < s.len && is_digit(s.ptr[i + 1]);
    return (is_plus || is_digit(s.ptr[i])) && !is_digit(before) && !is_letter(before) && !strchr("_-.+", before);
}

/* PostgreSQL's details: "Key (a, b)=(…) already exists.", "Failing row contains (…)." s[i] is the bracket before the
 * values; the end of them, or 0. */
static size_t find_values(struct slice s, size_t i)
{
    static const struct slice before[] = {SLICE(")="), SLICE("row contains ")};
    for (size_t k = 0; k < ARRAY_LEN(before); k++) {
        size_t len = before[k].len;
        if (i < len || memcmp(s.ptr + i - len, before[k].ptr, len) != 0)
            continue;
        const char *line_end = memchr(s.ptr + i, '\n', s.len - i);
        size_t rest = line_end ? (size_t)(line_end - s.ptr) - i : s.len - i;
        const char *close = memrchr(s.ptr + i, ')', rest);
        return close ? (size_t)(close + 1 - s.ptr) : i + rest;
    }
    return 0;
}

struct finding { /* from … to is shown as `as`; "": nothing is there, go on at `to` */
    size_t from, to;
    const char *as;
};

static struct finding look_at(struct slice s, size_t i)
{
    struct finding found = {.from = i, .to = i + 1, .as = ""};
    size_t end = s.ptr[i] == '(' ? find_values(s, i) : 0;
    if (end)
        return (struct finding){i, end, "(***)"};
    end = s.ptr[i] == '@' ? find_email(s, i, &found.from) : 0;
    if (end)
        return (struct finding){found.from, end, "[email]"};
    if (begins_number(s, i))
        found.to = read_number(s, i, &found.as);
    return found;
}

bool redact_text(struct slice text, struct buf *out)
{
    size_t shown = 0; /* up to there `out` has it */
    bool is_changed = false;
    for (size_t i = 0; i < text.len;) {
        struct finding found = look_at(text, i);
        i = found.to;
        if (!*found.as)
            continue;
        found.from = found.from > shown ? found.from : shown;
        buf_append(out, text.ptr + shown, found.from - shown);
        buf_append(out, found.as, strlen(found.as));
        shown = found.to;
        is_changed = true;
    }
    if (is_changed)
        buf_append(out, text.ptr + shown, text.len - shown);
    return is_changed;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------- */

/* s[i] is a quote; behind the closing one. */
static size_t skip_string(struct slice s, size_t i)
{
    for (i++; i < s.len && s.ptr[i] != '"'; i++)
        i += s.ptr[i] == '\\';
    return i < s.len ? i + 1 : s.len;
}

static size_t skip_value(struct slice s, size_t i)
{
    int depth = 0;
    while (i < s.len) {
        char c = s.ptr[i];
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            return i;
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        i = c == '"' ? skip_string(s, i) : i + 1;
    }
    return i;
}

static bool keep(void *data, struct slice value)
{
    buf_slice(data, value);
    return true;
}

/* False: it is cut, or otherwise no JSON. */
static bool unescape(struct slice quoted, struct buf *out)
{
    static const struct json_events events = {.on_string = keep};
    struct arena arena;
    arena_create(&arena);
    bool is_read = json_read(quoted, NULL, &events, out, &arena, NULL) == OK;
    arena_destroy(&arena);
    return is_read;
}

/* A string, quotes included, as a value. Looked at as it was before JSON: an escape's letter is no part of a word, and
 * a value ends before the quote. */
static bool string_value(struct slice s, struct buf *out)
{
    struct buf plain = {0}, shown = {0};
    bool is_json = unescape(s, &plain);
    bool is_changed = redact_text(is_json ? buf_as_slice(&plain) : s, &shown);
    if (is_changed && is_json)
        json_write_string(out, buf_as_slice(&shown));
    else
        buf_slice(out, is_changed ? buf_as_slice(&shown) : s);
    buf_free(&plain);
    buf_free(&shown);
    return is_changed;
}

bool redact_json(struct slice json, struct buf *out)
{
    size_t begin = out->len;
    bool is_changed = false;
    for (size_t i = 0; i < json.len;) {
        if (json.ptr[i] != '"') {
            buf_byte(out, json.ptr[i++]);
            continue;
        }
        size_t end = skip_string(json, i), next = end;
        while (next < json.len && strchr(" \t\r\n", json.ptr[next]))
            next++;
        struct slice text = slice_of(json.ptr + i, end - i);
        i = end;
        if (next == json.len || json.ptr[next] != ':') {
            is_changed |= string_value(text, out);
            continue;
        }
        buf_slice(out, text);
        if (!redact_is_name(text))
            continue;
        buf_lit(out, ":\"***\"");
        i = skip_value(json, next + 1);
        is_changed = true;
    }
    if (!is_changed)
        out->len = begin;
    return is_changed;
}

/* ---- addresses ----------------------------------------------------------------------------------------------- */

void redact_ip(struct slice ip, struct buf *out)
{
    unsigned char bytes[16];
    char text[INET6_ADDRSTRLEN] = "", shown[INET6_ADDRSTRLEN] = "";
    snprintf(text, sizeof(text), "%.*s", SLICE_FMT(ip));
    if (inet_pton(AF_INET, text, bytes) == 1) {
        bytes[3] = 0;
        inet_ntop(AF_INET, bytes, shown, sizeof(shown));
    } else if (inet_pton(AF_INET6, text, bytes) == 1) {
        bool is_mapped = IN6_IS_ADDR_V4MAPPED((struct in6_addr *)(void *)bytes);
        memset(bytes + (is_mapped ? 15 : 6), 0, is_mapped ? 1 : 10);
        inet_ntop(AF_INET6, bytes, shown, sizeof(shown));
    } else {
        buf_slice(out, ip); /* "unix" */
        return;
    }
    buf_slice(out, slice_str(shown));
}
