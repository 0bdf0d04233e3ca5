/* What a number sequence is called, when it starts again, and how its numbers read: "PC{fy}-{n:6}" → PC2627-000123.
 * Pure functions over the configuration keys seq.formats and seq.periods. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

enum {
    SEQ_MAX = 32,        /* sequences of one application */
    SEQ_NAME_MAX = 31,   /* bytes of a name */
    SEQ_FORMAT_MAX = 47, /* bytes of a format as it is written */
    SEQ_NUMBER_MAX = 16, /* of a formatted number: CGST rule 46, [A-Za-z0-9/-] */
    SEQ_PERIOD_MAX = 7,
};

enum seq_cycle { SEQ_NEVER, SEQ_FY, SEQ_YEAR, SEQ_MONTH };

struct seq_def {
    char name[SEQ_NAME_MAX + 1];
    char format[SEQ_FORMAT_MAX + 1]; /* "": raw values only */
    enum seq_cycle cycle;
    bool is_gapless; /* counted in the transaction that uses the number, never leased */
};

struct seq_defs {
    struct seq_def items[SEQ_MAX];
    size_t n_items;
};

/* The effective configuration as one JSON object, of which "seq.formats" and "seq.gapless" {name: format} and
 * "seq.periods" {name: "fy" | "year" | "month" | "none"} are read; without a period, the format's placeholders say it.
 * ERR (ERR_INVALID): a format that could give two numbers the same text, or outgrow a GST number, or is no format:
 * "order: …". `key` (may be NULL) tells which of the keys is at fault. */
enum status seq_defs_read(struct slice config_json, struct seq_defs *defs, const char **key,
                          struct err *err) MUST_CHECK;

/* The counting period of a moment, by the clock in Kolkata: "2026-27", "2026", "2026-04", or "". */
struct seq_period {
    char text[SEQ_PERIOD_MAX + 1];
};
struct seq_period seq_period_at(enum seq_cycle cycle, int64_t wall_ms);

/* ERR (ERR_INVALID): the number has outgrown its format. */
enum status seq_format_write(const struct seq_def *def, struct seq_period period, int64_t n,
                             char out[SEQ_NUMBER_MAX + 1], struct err *err) MUST_CHECK;
/* The counter of a number that seq_format_write wrote. false: it is none of that format and period. */
bool seq_format_read(const struct seq_def *def, struct seq_period period, struct slice text, int64_t *n) MUST_CHECK;
