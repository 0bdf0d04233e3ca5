/* Between the files of json only: the reader's cursor, its lexers, and UTF-8. */
#pragma once

#include "base/json.h"

struct json_names; /* names seen in the open objects, json_read.c */

struct json_reader {
    const char *p, *end; /* cursor */
    const char *start;
    struct arena *arena;
    struct err *err;
    char *scratch; /* where a string with escapes is unescaped; lives in the arena, grows by doubling */
    size_t scratch_cap;
    const struct json_events *events;
    void *data;
    size_t max_depth, max_keys;
    size_t depth;
    struct json_names *names;
};

/* "line L column C: what" about the byte at `at`; returns ERR. */
enum status json_fail(struct json_reader *r, const char *at, const char *what);

/* At the opening quote; out borrows from the text or from the scratch, until the next string. */
enum status json_take_string(struct json_reader *r, struct slice *out) MUST_CHECK;
/* At '-' or a digit. */
enum status json_take_number(struct json_reader *r, double *out) MUST_CHECK;

/* Length of the well-formed UTF-8 sequence at p (1..4), or minus the length of the ill-formed one: its
 * maximal subpart, as Unicode 3.9 recommends replacing it. p < end. */
int json_utf8_step(const char *p, const char *end);

/* First byte at or after p that a JSON string cannot hold as it stands: '"', '\\', below 0x20, or 0x80 and
 * above (which wants a look). */
const char *json_skip_plain(const char *p, const char *end);
