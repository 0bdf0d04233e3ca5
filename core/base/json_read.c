/* The reader: one recursive descent over the text, as deep as max_depth and no deeper, so that no input can
 * exhaust the stack. It is total: every byte sequence is either read to its end or refused with a place.
 *
 * Duplicate names are found without a table for small objects, which nearly all are: a new name is compared
 * with the object's earlier ones. From SMALL_OBJECT names on a table of hashes is kept, one per depth and
 * used again by the next object there, so that an attacker's object costs no more per byte than an honest one. */
#include "base/json_priv.h"

#include <stdio.h>

#define DEFAULT_MAX_DEPTH 64
#define DEFAULT_MAX_KEYS 1024
#define HARD_MAX_DEPTH 1000 /* about 200 bytes of stack each; a configuration cannot ask for more */
#define SMALL_OBJECT 16

/* Open addressing: 0 = free, else 1 + index into the stack of names. */
struct name_table {
    uint32_t *slots;
    size_t cap, room; /* slots in use by this object; slots allocated */
};

struct name {
    uint64_t hash; /* 0 until the object has a table */
    struct slice text;
};

/* A stack: the names of the innermost object are the last ones. */
struct json_names {
    struct name *items;
    size_t len, cap;
    struct name_table *tables; /* by depth; NULL until the first large object */
};

enum status json_fail(struct json_reader *r, const char *at, const char *what)
{
    size_t line = 1, column = 1;
    for (const char *p = r->start; p < at; p++) {
        if (*p == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*p & 0xC0) != 0x80) { /* columns are characters */
            column++;
        }
    }
    return err_set(r->err, ERR_INVALID, "line %zu column %zu: %s", line, column, what);
}

static enum status read_value(struct json_reader *r);

static inline void skip_space(struct json_reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t'))
        r->p++;
}

/* The byte at the cursor after white space, or 0 at the end (NUL itself is refused wherever it stands). */
static inline char peek(struct json_reader *r)
{
    skip_space(r);
    return r->p < r->end ? *r->p : '\0';
}

static enum status fail_here(struct json_reader *r, const char *what)
{
    return json_fail(r, r->p, r->p == r->end ? "unexpected end" : what);
}

/* ---- duplicate names ---- */

static void names_push(struct json_reader *r, struct slice text)
{
    struct json_names *names = r->names;
    if (names->len == names->cap) {
        size_t cap = names->cap * 2;
        struct name *grown = arena_alloc(r->arena, cap * sizeof *grown);
        memcpy(grown, names->items, names->len * sizeof *grown);
        names->items = grown;
        names->cap = cap;
    }
    /* What was unescaped sits in the scratch and must outlive it. */
    if (text.ptr == r->scratch && text.len > 0)
        text = arena_copy(r->arena, text);
    names->items[names->len++] = (struct name){.text = text};
}

/* False if the name at `index` is there already. */
static bool table_put(struct name_table *table, const struct json_names *names, size_t index)
{
    const struct name *name = &names->items[index];
    for (size_t i = name->hash & (table->cap - 1);; i = (i + 1) & (table->cap - 1)) {
        if (table->slots[i] == 0) {
            table->slots[i] = (uint32_t)index + 1;
            return true;
        }
        const struct name *other = &names->items[table->slots[i] - 1];
        if (other->hash == name->hash && slice_eq(other->text, name->text))
            return false;
    }
}

/* Empties the table of this depth and fills it with the innermost object's names, all different so far. */
static void table_build(struct json_reader *r, struct name_table *table, size_t base, size_t cap)
{
    struct json_names *names = r->names;
    if (table->room < cap) {
        table->slots = arena_alloc(r->arena, cap * sizeof *table->slots);
        table->room = cap;
    }
    table->cap = cap;
    memset(table->slots, 0, cap * sizeof *table->slots);
    for (size_t i = base; i < names->len; i++) {
        names->items[i].hash = slice_hash(names->items[i].text);
        table_put(table, names, i);
    }
}

/* Adds a name to the object whose first name is at `base`; false if the object has it already. */
static bool names_add(struct json_reader *r, size_t base, struct slice text)
{
    struct json_names *names = r->names;
    size_t n = names->len - base;
    if (n < SMALL_OBJECT) {
        for (size_t i = base; i < names->len; i++) {
            if (slice_eq(names->items[i].text, text))
                return false;
        }
        names_push(r, text);
        return true;
    }
    if (!names->tables)
        names->tables = arena_zalloc(r->arena, (r->max_depth + 1) * sizeof *names->tables);
    struct name_table *table = &names->tables[r->depth];
    if (n == SMALL_OBJECT)
        table_build(r, table, base, 4 * SMALL_OBJECT);
    else if ((n + 1) * 2 > table->cap)
        table_build(r, table, base, table->cap * 2);
    names_push(r, text);
    names->items[names->len - 1].hash = slice_hash(text);
    return table_put(table, names, names->len - 1);
}

/* ---- events: a NULL callback wants no news ---- */

#define EMIT(r, event, ...) (!(r)->events->event || (r)->events->event(__VA_ARGS__))

/* ---- values ---- */

/* At the name's quote: name, colon, value. */
static enum status read_member(struct json_reader *r, size_t base)
{
    const char *at = r->p;
    struct slice name;
    if (json_take_string(r, &name) != OK)
        return ERR;
    if (r->names->len - base >= r->max_keys)
        return json_fail(r, at, "too many names in one object");
    if (!names_add(r, base, name))
        return json_fail(r, at, "duplicate name");
    if (!EMIT(r, on_key, r->data, name))
        return ERR;
    if (peek(r) != ':')
        return fail_here(r, "':' expected");
    r->p++;
    return read_value(r);
}

static enum status read_object(struct json_reader *r)
{
    size_t base = r->names->len, n = 0;
    r->p++;
    if (!EMIT(r, on_object_begin, r->data))
        return ERR;
    if (peek(r) == '}') {
        r->p++;
        return EMIT(r, on_object_end, r->data, 0) ? OK : ERR;
    }
    for (;; r->p++) {
        if (peek(r) != '"')
            return fail_here(r, "name in quotes expected");
        if (read_member(r, base) != OK)
            return ERR;
        n++;
        char next = peek(r);
        if (next == '}')
            break;
        if (next != ',')
            return fail_here(r, "',' or '}' expected");
    }
    r->p++;
    r->names->len = base;
    return EMIT(r, on_object_end, r->data, n) ? OK : ERR;
}

static enum status read_array(struct json_reader *r)
{
    size_t n = 0;
    r->p++;
    if (!EMIT(r, on_array_begin, r->data))
        return ERR;
    if (peek(r) == ']') {
        r->p++;
        return EMIT(r, on_array_end, r->data, 0) ? OK : ERR;
    }
    for (;; r->p++) {
        if (read_value(r) != OK)
            return ERR;
        n++;
        char next = peek(r);
        if (next == ']')
            break;
        if (next != ',')
            return fail_here(r, "',' or ']' expected");
    }
    r->p++;
    return EMIT(r, on_array_end, r->data, n) ? OK : ERR;
}

static enum status read_nested(struct json_reader *r, enum status (*read)(struct json_reader *r))
{
    if (r->depth == r->max_depth)
        return json_fail(r, r->p, "nested too deeply");
    r->depth++;
    enum status rc = read(r);
    r->depth--;
    return rc;
}

static bool take_word(struct json_reader *r, struct slice word)
{
    if (!slice_has_prefix(slice_of(r->p, (size_t)(r->end - r->p)), word))
        return false;
    r->p += word.len;
    return true;
}

static enum status read_string(struct json_reader *r)
{
    struct slice text;
    if (json_take_string(r, &text) != OK)
        return ERR;
    return EMIT(r, on_string, r->data, text) ? OK : ERR;
}

static enum status read_number(struct json_reader *r)
{
    double value;
    if (json_take_number(r, &value) != OK)
        return ERR;
    return EMIT(r, on_number, r->data, value) ? OK : ERR;
}

static enum status read_value(struct json_reader *r)
{
    switch (peek(r)) {
    case '{':
        return read_nested(r, read_object);
    case '[':
        return read_nested(r, read_array);
    case '"':
        return read_string(r);
    case '-':
    case '0' ... '9':
        return read_number(r);
    case 't':
        if (take_word(r, SLICE("true")))
            return EMIT(r, on_bool, r->data, true) ? OK : ERR;
        break;
    case 'f':
        if (take_word(r, SLICE("false")))
            return EMIT(r, on_bool, r->data, false) ? OK : ERR;
        break;
    case 'n':
        if (take_word(r, SLICE("null")))
            return EMIT(r, on_null, r->data) ? OK : ERR;
        break;
    default:
        break;
    }
    return fail_here(r, "value expected");
}

static size_t cap_or(size_t asked, size_t standard)
{
    return asked ? asked : standard;
}

enum status json_read(struct slice text, const struct json_limits *limits, const struct json_events *events, void *data,
                      struct arena *arena, struct err *err)
{
    static const struct json_events no_events;
    struct name first_names[SMALL_OBJECT]; /* most texts have no more open at a time */
    struct json_names names = {.items = first_names, .cap = ARRAY_LEN(first_names)};
    struct json_reader r = {
        .p = text.len ? text.ptr : "",
        .arena = arena,
        .err = err,
        .events = events ? events : &no_events,
        .data = data,
        .max_depth = cap_or(limits ? limits->max_depth : 0, DEFAULT_MAX_DEPTH),
        .max_keys = cap_or(limits ? limits->max_keys : 0, DEFAULT_MAX_KEYS),
        .names = &names,
    };
    r.start = r.p;
    r.end = r.p + text.len;
    if (r.max_depth > HARD_MAX_DEPTH)
        r.max_depth = HARD_MAX_DEPTH;
    if (r.max_keys > UINT32_MAX / 4)
        r.max_keys = UINT32_MAX / 4;
    if (slice_has_prefix(text, SLICE("\xEF\xBB\xBF")))
        return json_fail(&r, r.p, "byte order mark");
    if (read_value(&r) != OK)
        return ERR;
    skip_space(&r);
    return r.p == r.end ? OK : json_fail(&r, r.p, "text after the value");
}
