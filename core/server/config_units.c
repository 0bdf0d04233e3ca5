#include "server/config_units.h"

struct unit {
    const char *suffix;
    int64_t factor;
};

/* Largest first: formatting takes the first that divides. "" is the unit itself. */
static const struct unit duration_units[] = {
    {"d", 24 * 3600 * 1000LL}, {"h", 3600 * 1000LL}, {"m", 60 * 1000LL}, {"s", 1000LL}, {"ms", 1}};
static const struct unit size_units[] = {{"GiB", 1LL << 30}, {"MiB", 1LL << 20}, {"KiB", 1LL << 10}, {"", 1}};

static bool unit_parse(struct slice text, const struct unit *units, size_t n_units, int64_t *out)
{
    size_t digits = 0;
    while (digits < text.len && text.ptr[digits] >= '0' && text.ptr[digits] <= '9')
        digits++;
    struct slice suffix = slice_of(text.ptr + digits, text.len - digits);
    int64_t number;
    for (size_t i = 0; i < n_units; i++) {
        if (!slice_eq(suffix, slice_str(units[i].suffix)))
            continue;
        if (!slice_to_int(slice_of(text.ptr, digits), 0, INT64_MAX / units[i].factor, &number))
            return false;
        *out = number * units[i].factor;
        return true;
    }
    return false;
}

static void unit_format(int64_t value, const struct unit *units, size_t n_units, struct buf *out)
{
    for (size_t i = 0; i < n_units; i++) {
        if (value % units[i].factor != 0 && units[i].factor != 1)
            continue;
        if (value == 0 && units[i].factor != 1)
            continue;
        buf_int(out, value / units[i].factor);
        buf_append(out, units[i].suffix, strlen(units[i].suffix));
        return;
    }
}

bool duration_parse(struct slice text, int64_t *ms)
{
    if (slice_eq(text, SLICE("0"))) {
        *ms = 0;
        return true;
    }
    return unit_parse(text, duration_units, ARRAY_LEN(duration_units), ms);
}

bool size_parse(struct slice text, int64_t *bytes)
{
    return unit_parse(text, size_units, ARRAY_LEN(size_units), bytes);
}

void duration_format(int64_t ms, struct buf *out)
{
    if (ms == 0)
        buf_lit(out, "0");
    else
        unit_format(ms, duration_units, ARRAY_LEN(duration_units), out);
}

void size_format(int64_t bytes, struct buf *out)
{
    unit_format(bytes, size_units, ARRAY_LEN(size_units), out);
}
