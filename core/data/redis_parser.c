/* hiredis' reader does the RESP; this file gives it the functions that make values. A value lives in an arena of the
 * parser's, which is emptied between replies, so that a reply costs a bump of a pointer and no malloc.
 *
 * Strings are copied out of the reader's buffer: it moves what it holds as soon as a reply is complete. hiredis 0.14
 * asks for objects top down: the array first, then its items, whose place is found through the task's parent. It must
 * never be given a chance to allocate by a peer's word alone: counts and bytes of one reply are capped here. */
#include "data/redis_parser.h"

#include <hiredis/read.h>
#include <stdlib.h>

#define SLACK 65536 /* one read's worth beyond a reply of the largest size */

struct redis_parser {
    redisReader *reader;
    struct arena arena;
    bool broken, too_large;
};

static struct redis_parser *parser_of(const redisReadTask *task)
{
    return task->privdata;
}

/* Where the value of this task goes: into its parent's items, or anew. NULL (hiredis: out of memory) over the cap. */
static struct redis_value *place(const redisReadTask *task, size_t bytes)
{
    struct redis_parser *parser = parser_of(task);
    if (bytes > REDIS_PARSER_MAX_BYTES || parser->arena.used + bytes > REDIS_PARSER_MAX_BYTES + SLACK) {
        parser->too_large = true;
        return NULL;
    }
    if (!task->parent)
        return arena_zalloc(&parser->arena, sizeof(struct redis_value));
    const struct redis_value *array = task->parent->obj;
    /* The items are ours and still being filled; const is for those who get the finished reply. */
    return (struct redis_value *)(uintptr_t)&array->items[task->idx];
}

static void *create_string(const redisReadTask *task, char *text, size_t len)
{
    struct redis_value *value = place(task, len);
    if (!value)
        return NULL;
    value->type = task->type == REDIS_REPLY_ERROR    ? REDIS_ERROR
                  : task->type == REDIS_REPLY_STATUS ? REDIS_STATUS
                                                     : REDIS_STRING;
    value->str = arena_copy(&parser_of(task)->arena, slice_of(text, len));
    return value;
}

static void *create_array(const redisReadTask *task, int n_items)
{
    size_t bytes = (size_t)n_items * sizeof(struct redis_value);
    struct redis_value *value = place(task, bytes);
    if (!value)
        return NULL;
    value->type = REDIS_ARRAY;
    value->n_items = (size_t)n_items;
    value->items = n_items > 0 ? arena_zalloc(&parser_of(task)->arena, bytes) : NULL;
    return value;
}

static void *create_integer(const redisReadTask *task, long long number)
{
    struct redis_value *value = place(task, 0);
    if (!value)
        return NULL;
    value->type = REDIS_INTEGER;
    value->integer = number;
    return value;
}

static void *create_nil(const redisReadTask *task)
{
    struct redis_value *value = place(task, 0);
    if (value)
        value->type = REDIS_NIL;
    return value;
}

static void free_object(void *object)
{
    (void)object; /* the arena's */
}

static redisReplyObjectFunctions functions = {create_string, create_array, create_integer, create_nil, free_object};

struct redis_parser *redis_parser_new(void)
{
    struct redis_parser *parser = xalloc(sizeof *parser);
    parser->reader = redisReaderCreateWithFunctions(&functions);
    CHECK(parser->reader);
    parser->reader->privdata = parser;
    arena_create(&parser->arena);
    return parser;
}

void redis_parser_free(struct redis_parser *parser)
{
    if (!parser)
        return;
    redisReaderFree(parser->reader);
    arena_destroy(&parser->arena);
    free(parser);
}

static enum status fail(struct redis_parser *parser, struct err *err)
{
    parser->broken = true;
    if (parser->too_large)
        return err_set(err, ERR_UNAVAILABLE, "redis: a reply is larger than %u MiB", REDIS_PARSER_MAX_BYTES >> 20);
    return err_set(err, ERR_UNAVAILABLE, "redis: the reply is not RESP: %s", parser->reader->errstr);
}

enum status redis_parser_feed(struct redis_parser *parser, struct slice bytes, struct err *err)
{
    if (parser->broken)
        return fail(parser, err);
    if (parser->reader->len - parser->reader->pos + bytes.len > REDIS_PARSER_MAX_BYTES + SLACK) {
        parser->too_large = true;
        return fail(parser, err);
    }
    return redisReaderFeed(parser->reader, bytes.ptr, bytes.len) == REDIS_OK ? OK : fail(parser, err);
}

enum status redis_parser_next(struct redis_parser *parser, const struct redis_value **value, struct err *err)
{
    void *reply = NULL;
    *value = NULL;
    if (parser->broken || redisReaderGetReply(parser->reader, &reply) != REDIS_OK)
        return fail(parser, err);
    if (!reply)
        return AGAIN;
    *value = reply;
    return OK;
}

void redis_parser_reset(struct redis_parser *parser)
{
    /* The reader's own `reply` is set while an array is being filled: those values must stay. */
    if (parser->reader->reply == NULL)
        arena_destroy(&parser->arena);
}
