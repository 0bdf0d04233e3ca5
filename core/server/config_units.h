/* Durations ("200ms", "30s", "5m", "6h", "7d") and sizes ("512", "64KiB", "1MiB", "1GiB") as operators write them. */
#pragma once

#include "base/buf.h"

/* Whole slice; false (out untouched) if it is not one. A bare number is a duration only if it is 0. */
bool duration_parse(struct slice text, int64_t *ms) MUST_CHECK;
bool size_parse(struct slice text, int64_t *bytes) MUST_CHECK;
/* The largest unit that loses nothing: 90000 → "90s", 60000 → "1m". */
void duration_format(int64_t ms, struct buf *out);
void size_format(int64_t bytes, struct buf *out);
