/* Slots are found on the hands of the zone's clock ("local" seconds, as if it were UTC), field by field, and then
 * placed in time. Where the clock jumps between here and there, the search starts again behind the jump: see cron_next.
 */
#include "services/cron.h"

#include "base/zone.h"

enum { DAY_S = 86400, YEARS_MAX = 9 /* 29 February may be eight years away: 2096 … 2104 */ };

struct field {
    const char *name;
    int min, max;
    const char *const *names; /* of min, min + 1 … */
    int n_names;
};

static const char *const months[] = {"jan", "feb", "mar", "apr", "may", "jun",
                                     "jul", "aug", "sep", "oct", "nov", "dec"};
static const char *const weekdays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

enum { MINUTE, HOUR, DAY, MONTH, WEEKDAY, N_FIELDS };
static const struct field fields[N_FIELDS] = {
    [MINUTE] = {"minute", 0, 59, NULL, 0},
    [HOUR] = {"hour", 0, 23, NULL, 0},
    [DAY] = {"day of the month", 1, 31, NULL, 0},
    [MONTH] = {"month", 1, 12, months, 12},
    [WEEKDAY] = {"day of the week", 0, 7, weekdays, 7},
};

static const struct {
    const char *name, *text;
} shorthands[] = {{"@hourly", "0 * * * *"},  {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
                  {"@weekly", "0 0 * * 0"},  {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
                  {"@annually", "0 0 1 1 *"}};

/* ---- parsing ---------------------------------------------------------------------------------------------------- */

static bool split_at(struct slice text, char at, struct slice *left, struct slice *right)
{
    const char *p = text.len ? memchr(text.ptr, at, text.len) : NULL;
    *left = p ? slice_of(text.ptr, (size_t)(p - text.ptr)) : text;
    *right = p ? slice_of(p + 1, text.len - left->len - 1) : slice_of(text.ptr, 0);
    return p != NULL;
}

static bool read_value(const struct field *field, struct slice text, int *out)
{
    int64_t number;
    for (int i = 0; i < field->n_names; i++) {
        if (slice_ieq(text, slice_str(field->names[i]))) {
            *out = field->min + i;
            return true;
        }
    }
    if (text.len > 2 || !slice_to_int(text, field->min, field->max, &number))
        return false;
    *out = (int)number;
    return true;
}

/* One item of a list: *, 5, 1-5, and any of them with /n. "5/10" is 5-max/10. */
static bool read_item(const struct field *field, struct slice item, uint64_t *bits)
{
    struct slice range, step_text, low_text, high_text;
    int low = field->min, high = field->max;
    int64_t step = 1;
    bool has_step = split_at(item, '/', &range, &step_text);
    if (has_step && !slice_to_int(step_text, 1, field->max, &step))
        return false;
    if (!slice_eq(range, SLICE("*"))) {
        bool is_range = split_at(range, '-', &low_text, &high_text);
        if (!read_value(field, low_text, &low))
            return false;
        high = has_step ? field->max : low;
        if (is_range && (!read_value(field, high_text, &high) || high < low))
            return false;
    } else if (field->max == 7) {
        high = 6; /* Sunday once, so that a step counts seven days */
    }
    for (int value = low; value <= high; value += (int)step)
        *bits |= UINT64_C(1) << value;
    return true;
}

static enum status read_field(const struct field *field, struct slice text, uint64_t *bits, struct err *err)
{
    struct slice rest = text, item;
    bool more = true;
    *bits = 0;
    while (more) {
        more = split_at(rest, ',', &item, &rest);
        if (!read_item(field, item, bits))
            return err_set(err, ERR_INVALID,
                           "%s: \"%.*s\": expected %d to %d, *, lists, ranges and steps such as 1-5 "
                           "or */10%s",
                           field->name, (int)(text.len > 60 ? 60 : text.len), text.ptr, field->min, field->max,
                           field->names ? ", or names such as mon or jan" : "");
    }
    return OK;
}

static bool next_word(struct slice *rest, struct slice *word)
{
    *rest = slice_trim(*rest);
    size_t len = 0;
    while (len < rest->len && rest->ptr[len] != ' ' && rest->ptr[len] != '\t')
        len++;
    *word = slice_of(rest->ptr, len);
    *rest = slice_of(rest->ptr + len, rest->len - len);
    return len > 0;
}

static struct slice expand(struct slice text)
{
    text = slice_trim(text);
    for (size_t i = 0; i < ARRAY_LEN(shorthands); i++)
        if (slice_ieq(text, slice_str(shorthands[i].name)))
            return slice_str(shorthands[i].text);
    return text;
}

static int64_t next_local(const struct cron *cron, int64_t local);

enum status cron_parse(struct slice text, struct cron *out, struct err *err)
{
    struct slice rest = expand(text), words[N_FIELDS], more;
    uint64_t bits[N_FIELDS];
    int n = 0;
    while (n < N_FIELDS && next_word(&rest, &words[n]))
        n++;
    if (n < N_FIELDS || next_word(&rest, &more))
        return err_set(err, ERR_INVALID, "expected five fields (minute hour day month weekday) or @daily and its like");
    for (int i = 0; i < N_FIELDS; i++)
        if (read_field(&fields[i], words[i], &bits[i], err) != OK)
            return ERR;
    *out = (struct cron){.minutes = bits[MINUTE],
                         .hours = (uint32_t)bits[HOUR],
                         .days = (uint32_t)bits[DAY],
                         .months = (uint32_t)bits[MONTH],
                         .weekdays = (uint32_t)((bits[WEEKDAY] | bits[WEEKDAY] >> 7) & 0x7f),
                         .any_day = words[DAY].ptr[0] == '*',
                         .any_weekday = words[WEEKDAY].ptr[0] == '*',
                         .any_hour = words[HOUR].ptr[0] == '*'};
    if (next_local(out, 0) < 0)
        return err_set(err, ERR_INVALID, "there is no such date");
    return OK;
}

/* ---- on the hands of the clock
 * --------------------------------------------------------------------------------------- */

static bool is_day(const struct cron *cron, int64_t days, int day)
{
    bool by_day = cron->days >> day & 1, by_weekday = cron->weekdays >> ((days + 4) % 7 + 7) % 7 & 1;
    return cron->any_day || cron->any_weekday ? by_day && by_weekday : by_day || by_weekday;
}

/* The first match at or after `local`, in local seconds; -1: none in YEARS_MAX years. */
static int64_t next_local(const struct cron *cron, int64_t local)
{
    int64_t days = local / DAY_S, from = local % DAY_S, last = days + YEARS_MAX * INT64_C(366);
    for (; days <= last; days++, from = 0) {
        int64_t year;
        int month, day;
        civil_from_days(days, &year, &month, &day);
        if (!(cron->months >> month & 1)) {
            days = civil_to_days(month == 12 ? year + 1 : year, month == 12 ? 1 : month + 1, 1) - 1;
            continue;
        }
        if (!is_day(cron, days, day))
            continue;
        for (int64_t hour = from / 3600, minute = from % 3600 / 60; hour < 24; hour++, minute = 0)
            for (; cron->hours >> hour & 1 && minute < 60; minute++)
                if (cron->minutes >> minute & 1)
                    return days * DAY_S + hour * 3600 + minute * 60;
    }
    return -1;
}

/* ---- in time
 * ------------------------------------------------------------------------------------------------------------ */

/* What the hands show at `at` they may have shown before, up to here; *at follows. */
static int64_t behind_repeated(const struct zone *zone, int64_t *at)
{
    int64_t local = *at + zone_offset(zone, *at), change = zone_next_change(zone, *at - DAY_S);
    if (change > *at)
        return local;
    int64_t shown = change + zone_offset(zone, change - 1);
    if (local >= shown)
        return local;
    *at += shown - local;
    return shown;
}

int64_t cron_next(const struct cron *cron, const struct zone *zone, int64_t after_s)
{
    int64_t at = after_s - after_s % 60; /* where the search stands, and what the hands show there */
    int64_t local = at + zone_offset(zone, at) + 60;
    if (!cron->any_hour) {
        int64_t shown = behind_repeated(zone, &at);
        local = shown > local ? shown : local;
    }
    for (;;) {
        int32_t offset = zone_offset(zone, at);
        int64_t match = next_local(cron, local), change = zone_next_change(zone, at);
        CHECK(match >= 0); /* cron_parse saw to it */
        if (match - offset < change)
            return match - offset;
        /* The clock jumps before that. */
        int32_t then = zone_offset(zone, change);
        at = change + (60 - change % 60) % 60;
        local = at + then;
        if (cron->any_hour)
            continue;
        if (then > offset && match < change + then)
            return at; /* the hands skip it */
        local = behind_repeated(zone, &at);
    }
}

int64_t cron_latest(const struct cron *cron, const struct zone *zone, int64_t after_s, int64_t until_s)
{
    int64_t latest = 0, from = until_s - DAY_S > after_s ? until_s - DAY_S : after_s;
    for (;;) { /* of one that comes every minute the last day will do; of a rare one all since */
        for (int64_t slot = from; (slot = cron_next(cron, zone, slot)) <= until_s;)
            latest = slot;
        if (latest || from == after_s)
            return latest;
        from = after_s;
    }
}
