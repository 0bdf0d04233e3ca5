/* Formats of number sequences.
 *
 * A format is checked once, at the start, so strictly that writing a number can only fail when millions were given out
 * in one period: it must show the period it restarts with (else last year's numbers come again), have the counter once,
 * with a width (so that numbers sort), and keep within a GST number's length and letters.
 *
 *   {fy} 2627   {year} 2026   {yy} 26   {month} 04   {n:6} 000123, wider when it must be
 *
 * A new placeholder is one row in `fields`; it has to have a fixed width, or texts would no longer be unique. */
#include "services/seq_format.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"

enum {
    KOLKATA_MS = 19800000, /* UTC+05:30, no summer time */
    MIN_WIDTH = 4,
};

/* ---- periods ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *needs;
} cycles[] = {
    [SEQ_NEVER] = {"none", ""},
    [SEQ_FY] = {"fy", "{fy}"},
    [SEQ_YEAR] = {"year", "{year} or {yy}"},
    [SEQ_MONTH] = {"month", "{year} or {yy}, and {month}"},
};

struct seq_period seq_period_at(enum seq_cycle cycle, int64_t wall_ms)
{
    struct seq_period period = {""};
    char date[CLOCK_RFC3339_LEN + 1]; /* "2026-11-23T…" */
    int64_t year = 0, month = 0;
    if (cycle == SEQ_NEVER)
        return period;
    clock_rfc3339(wall_ms + KOLKATA_MS, date);
    CHECK(slice_to_int(slice_of(date, 4), 0, 9999, &year) && slice_to_int(slice_of(date + 5, 2), 1, 12, &month));
    int64_t first = month >= 4 ? year : year - 1; /* the financial year runs from April to March */
    if (cycle == SEQ_FY)
        snprintf(period.text, sizeof(period.text), "%04u-%02u", (unsigned)first % 10000, (unsigned)(first + 1) % 100);
    else
        memcpy(period.text, date, cycle == SEQ_YEAR ? 4 : 7);
    return period;
}

/* ---- formats ------------------------------------------------------------------------------------------------- */

enum field { FIELD_FY = 1, FIELD_YEAR = 2, FIELD_YY = 4, FIELD_MONTH = 8, FIELD_N = 16 };

static const struct {
    const char *text;
    unsigned field;
    unsigned cycles; /* of which it is a part, as bits */
    struct {
        uint8_t from, len;
    } parts[2]; /* of the period's text */
} fields[] = {
    {"fy", FIELD_FY, 1u << SEQ_FY, {{2, 2}, {5, 2}}},
    {"year", FIELD_YEAR, 1u << SEQ_YEAR | 1u << SEQ_MONTH, {{0, 4}, {0, 0}}},
    {"yy", FIELD_YY, 1u << SEQ_YEAR | 1u << SEQ_MONTH, {{2, 2}, {0, 0}}},
    {"month", FIELD_MONTH, 1u << SEQ_MONTH, {{5, 2}, {0, 0}}},
};

/* One piece of a format: a letter, a placeholder of the period, or the counter. */
struct piece {
    unsigned field;    /* 0: a letter */
    int row;           /* of `fields` */
    int64_t width;     /* of the counter */
    struct slice text; /* as it is written */
};

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' || c == '-';
}

static enum status read_placeholder(struct slice body, struct piece *piece, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (slice_eq(body, slice_str(fields[i].text))) {
            piece->field = fields[i].field;
            piece->row = (int)i;
            return OK;
        }
    if (!slice_has_prefix(body, SLICE("n:")) ||
        !slice_to_int(slice_of(body.ptr + 2, body.len - 2), 1, 99, &piece->width))
        return err_set(err, ERR_INVALID, "%.*s is no placeholder: {fy} {year} {yy} {month} {n:6} are",
                       SLICE_FMT(piece->text));
    piece->field = FIELD_N;
    return OK;
}

/* The next piece of `rest`, which is not empty; consumes it. */
static enum status read_piece(struct slice *rest, struct piece *piece, struct err *err)
{
    *piece = (struct piece){.text = slice_of(rest->ptr, 1)};
    const char *close = rest->ptr[0] == '{' ? memchr(rest->ptr, '}', rest->len) : NULL;
    if (close)
        piece->text.len = (size_t)(close - rest->ptr) + 1;
    *rest = slice_of(rest->ptr + piece->text.len, rest->len - piece->text.len);
    if (close)
        return read_placeholder(slice_of(piece->text.ptr + 1, piece->text.len - 2), piece, err);
    if (!is_letter(piece->text.ptr[0]))
        return err_set(err, ERR_INVALID, "only A-Z a-z 0-9 / - and {placeholders} may be in a number");
    return OK;
}

static size_t field_len(const struct piece *piece)
{
    if (piece->field == 0)
        return 1;
    return (size_t)fields[piece->row].parts[0].len + fields[piece->row].parts[1].len;
}

struct shape {
    unsigned fields;
    unsigned n_counters;
    size_t fixed_len;
    int64_t width;
};

static enum status read_shape(struct slice format, struct shape *shape, struct err *err)
{
    struct piece piece;
    *shape = (struct shape){0};
    while (format.len > 0) {
        if (read_piece(&format, &piece, err) != OK)
            return ERR;
        shape->fields |= piece.field;
        if (piece.field == FIELD_N) {
            shape->n_counters++;
            shape->width = piece.width;
        } else {
            shape->fixed_len += field_len(&piece);
        }
    }
    return OK;
}

static enum seq_cycle cycle_of(unsigned seen)
{
    if (seen & FIELD_FY)
        return SEQ_FY;
    if (seen & FIELD_MONTH)
        return SEQ_MONTH;
    return seen & (FIELD_YEAR | FIELD_YY) ? SEQ_YEAR : SEQ_NEVER;
}

static bool shows_cycle(enum seq_cycle cycle, unsigned seen)
{
    bool has_year = seen & (FIELD_YEAR | FIELD_YY);
    switch (cycle) {
    case SEQ_NEVER:
        return true;
    case SEQ_FY:
        return seen & FIELD_FY;
    case SEQ_YEAR:
        return has_year;
    case SEQ_MONTH:
        return has_year && (seen & FIELD_MONTH);
    }
    WRONG("seq cycle");
}

static enum status check_fields(enum seq_cycle cycle, unsigned seen, struct err *err)
{
    if (!shows_cycle(cycle, seen))
        return err_set(err, ERR_INVALID, "numbers start again with each period \"%s\", so the format needs %s",
                       cycles[cycle].name, cycles[cycle].needs);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if ((seen & fields[i].field) && !(fields[i].cycles & 1u << cycle))
            return err_set(err, ERR_INVALID, "{%s} does not go with the period \"%s\"", fields[i].text,
                           cycles[cycle].name);
    return OK;
}

static enum status check_def(struct seq_def *def, bool has_cycle, struct err *err)
{
    struct shape shape;
    if (!def->format[0])
        return OK;
    if (read_shape(slice_str(def->format), &shape, err) != OK)
        return ERR;
    if (shape.n_counters != 1)
        return err_set(err, ERR_INVALID, "a format has the counter once, with its width: {n:6}");
    if (shape.width < MIN_WIDTH)
        return err_set(err, ERR_INVALID, "the width of {n:%d} is too small: at least %d digits, better 6",
                       (int)shape.width, MIN_WIDTH);
    if (shape.fixed_len + (size_t)shape.width > SEQ_NUMBER_MAX)
        return err_set(err, ERR_INVALID, "numbers would be %zu characters long, %d are allowed",
                       shape.fixed_len + (size_t)shape.width, SEQ_NUMBER_MAX);
    if (!has_cycle)
        def->cycle = cycle_of(shape.fields);
    return check_fields(def->cycle, shape.fields, err);
}

enum status seq_format_write(const struct seq_def *def, struct seq_period period, int64_t n,
                             char out[SEQ_NUMBER_MAX + 1], struct err *err)
{
    struct slice rest = slice_str(def->format);
    struct piece piece;
    char text[SEQ_FORMAT_MAX + 32];
    size_t len = 0;
    out[0] = '\0';
    while (rest.len > 0 && len <= SEQ_NUMBER_MAX) {
        if (read_piece(&rest, &piece, err) != OK)
            return ERR;
        if (piece.field == FIELD_N)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%0*" PRId64, (int)piece.width, n);
        else if (piece.field == 0)
            text[len++] = piece.text.ptr[0];
        else
            for (size_t i = 0; i < 2; i++) {
                memcpy(text + len, period.text + fields[piece.row].parts[i].from, fields[piece.row].parts[i].len);
                len += fields[piece.row].parts[i].len;
            }
    }
    if (len == 0 || len > SEQ_NUMBER_MAX)
        return err_set(err, ERR_INVALID, "sequence %s: number %" PRId64 " does not fit %d characters of \"%s\"",
                       def->name, n, SEQ_NUMBER_MAX, def->format);
    memcpy(out, text, len);
    out[len] = '\0';
    return OK;
}

bool seq_format_read(const struct seq_def *def, struct seq_period period, struct slice text, int64_t *n)
{
    struct slice rest = slice_str(def->format);
    struct piece piece = {.field = 0};
    char number[SEQ_NUMBER_MAX + 1];
    size_t before = 0;
    while (rest.len > 0 && read_piece(&rest, &piece, NULL) == OK && piece.field != FIELD_N)
        before += field_len(&piece);
    if (seq_format_write(def, period, 0, number, NULL) != OK || text.len < strlen(number))
        return false;
    size_t behind = strlen(number) - before - (size_t)piece.width;
    return slice_to_int(slice_of(text.ptr + before, text.len - before - behind), 0, INT64_MAX, n) &&
           seq_format_write(def, period, *n, number, NULL) == OK && slice_eq(text, slice_str(number));
}

/* ---- configuration ------------------------------------------------------------------------------------------- */

enum section { SECTION_NONE, SECTION_FORMATS, SECTION_GAPLESS, SECTION_PERIODS };
static const char *const section_keys[] = {"", "seq.formats", "seq.gapless", "seq.periods"};

struct reader {
    struct seq_defs *defs;
    struct err *err;
    bool has_cycle[SEQ_MAX];
    enum section section;
    int depth, at; /* at: the sequence whose key was read */
};

static bool fail(struct reader *reader, struct slice name, const char *why)
{
    err_set(reader->err, ERR_INVALID, "%.*s: %s", SLICE_FMT(name), why);
    return false;
}

/* The sequence of that name, made if it is new. */
static bool find_def(struct reader *reader, struct slice name)
{
    struct seq_defs *defs = reader->defs;
    for (reader->at = 0; reader->at < (int)defs->n_items; reader->at++)
        if (slice_eq(name, slice_str(defs->items[reader->at].name)))
            return true;
    if (name.len == 0 || name.len > SEQ_NAME_MAX || memchr(name.ptr, 0, name.len))
        return fail(reader, name, "a sequence's name has 1 to 31 bytes");
    if (defs->n_items == SEQ_MAX)
        return fail(reader, name, "more than 32 sequences");
    memcpy(defs->items[defs->n_items++].name, name.ptr, name.len);
    return true;
}

static bool on_key(void *data, struct slice name)
{
    struct reader *reader = data;
    if (reader->depth == 1) {
        reader->section = SECTION_NONE;
        for (size_t i = 1; i < ARRAY_LEN(section_keys); i++)
            if (slice_eq(name, slice_str(section_keys[i])))
                reader->section = (enum section)i;
        return true;
    }
    return reader->section == SECTION_NONE || find_def(reader, name);
}

static bool set_format(struct reader *reader, struct seq_def *def, struct slice text)
{
    if (text.len == 0 || text.len > SEQ_FORMAT_MAX || memchr(text.ptr, 0, text.len))
        return fail(reader, slice_str(def->name), "a format has 1 to 47 bytes: \"PC{fy}-{n:6}\"");
    if (def->format[0])
        return fail(reader, slice_str(def->name), "a sequence is in seq.formats or in seq.gapless, not in both");
    memcpy(def->format, text.ptr, text.len);
    def->is_gapless = reader->section == SECTION_GAPLESS;
    return true;
}

static bool set_period(struct reader *reader, struct seq_def *def, struct slice text)
{
    for (size_t i = 0; i < ARRAY_LEN(cycles); i++)
        if (slice_eq(text, slice_str(cycles[i].name))) {
            def->cycle = (enum seq_cycle)i;
            reader->has_cycle[reader->at] = true;
            return true;
        }
    return fail(reader, slice_str(def->name), "a period is \"fy\", \"year\", \"month\" or \"none\"");
}

/* Anything but a string, anywhere below one of our keys. */
static bool on_other(struct reader *reader)
{
    if (reader->section == SECTION_NONE || reader->depth < 2)
        return true;
    return fail(reader, slice_str(reader->defs->items[reader->at].name), "expected a string");
}

static bool on_string(void *data, struct slice text)
{
    struct reader *reader = data;
    if (reader->section == SECTION_NONE || reader->depth != 2)
        return on_other(reader);
    struct seq_def *def = &reader->defs->items[reader->at];
    return reader->section == SECTION_PERIODS ? set_period(reader, def, text) : set_format(reader, def, text);
}

static bool on_null(void *data)
{
    return on_other(data);
}
static bool on_bool(void *data, bool value UNUSED)
{
    return on_other(data);
}
static bool on_number(void *data, double value UNUSED)
{
    return on_other(data);
}
static bool on_begin(void *data)
{
    struct reader *reader = data;
    return on_other(reader) && ++reader->depth;
}
static bool on_list(void *data)
{
    struct reader *reader = data;
    if (reader->section != SECTION_NONE && reader->depth == 1)
        return fail(reader, slice_str(section_keys[reader->section]), "expected names as keys");
    return on_begin(reader);
}
static bool on_end(void *data, size_t n UNUSED)
{
    struct reader *reader = data;
    reader->depth--;
    return true;
}

enum status seq_defs_read(struct slice config_json, struct seq_defs *defs, const char **key, struct err *err)
{
    static const struct json_events events = {.on_null = on_null,
                                              .on_bool = on_bool,
                                              .on_number = on_number,
                                              .on_string = on_string,
                                              .on_key = on_key,
                                              .on_object_begin = on_begin,
                                              .on_object_end = on_end,
                                              .on_array_begin = on_list,
                                              .on_array_end = on_end};
    struct reader reader = {.defs = defs, .err = err};
    struct arena arena;
    *defs = (struct seq_defs){.n_items = 0};
    arena_create(&arena);
    enum status status = json_read(config_json, NULL, &events, &reader, &arena, err);
    arena_destroy(&arena);
    for (size_t i = 0; status == OK && i < defs->n_items; i++) {
        status = check_def(&defs->items[i], reader.has_cycle[i], err);
        reader.section = defs->items[i].is_gapless ? SECTION_GAPLESS : SECTION_FORMATS;
        if (status != OK)
            err_prefix(err, "%s", defs->items[i].name);
    }
    if (key)
        *key = section_keys[status == OK ? SECTION_NONE : reader.section];
    return status;
}
