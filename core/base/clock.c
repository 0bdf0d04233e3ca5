#include "base/clock.h"

#include <time.h>

#define MS_PER_DAY 86400000

static bool is_fake;
static uint64_t fake_mono_ms;
static int64_t fake_wall_ms;

void clock_fake(uint64_t mono_ms, int64_t wall_ms)
{
    is_fake = mono_ms != 0 || wall_ms != 0;
    fake_mono_ms = mono_ms;
    fake_wall_ms = wall_ms;
}

static struct timespec now(clockid_t id)
{
    struct timespec ts;
    CHECK(clock_gettime(id, &ts) == 0);
    return ts;
}

uint64_t clock_ms(void)
{
    if (is_fake)
        return fake_mono_ms;
    struct timespec ts = now(CLOCK_MONOTONIC);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t clock_coarse_ms(void)
{
    if (is_fake)
        return fake_mono_ms;
    struct timespec ts = now(CLOCK_MONOTONIC_COARSE);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t clock_us(void)
{
    if (is_fake)
        return fake_mono_ms * 1000;
    struct timespec ts = now(CLOCK_MONOTONIC);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

int64_t clock_wall_ms(void)
{
    if (is_fake)
        return fake_wall_ms;
    struct timespec ts = now(CLOCK_REALTIME);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- calendar: our own, because gmtime_r takes glibc's time-zone lock ---- */

struct civil {
    int year, month, day, hour, minute, second, ms;
    int weekday; /* 0 = Sunday */
};

/* Days since 1970-01-01 to a proleptic Gregorian date, counted in eras of 400 years that begin on 1 March. */
static void civil_from_days(int64_t days, struct civil *out)
{
    int64_t shifted = days + 719468;
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int64_t day_of_era = shifted - era * 146097;
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t march_month = (5 * day_of_year + 2) / 153;
    out->day = (int)(day_of_year - (153 * march_month + 2) / 5 + 1);
    out->month = (int)(march_month < 10 ? march_month + 3 : march_month - 9);
    out->year = (int)(year_of_era + era * 400 + (out->month <= 2));
}

/* Clamped to years 0 … 9999, which is what both formats can say. */
static struct civil civil_of(int64_t wall_ms)
{
    const int64_t min = -62167219200000, max = 253402300799999;
    wall_ms = wall_ms < min ? min : wall_ms > max ? max : wall_ms;
    int64_t days = wall_ms / MS_PER_DAY, rest = wall_ms % MS_PER_DAY;
    if (rest < 0) {
        rest += MS_PER_DAY;
        days--;
    }
    struct civil c;
    civil_from_days(days, &c);
    c.weekday = (int)((days % 7 + 11) % 7); /* 1970-01-01 was a Thursday */
    c.ms = (int)(rest % 1000);
    c.second = (int)(rest / 1000 % 60);
    c.minute = (int)(rest / 60000 % 60);
    c.hour = (int)(rest / 3600000);
    return c;
}

static char *put_digits(char *out, int value, int width)
{
    for (int i = width - 1; i >= 0; i--, value /= 10)
        out[i] = (char)('0' + value % 10);
    return out + width;
}

static char *put_name(char *out, const char *names, int i) /* names of three letters each */
{
    memcpy(out, names + (size_t)i * 3, 3);
    return out + 3;
}

static char *put_time(char *out, const struct civil *c)
{
    out = put_digits(out, c->hour, 2);
    *out++ = ':';
    out = put_digits(out, c->minute, 2);
    *out++ = ':';
    return put_digits(out, c->second, 2);
}

void clock_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_LEN + 1])
{
    struct civil c = civil_of(wall_ms);
    out = put_digits(out, c.year, 4);
    *out++ = '-';
    out = put_digits(out, c.month, 2);
    *out++ = '-';
    out = put_digits(out, c.day, 2);
    *out++ = 'T';
    out = put_time(out, &c);
    *out++ = '.';
    out = put_digits(out, c.ms, 3);
    memcpy(out, "Z", 2);
}

void clock_http(int64_t wall_ms, char out[CLOCK_HTTP_LEN + 1])
{
    struct civil c = civil_of(wall_ms);
    out = put_name(out, "SunMonTueWedThuFriSat", c.weekday);
    *out++ = ',';
    *out++ = ' ';
    out = put_digits(out, c.day, 2);
    *out++ = ' ';
    out = put_name(out, "JanFebMarAprMayJunJulAugSepOctNovDec", c.month - 1);
    *out++ = ' ';
    out = put_digits(out, c.year, 4);
    *out++ = ' ';
    out = put_time(out, &c);
    memcpy(out, " GMT", 5);
}
