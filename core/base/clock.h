/* Time. Monotonic milliseconds for deadlines; wall time for people. Tests inject both. */
#pragma once

#include "base/buf.h"

uint64_t clock_ms(void);        /* monotonic; reads the system clock */
uint64_t clock_us(void);        /* monotonic */
uint64_t clock_coarse_ms(void); /* monotonic, up to 10 ms behind clock_ms, at a third of its price */
int64_t clock_wall_ms(void);    /* Unix time in ms */
void clock_fake(uint64_t mono_ms, int64_t wall_ms); /* tests: freeze; (0, 0) thaws */

#define CLOCK_RFC3339_LEN 24 /* "2026-11-23T06:19:16.123Z" */
void clock_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_LEN + 1]);
#define CLOCK_HTTP_LEN 29 /* "Mon, 23 Nov 2026 06:19:16 GMT", RFC 9110 5.6.7 */
void clock_http(int64_t wall_ms, char out[CLOCK_HTTP_LEN + 1]);
