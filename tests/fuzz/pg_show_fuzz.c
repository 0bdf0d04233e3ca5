/* pg_show_scalar of data/pg_result.h, on what a server may send, and base/clock.h, whose texts it imitates. An input
 * is a type's number, a letter ('n' or 't'), and the rest: any text; or milliseconds. Numbers are JSON numbers, times
 * are RFC 3339, bytes survive base64, and an RFC 3339 text names the moment that libc names. */
#include "fuzz.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/crypto.h"
#include "base/json.h"
#include "data/pg_result.h"

#define YEAR_10000_MS 253402300800000

static bool is_json_number(struct slice text)
{
    struct arena arena;
    struct err err;
    arena_create(&arena);
    bool is_json = json_read(text, NULL, NULL, NULL, &arena, &err) == OK;
    arena_destroy(&arena);
    return is_json && (text.ptr[0] == '-' || (text.ptr[0] >= '0' && text.ptr[0] <= '9'));
}

/* As the server writes an integer: no leading zeros. */
static bool is_plain_integer(struct slice text)
{
    int64_t value;
    char plain[24];
    if (!slice_to_int(text, INT64_MIN, INT64_MAX, &value))
        return false;
    snprintf(plain, sizeof plain, "%lld", (long long)value);
    return slice_eq(text, slice_str(plain));
}

static void check_bytea(struct slice text)
{
    struct buf scratch = {0}, hex = {0}, back = {0};
    struct slice out;
    buf_lit(&hex, "\\x");
    crypto_hex(text, buf_reserve(&hex, 2 * text.len));
    hex.len += 2 * text.len;
    CHECK(pg_show_scalar(PG_BYTEA, buf_as_slice(&hex), &scratch, &out) == PG_SHOW_STRING);
    CHECK(crypto_unbase64(out, false, &back) && slice_eq(buf_as_slice(&back), text));
    buf_free(&scratch);
    buf_free(&hex);
    buf_free(&back);
}

static void check_text(enum pg_type type, struct slice text)
{
    struct buf scratch = {0};
    struct slice out = SLICE("");
    enum pg_show show = pg_show_scalar(type, text, &scratch, &out);
    CHECK(out.len == 0 || out.ptr);
    if ((type == PG_INT || type == PG_NUMERIC) && is_plain_integer(text)) {
        bool is_exact = text.len <= 14 || (text.len == 15 && text.ptr[0] == '-');
        CHECK(show == (is_exact ? PG_SHOW_NUMBER : PG_SHOW_STRING) && slice_eq(out, text));
        CHECK(!is_exact || is_json_number(out));
    }
    CHECK(type != PG_BOOL || show == PG_SHOW_TRUE || show == PG_SHOW_FALSE);
    buf_free(&scratch);
    check_bytea(text);
}

static void check_time(int64_t ms)
{
    char text[CLOCK_RFC3339_LEN + 1], libc[64], date[40], pg[CLOCK_RFC3339_LEN + 3];
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    CHECK(gmtime_r(&seconds, &tm));
    clock_rfc3339(ms, text);
    size_t len = strftime(libc, sizeof libc, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(libc + len, sizeof libc - len, ".%03dZ", (int)(ms % 1000));
    CHECK(strcmp(text, libc) == 0);

    char http[CLOCK_HTTP_LEN + 1];
    clock_http(ms, http);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    CHECK(strcmp(http, date) == 0);

    struct buf scratch = {0};
    struct slice out;
    snprintf(pg, sizeof pg, "%.10s %.12s+00", text, text + 11);
    CHECK(pg_show_scalar(PG_TIMESTAMPTZ, slice_str(pg), &scratch, &out) == PG_SHOW_STRING);
    CHECK(slice_eq(out, slice_str(text)));
    buf_free(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || data[0] < '0' || data[0] - '0' > PG_ARRAY)
        return 0;
    struct slice rest = fuzz_input(data + 2, size - 2);
    int64_t ms;
    if (data[1] != 't')
        check_text((enum pg_type)(data[0] - '0'), rest);
    else if (slice_to_int(rest, 0, YEAR_10000_MS - 1, &ms))
        check_time(ms);
    return 0;
}
