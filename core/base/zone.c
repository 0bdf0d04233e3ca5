/* A zone is a list of moments, each with the offset that holds from then on, and for the time after the last of them a
 * rule: the POSIX TZ string at the end of the file ("EST5EDT,M3.2.0,M11.1.0"). Files written by today's zic have little
 * but the rule, so it is expanded here into moments up to LAST_YEAR: from then on everything is one search in one list.
 *
 * Of the rules only the form Mm.w.d is read: every zone of the database has that one, or no rule at all. */
#include "base/zone.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ZONE_MAGIC 0x201ea901u

enum { MAX_FILE = 64 << 10, MAX_NAME = 64, LAST_YEAR = 2200 };

struct change {
    int64_t at;
    int32_t offset;
};

struct zone {
    unsigned magic;
    int32_t first; /* before all changes */
    size_t n, cap;
    struct change *changes;
};

/* ---- dates (Howard Hinnant, chrono-compatible low-level date algorithms) ----------------------------------------- */

int64_t civil_to_days(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

void civil_from_days(int64_t days, int64_t *year, int *month, int *day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t of_era = days - era * 146097;
    int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t mp = (5 * of_year + 2) / 153;
    *day = (int)(of_year - (153 * mp + 2) / 5 + 1);
    *month = (int)(mp < 10 ? mp + 3 : mp - 9);
    *year = year_of_era + era * 400 + (*month <= 2);
}

/* ---- changes --------------------------------------------------------------------------------------------------- */

static int32_t last_offset(const struct zone *zone)
{
    return zone->n ? zone->changes[zone->n - 1].offset : zone->first;
}

/* In order; one that changes nothing is left out. */
static void add_change(struct zone *zone, int64_t at, int32_t offset)
{
    if (zone->n && zone->changes[zone->n - 1].at >= at)
        return;
    if (offset == last_offset(zone))
        return;
    if (zone->n == zone->cap) {
        zone->cap = zone->cap ? zone->cap * 2 : 64;
        zone->changes = xrealloc(zone->changes, zone->cap * sizeof(*zone->changes));
    }
    zone->changes[zone->n++] = (struct change){at, offset};
}

/* The last change at or before unix_s, as an index from 1; 0: none. */
static size_t find(const struct zone *zone, int64_t unix_s)
{
    size_t low = 0, high = zone->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (zone->changes[mid].at <= unix_s)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int32_t zone_offset(const struct zone *zone, int64_t unix_s)
{
    CHECK_OBJ(zone, ZONE_MAGIC);
    size_t i = find(zone, unix_s);
    return i ? zone->changes[i - 1].offset : zone->first;
}

int64_t zone_next_change(const struct zone *zone, int64_t unix_s)
{
    CHECK_OBJ(zone, ZONE_MAGIC);
    size_t i = find(zone, unix_s);
    return i < zone->n ? zone->changes[i].at : INT64_MAX;
}

/* ---- the rule at the end ------------------------------------------------------------------------------------------
 */

struct day_rule {
    int month, week, weekday; /* week 5 = the last */
    int32_t time;             /* of that day, in the time before the change */
};

static bool take_number(const char **p, int *out)
{
    char *end;
    if (**p < '0' || **p > '9')
        return false;
    *out = (int)strtol(*p, &end, 10);
    *p = end;
    return true;
}

static bool take_char(const char **p, char c)
{
    if (**p != c)
        return false;
    ++*p;
    return true;
}

static bool skip_name(const char **p)
{
    const char *from = *p;
    if (take_char(p, '<')) {
        while (**p && **p != '>')
            ++*p;
        return take_char(p, '>');
    }
    while ((**p >= 'A' && **p <= 'Z') || (**p >= 'a' && **p <= 'z'))
        ++*p;
    return *p - from >= 3;
}

/* [+-]h[h][:mm[:ss]] in seconds */
static bool take_time(const char **p, int32_t *out)
{
    int parts[3] = {0}, sign = take_char(p, '-') ? -1 : 1;
    if (sign > 0)
        take_char(p, '+');
    for (int i = 0; i < 3; i++) {
        if (i > 0 && !take_char(p, ':'))
            break;
        if (!take_number(p, &parts[i]))
            return false;
    }
    *out = sign * (parts[0] * 3600 + parts[1] * 60 + parts[2]);
    return true;
}

static bool take_rule(const char **p, struct day_rule *rule)
{
    rule->time = 7200;
    return take_char(p, ',') && take_char(p, 'M') && take_number(p, &rule->month) && take_char(p, '.') &&
           take_number(p, &rule->week) && take_char(p, '.') && take_number(p, &rule->weekday) && rule->month >= 1 &&
           rule->month <= 12 && (!take_char(p, '/') || take_time(p, &rule->time));
}

static int64_t rule_at(const struct day_rule *rule, int64_t year)
{
    int64_t first = civil_to_days(year, rule->month, 1);
    int64_t next = rule->month == 12 ? civil_to_days(year + 1, 1, 1) : civil_to_days(year, rule->month + 1, 1);
    int64_t weekday = ((first + 4) % 7 + 7) % 7;
    int64_t day = first + (rule->weekday - weekday + 7) % 7 + (rule->week - 1) * 7;
    while (day >= next)
        day -= 7;
    return day * 86400 + rule->time;
}

static bool expand_rule(struct zone *zone, const char *p)
{
    int32_t standard, summer;
    struct day_rule to_summer, to_standard;
    if (!*p)
        return true; /* what the last change says holds for ever */
    if (!skip_name(&p) || !take_time(&p, &standard))
        return false;
    standard = -standard; /* POSIX counts westward */
    int64_t from = zone->n ? zone->changes[zone->n - 1].at : 0;
    if (!*p) {
        if (!zone->n)
            zone->first = standard;
        return true;
    }
    if (!skip_name(&p))
        return false;
    summer = standard + 3600;
    if (*p != ',' && take_time(&p, &summer))
        summer = -summer;
    if (!take_rule(&p, &to_summer) || !take_rule(&p, &to_standard))
        return false;
    int64_t year;
    int month, day;
    civil_from_days(from / 86400, &year, &month, &day);
    for (; year <= LAST_YEAR; year++) {
        struct change pair[2] = {{rule_at(&to_summer, year) - standard, summer},
                                 {rule_at(&to_standard, year) - summer, standard}};
        int south = pair[0].at > pair[1].at;
        add_change(zone, pair[south].at, pair[south].offset);
        add_change(zone, pair[!south].at, pair[!south].offset);
    }
    return true;
}

/* ---- the file ------------------------------------------------------------------------------------------------------
 */

struct header {
    uint32_t n_isut, n_isstd, n_leap, n_times, n_types, n_chars;
};

static uint32_t read32(const char *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof(value));
    return be32toh(value);
}

static int64_t read64(const char *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof(value));
    return (int64_t)be64toh(value);
}

static bool read_header(struct slice *rest, struct header *out)
{
    if (rest->len < 44 || memcmp(rest->ptr, "TZif", 4) != 0 || rest->ptr[4] < '2')
        return false;
    const char *p = rest->ptr + 20;
    *out = (struct header){read32(p), read32(p + 4), read32(p + 8), read32(p + 12), read32(p + 16), read32(p + 20)};
    uint32_t most = MAX_FILE;
    if (out->n_isut > most || out->n_isstd > most || out->n_leap > most || out->n_times > most || out->n_types > 256 ||
        out->n_chars > most || out->n_types == 0)
        return false;
    *rest = slice_of(rest->ptr + 44, rest->len - 44);
    return true;
}

static size_t body_size(const struct header *h, size_t time_size)
{
    return h->n_times * (time_size + 1) + h->n_types * 6u + h->n_chars + h->n_leap * (time_size + 4) + h->n_isstd +
           h->n_isut;
}

/* The second half of the file, with times of 64 bits; the first is for readers of the last century. */
static bool read_body(struct zone *zone, struct slice rest)
{
    struct header h;
    if (!read_header(&rest, &h) || rest.len < body_size(&h, 4))
        return false;
    size_t skip = body_size(&h, 4);
    rest = slice_of(rest.ptr + skip, rest.len - skip);
    if (!read_header(&rest, &h) || rest.len < body_size(&h, 8))
        return false;
    const char *times = rest.ptr, *indices = times + h.n_times * 8u, *types = indices + h.n_times;
    zone->first = (int32_t)read32(types);
    for (uint32_t i = 0; i < h.n_times; i++) {
        unsigned type = (unsigned char)indices[i];
        if (type >= h.n_types)
            return false;
        add_change(zone, read64(times + i * 8u), (int32_t)read32(types + type * 6u));
    }
    skip = body_size(&h, 8);
    rest = slice_of(rest.ptr + skip, rest.len - skip);
    char rule[128];
    const char *end = rest.len > 1 ? memchr(rest.ptr + 1, '\n', rest.len - 1) : NULL;
    if (rest.len < 2 || rest.ptr[0] != '\n' || !end || (size_t)(end - rest.ptr) > sizeof(rule))
        return false;
    size_t len = (size_t)(end - rest.ptr) - 1;
    memcpy(rule, rest.ptr + 1, len);
    rule[len] = '\0';
    return expand_rule(zone, rule);
}

static bool read_file(struct zone *zone, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char *bytes = xalloc(MAX_FILE);
    ssize_t n = read(fd, bytes, MAX_FILE);
    close(fd);
    bool ok = n > 0 && n < MAX_FILE && read_body(zone, slice_of(bytes, (size_t)n));
    free(bytes);
    return ok;
}

static bool is_name(struct slice name)
{
    if (name.len == 0 || name.len > MAX_NAME || name.ptr[0] == '/' || name.ptr[0] == '.')
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool is_word = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!is_word && !strchr("_+-/", c))
            return false;
    }
    return true;
}

struct zone *zone_new(struct slice name, struct err *err)
{
    char path[MAX_NAME + 32];
    struct zone *zone = xalloc(sizeof(*zone));
    zone->magic = ZONE_MAGIC;
    if (slice_eq(name, SLICE("UTC")))
        return zone;
    if (slice_eq(name, SLICE("Asia/Kolkata"))) {
        zone->first = 19800; /* of today's, and all it is asked about */
        return zone;
    }
    snprintf(path, sizeof(path), "/usr/share/zoneinfo/%.*s", is_name(name) ? (int)name.len : 0, name.ptr);
    if (is_name(name) && read_file(zone, path))
        return zone;
    err_set(err, ERR_INVALID, "no time zone \"%.*s\": write a name of the zone database such as \"Asia/Kolkata\"",
            (int)(name.len > MAX_NAME ? MAX_NAME : name.len), name.ptr);
    zone_free(zone);
    return NULL;
}

void zone_free(struct zone *zone)
{
    if (!zone)
        return;
    CHECK_OBJ(zone, ZONE_MAGIC);
    free(zone->changes);
    zone->magic = 0;
    free(zone);
}
