#include "server/config_json.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/json.h"

static void write_value(const struct config_key_info *info, const struct config_value *value, struct buf *out)
{
    switch (info->type) {
    case CONFIG_TEXT:
    case CONFIG_URL:
    case CONFIG_ENUM:
        json_write_string(out, slice_str(value->text));
        return;
    case CONFIG_INT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        json_write_int(out, value->number);
        return;
    case CONFIG_BOOL:
        if (value->number)
            buf_lit(out, "true");
        else
            buf_lit(out, "false");
        return;
    case CONFIG_LIST:
        buf_byte(out, '[');
        for (size_t i = 0; i < value->n_items; i++) {
            if (i > 0)
                buf_byte(out, ',');
            json_write_string(out, slice_str(value->items[i]));
        }
        buf_byte(out, ']');
        return;
    case CONFIG_TREE:
        buf_append(out, value->text, strlen(value->text));
        return;
    }
    WRONG("config type");
}

void config_write_json(const struct config *config, struct buf *out)
{
    buf_byte(out, '{');
    for (int key = 0; key < CONFIG_N_KEYS; key++) {
        if (key > 0)
            buf_byte(out, ',');
        json_write_string(out, slice_str(config_keys[key].name));
        buf_byte(out, ':');
        if (config_is_set(config, (enum config_key)key))
            write_value(&config_keys[key], &config->values[key], out);
        else
            buf_lit(out, "null");
    }
    buf_byte(out, '}');
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

struct reader {
    struct config *config;
    int depth;
    bool is_known;
    enum config_key key;
    bool is_corrupt;
};

/* The value of the current key if its type is among `types` (bits of 1 << type); NULL inside the settings tree. */
static struct config_value *target(struct reader *reader, unsigned types)
{
    if (!reader->is_known || config_keys[reader->key].type == CONFIG_TREE)
        return NULL;
    if (!(types & 1u << config_keys[reader->key].type)) {
        reader->is_corrupt = true;
        return NULL;
    }
    struct config_value *value = &reader->config->values[reader->key];
    value->origin = CONFIG_FROM_DEFAULT;
    return value;
}

static bool on_key(void *data, struct slice name)
{
    struct reader *reader = data;
    if (reader->depth == 1)
        reader->is_known = config_find(name, &reader->key);
    return reader->depth != 1 || reader->is_known;
}

static bool on_string(void *data, struct slice text)
{
    struct reader *reader = data;
    struct config_value *value =
        target(reader, 1u << CONFIG_TEXT | 1u << CONFIG_URL | 1u << CONFIG_ENUM | 1u << CONFIG_LIST);
    if (!value)
        return !reader->is_corrupt;
    if (config_keys[reader->key].type == CONFIG_LIST) {
        value->items = xrealloc(value->items, (value->n_items + 1) * sizeof(char *));
        value->items[value->n_items++] = xstrndup(text.ptr, text.len);
    } else {
        value->text = xstrndup(text.ptr, text.len);
    }
    return true;
}

static bool on_number(void *data, double number)
{
    struct reader *reader = data;
    struct config_value *value = target(reader, 1u << CONFIG_INT | 1u << CONFIG_DURATION | 1u << CONFIG_SIZE);
    if (value)
        value->number = (int64_t)number;
    return !reader->is_corrupt;
}

static bool on_bool(void *data, bool boolean)
{
    struct reader *reader = data;
    struct config_value *value = target(reader, 1u << CONFIG_BOOL);
    if (value)
        value->number = boolean;
    return !reader->is_corrupt;
}

static bool on_begin(void *data)
{
    struct reader *reader = data;
    reader->depth++;
    if (reader->depth == 2 && reader->is_known)
        reader->config->values[reader->key].origin = CONFIG_FROM_DEFAULT;
    return true;
}

static bool on_end(void *data, size_t n UNUSED)
{
    ((struct reader *)data)->depth--;
    return true;
}

struct config *config_read_json(struct slice text, struct err *err)
{
    static const struct json_events events = {.on_bool = on_bool,
                                              .on_number = on_number,
                                              .on_string = on_string,
                                              .on_key = on_key,
                                              .on_object_begin = on_begin,
                                              .on_object_end = on_end,
                                              .on_array_begin = on_begin,
                                              .on_array_end = on_end};
    struct reader reader = {.config = config_new()};
    struct arena arena;
    arena_create(&arena);
    struct err why = {0};
    enum status status = json_read(text, NULL, &events, &reader, &arena, &why);
    arena_destroy(&arena);
    if (status == OK && !reader.is_corrupt)
        return reader.config;
    config_free(reader.config);
    err_set(err, ERR_INVALID, "configuration snapshot: %s", why.message[0] ? why.message : "a key of another version");
    return NULL;
}
