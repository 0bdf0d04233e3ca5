/* Numbers, both ways. Money is integer paise, so a number that a double would change silently is refused on
 * the way in: an integer (or a decimal without exponent) beyond 2^53, an overflow, an underflow to zero. On
 * the way out nothing is written that the reader would refuse.
 *
 * strtod and printf follow LC_NUMERIC: nothing in this program calls setlocale, so the point is a point. */
#include "base/json_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EXACT_MAX 9007199254740992 /* 2^53 */
#define NUMBER_MAX_LEN 512         /* characters; no double needs more than a few dozen */

/* What the grammar told about a number: value = ± digits × 10^exp10, unless there were too many digits. */
struct number {
    const char *text;
    size_t len;
    uint64_t digits; /* the first 18 digits after leading zeros */
    int n_digits;    /* all of them after leading zeros */
    int64_t exp10;
    bool is_negative, has_point, has_exponent;
};

static inline bool is_digit(const struct json_reader *r)
{
    return r->p < r->end && *r->p >= '0' && *r->p <= '9';
}

static void take_digits(struct json_reader *r, struct number *n)
{
    const char *p = r->p;
    while (n->n_digits == 0 && p < r->end && *p == '0') /* leading zeros, of 0.005 */
        p++;
    const char *first = p;
    uint64_t digits = n->digits;
    for (int n_digits = n->n_digits; p < r->end && *p >= '0' && *p <= '9'; p++) {
        if (n_digits++ < 18)
            digits = digits * 10 + (uint64_t)(*p - '0');
    }
    n->n_digits += (int)(p - first);
    n->digits = digits;
    r->p = p;
}

static enum status take_fraction(struct json_reader *r, struct number *n)
{
    const char *first = ++r->p;
    n->has_point = true;
    take_digits(r, n);
    n->exp10 -= r->p - first;
    return r->p > first ? OK : json_fail(r, r->p, "digit expected after the point");
}

static enum status take_exponent(struct json_reader *r, struct number *n)
{
    r->p++;
    n->has_exponent = true;
    bool is_negative = r->p < r->end && *r->p == '-';
    if (r->p < r->end && (*r->p == '-' || *r->p == '+'))
        r->p++;
    if (!is_digit(r))
        return json_fail(r, r->p, "digit expected in the exponent");
    int64_t exponent = 0;
    for (; is_digit(r); r->p++) {
        if (exponent < 1000000)
            exponent = exponent * 10 + (*r->p - '0');
    }
    n->exp10 += is_negative ? -exponent : exponent;
    return OK;
}

/* RFC 8259 6: [ minus ] int [ frac ] [ exp ] */
static enum status take_grammar(struct json_reader *r, struct number *n)
{
    *n = (struct number){.text = r->p};
    if (*r->p == '-') {
        n->is_negative = true;
        r->p++;
    }
    if (!is_digit(r))
        return json_fail(r, r->p, "digit expected");
    if (*r->p == '0') {
        r->p++;
        if (is_digit(r))
            return json_fail(r, n->text, "number with a leading zero");
    } else {
        take_digits(r, n);
    }
    if (r->p < r->end && *r->p == '.' && take_fraction(r, n) != OK)
        return ERR;
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E') && take_exponent(r, n) != OK)
        return ERR;
    n->len = (size_t)(r->p - n->text);
    return OK;
}

/* Where digits and power of ten are both exact doubles, one multiplication or division rounds correctly. */
static bool to_double_exactly(const struct number *n, double *out)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (n->n_digits > 18 || n->digits > EXACT_MAX || n->exp10 < -22 || n->exp10 > 22)
        return false;
    double value = (double)n->digits;
    value = n->exp10 < 0 ? value / powers[-n->exp10] : value * powers[n->exp10];
    *out = n->is_negative ? -value : value;
    return true;
}

static enum status to_double_slowly(struct json_reader *r, const struct number *n, double *out)
{
    char text[NUMBER_MAX_LEN + 1]; /* strtod wants a NUL */
    memcpy(text, n->text, n->len);
    text[n->len] = '\0';
    *out = strtod(text, NULL);
    if (isinf(*out))
        return json_fail(r, n->text, "number too large");
    if (*out == 0 && n->n_digits > 0)
        return json_fail(r, n->text, "number too small to tell from zero");
    return OK;
}

enum status json_take_number(struct json_reader *r, double *out)
{
    struct number n;
    *out = 0;
    if (take_grammar(r, &n) != OK)
        return ERR;
    if (n.len > NUMBER_MAX_LEN)
        return json_fail(r, n.text, "number too long");
    if (!n.has_point && !n.has_exponent && (n.n_digits > 18 || n.digits > EXACT_MAX))
        return json_fail(r, n.text, "integer beyond 2^53 (write it as a string)");
    if (to_double_exactly(&n, out))
        return OK;
    if (to_double_slowly(r, &n, out) != OK)
        return ERR;
    if (!n.has_exponent && fabs(*out) >= (double)EXACT_MAX)
        return json_fail(r, n.text, "number beyond 2^53 (write it as a string)");
    return OK;
}

/* ---- writing ---- */

void json_write_int(struct buf *buf, int64_t value)
{
    buf_int(buf, value);
}

/* 4.5, 99.99, 0.0625: few decimals and few digits. r / 10^k is the double nearest to that decimal text, so
 * if it is our value the text reads back; the smallest such k is the shortest. */
static bool write_short_decimal(struct buf *buf, double value)
{
    static const int64_t powers[] = {1, 10, 100, 1000, 10000};
    double magnitude = fabs(value);
    if (magnitude >= 1e9 || magnitude < 1e-4) /* below, the exponent form may be shorter */
        return false;
    for (int k = 1; k < (int)ARRAY_LEN(powers); k++) {
        int64_t scaled = llrint(magnitude * (double)powers[k]);
        if ((double)scaled / (double)powers[k] != magnitude)
            continue;
        if (value < 0)
            buf_byte(buf, '-');
        buf_int(buf, scaled / powers[k]);
        char decimals[1 + ARRAY_LEN(powers)] = ".";
        int64_t rest = scaled % powers[k];
        for (int i = k; i > 0; i--, rest /= 10)
            decimals[i] = (char)('0' + rest % 10);
        buf_append(buf, decimals, (size_t)k + 1);
        return true;
    }
    return false;
}

enum status json_write_number(struct buf *buf, double value)
{
    if (!isfinite(value))
        return ERR;
    if (fabs(value) <= (double)EXACT_MAX && value == (double)(int64_t)value) {
        if (value == 0 && signbit(value))
            buf_byte(buf, '-');
        buf_int(buf, (int64_t)value);
        return OK;
    }
    if (write_short_decimal(buf, value))
        return OK;
    char text[40];
    int len = 0;
    /* 15 digits are always enough for a decimal of 15; only subnormals can do with fewer than they print. */
    for (int digits = isnormal(value) ? 15 : 1; digits <= 17; digits++) {
        /* Beyond 2^53 always with an exponent: %g would print 16 digits as a plain integer. */
        bool is_plain = digits <= 15 || fabs(value) <= (double)EXACT_MAX;
        len = is_plain ? snprintf(text, sizeof text, "%.*g", digits, value)
                       : snprintf(text, sizeof text, "%.*e", digits - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    buf_append(buf, text, (size_t)len);
    return OK;
}
