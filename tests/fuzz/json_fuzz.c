/* base/json.h: what is accepted, written out and read again is the same document; names in one object differ; counts
 * and depths are what the events say; tighter limits refuse exactly the documents that exceed them; a callback that
 * says stop stops the read and leaves err alone. */
#include "fuzz.h"

#include "base/json.h"

#define DEFAULT_DEPTH 64
#define SMALL_DEPTH 3
#define SMALL_KEYS 4

struct key {
    struct key *next;
    struct slice name;
};

struct record {
    struct arena arena;
    struct buf trace, text; /* events, bit for bit; the document as the writer writes it */
    bool needs_comma;
    size_t n_events, stop_after;
    size_t depth, max_depth, max_keys;
    struct key *keys[DEFAULT_DEPTH + 1]; /* of the open objects, by depth */
    size_t n_children[DEFAULT_DEPTH + 1];
};

static bool on_event(struct record *r, char kind, struct slice bytes)
{
    fuzz_trace(&r->trace, kind, bytes);
    return r->n_events++ != r->stop_after;
}

static void begin_item(struct record *r)
{
    if (r->needs_comma)
        buf_byte(&r->text, ',');
    r->needs_comma = true;
}

static bool on_null(void *data)
{
    struct record *r = data;
    begin_item(r);
    buf_lit(&r->text, "null");
    r->n_children[r->depth]++;
    return on_event(r, 'n', SLICE(""));
}

static bool on_bool(void *data, bool value)
{
    struct record *r = data;
    begin_item(r);
    buf_slice(&r->text, value ? SLICE("true") : SLICE("false"));
    r->n_children[r->depth]++;
    return on_event(r, value ? 't' : 'f', SLICE(""));
}

static bool on_number(void *data, double value)
{
    struct record *r = data;
    begin_item(r);
    CHECK(json_write_number(&r->text, value) == OK);
    r->n_children[r->depth]++;
    return on_event(r, '1', slice_of((const char *)&value, sizeof value));
}

static bool on_string(void *data, struct slice value)
{
    struct record *r = data;
    CHECK(fuzz_is_utf8(value));
    begin_item(r);
    json_write_string(&r->text, value);
    r->n_children[r->depth]++;
    return on_event(r, '"', value);
}

static bool on_key(void *data, struct slice name)
{
    struct record *r = data;
    CHECK(fuzz_is_utf8(name));
    for (const struct key *key = r->keys[r->depth]; key; key = key->next)
        CHECK(!slice_eq(key->name, name));
    struct key *key = arena_alloc(&r->arena, sizeof *key);
    *key = (struct key){.next = r->keys[r->depth], .name = arena_copy(&r->arena, name)};
    r->keys[r->depth] = key;
    begin_item(r);
    json_write_string(&r->text, name);
    buf_byte(&r->text, ':');
    r->needs_comma = false;
    return on_event(r, 'k', name);
}

static bool begin(struct record *r, char bracket)
{
    begin_item(r);
    r->needs_comma = false;
    buf_byte(&r->text, bracket);
    r->n_children[r->depth]++;
    CHECK(r->depth < DEFAULT_DEPTH);
    if (++r->depth > r->max_depth)
        r->max_depth = r->depth;
    r->n_children[r->depth] = 0;
    r->keys[r->depth] = NULL;
    return on_event(r, bracket, SLICE(""));
}

static bool end(struct record *r, char bracket, size_t n)
{
    CHECK(r->depth > 0 && n == r->n_children[r->depth]);
    r->depth--;
    r->needs_comma = true;
    buf_byte(&r->text, bracket);
    return on_event(r, bracket, SLICE(""));
}

static bool on_object_begin(void *data)
{
    return begin(data, '{');
}

static bool on_object_end(void *data, size_t n_members)
{
    struct record *r = data;
    if (n_members > r->max_keys)
        r->max_keys = n_members;
    return end(r, '}', n_members);
}

static bool on_array_begin(void *data)
{
    return begin(data, '[');
}

static bool on_array_end(void *data, size_t n_items)
{
    return end(data, ']', n_items);
}

static const struct json_events events = {on_null,         on_bool,       on_number,      on_string,   on_key,
                                          on_object_begin, on_object_end, on_array_begin, on_array_end};

static enum status read_with(struct slice text, const struct json_limits *limits, const struct json_events *handlers,
                             struct record *r, struct err *err)
{
    struct arena arena;
    arena_create(&arena);
    *err = (struct err){0};
    enum status status = json_read(text, limits, handlers, r, &arena, err);
    arena_destroy(&arena);
    return status;
}

static void record_free(struct record *r)
{
    arena_destroy(&r->arena);
    buf_free(&r->trace);
    buf_free(&r->text);
}

static void check_stop(struct slice text, size_t stop_after)
{
    struct record r = {.stop_after = stop_after};
    struct err err;
    CHECK(read_with(text, NULL, &events, &r, &err) == ERR && err.code == ERR_NONE);
    CHECK(r.n_events == stop_after + 1);
    record_free(&r);
}

static void check_accepted(struct slice text, const struct record *first)
{
    struct record second = {.stop_after = SIZE_MAX};
    struct err err;
    CHECK(first->depth == 0 && first->n_events > 0);
    CHECK(read_with(buf_as_slice(&first->text), NULL, &events, &second, &err) == OK);
    CHECK(fuzz_same(&first->trace, &second.trace) && fuzz_same(&first->text, &second.text));
    record_free(&second);

    static const struct json_limits small = {SMALL_DEPTH, SMALL_KEYS};
    bool is_small = first->max_depth <= SMALL_DEPTH && first->max_keys <= SMALL_KEYS;
    CHECK((read_with(text, &small, NULL, NULL, &err) == OK) == is_small);
    check_stop(text, text.len % first->n_events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    struct record r = {.stop_after = SIZE_MAX};
    struct err err, quiet;
    enum status status = read_with(text, NULL, &events, &r, &err);
    CHECK(status == OK || (err.code == ERR_INVALID && slice_has_prefix(slice_str(err.message), SLICE("line "))));
    CHECK(read_with(text, NULL, NULL, NULL, &quiet) == status && strcmp(err.message, quiet.message) == 0);
    if (status == OK)
        check_accepted(text, &r);
    record_free(&r);
    CHECK(arena_live() == 0);
    return 0;
}
