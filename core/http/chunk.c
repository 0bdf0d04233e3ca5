/* One state per place in the grammar, one byte a step except for data, which is handed out in runs. The size
 * of a chunk is at most 15 hexadecimal digits with leading zeros, so that it can neither overflow nor drip. */
#include "http/chunk.h"

#include "http/chars.h"

#define MAX_DIGITS 15

enum chunk_state {
    CHUNK_SIZE, /* first */
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER_START,
    CHUNK_TRAILER_NAME,
    CHUNK_TRAILER_VALUE,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_DONE,
};

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum http_close step_size(struct http_chunk_reader *reader, char c)
{
    int digit = hex_value(c);
    if (digit >= 0) {
        reader->left = reader->left << 4 | (uint64_t)digit;
        return ++reader->n_digits > MAX_DIGITS ? HTTP_CLOSE_BAD_CHUNK : HTTP_CLOSE_NONE;
    }
    if (reader->n_digits == 0 || (c != '\r' && c != ';'))
        return HTTP_CLOSE_BAD_CHUNK;
    reader->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
    return HTTP_CLOSE_NONE;
}

static enum http_close expect_lf(struct http_chunk_reader *reader, char c, enum chunk_state next)
{
    if (c != '\n')
        return HTTP_CLOSE_BAD_CHUNK;
    reader->state = (uint8_t)next;
    reader->n_digits = 0;
    return HTTP_CLOSE_NONE;
}

static enum http_close step_trailer(struct http_chunk_reader *reader, char c)
{
    switch ((enum chunk_state)reader->state) {
    case CHUNK_TRAILER_START:
        reader->state = c == '\r' ? CHUNK_END_LF : CHUNK_TRAILER_NAME;
        return c == '\r' || http_char_is(c, HTTP_CHAR_TOKEN) ? HTTP_CLOSE_NONE : HTTP_CLOSE_BAD_HEADER;
    case CHUNK_TRAILER_NAME:
        if (c == ':')
            reader->state = CHUNK_TRAILER_VALUE;
        return c == ':' || http_char_is(c, HTTP_CHAR_TOKEN) ? HTTP_CLOSE_NONE : HTTP_CLOSE_BAD_HEADER;
    case CHUNK_TRAILER_VALUE:
        if (c == '\r')
            reader->state = CHUNK_TRAILER_LF;
        return c == '\r' || http_char_is(c, HTTP_CHAR_VALUE) ? HTTP_CLOSE_NONE : HTTP_CLOSE_BAD_HEADER;
    case CHUNK_SIZE:
    case CHUNK_EXTENSION:
    case CHUNK_SIZE_LF:
    case CHUNK_DATA:
    case CHUNK_DATA_CR:
    case CHUNK_DATA_LF:
    case CHUNK_TRAILER_LF:
    case CHUNK_END_LF:
    case CHUNK_DONE:
        break;
    }
    WRONG("no trailer state");
}

static enum http_close step(struct http_chunk_reader *reader, const struct http_chunk_limits *limits, char c)
{
    switch ((enum chunk_state)reader->state) {
    case CHUNK_SIZE:
        return step_size(reader, c);
    case CHUNK_EXTENSION:
        if (++reader->n_extension > limits->max_extension_bytes)
            return HTTP_CLOSE_EXTENSION_BYTES;
        if (c == '\r')
            reader->state = CHUNK_SIZE_LF;
        return c == '\r' || http_char_is(c, HTTP_CHAR_VALUE) ? HTTP_CLOSE_NONE : HTTP_CLOSE_BAD_CHUNK;
    case CHUNK_SIZE_LF:
        return expect_lf(reader, c, reader->left > 0 ? CHUNK_DATA : CHUNK_TRAILER_START);
    case CHUNK_DATA_CR:
        reader->state = CHUNK_DATA_LF;
        return c == '\r' ? HTTP_CLOSE_NONE : HTTP_CLOSE_BAD_CHUNK;
    case CHUNK_DATA_LF:
        return expect_lf(reader, c, CHUNK_SIZE);
    case CHUNK_TRAILER_START:
    case CHUNK_TRAILER_NAME:
    case CHUNK_TRAILER_VALUE:
        if (++reader->n_trailer > limits->max_trailer_bytes)
            return HTTP_CLOSE_TRAILER_BYTES;
        return step_trailer(reader, c);
    case CHUNK_TRAILER_LF:
        return expect_lf(reader, c, CHUNK_TRAILER_START);
    case CHUNK_END_LF:
        return expect_lf(reader, c, CHUNK_DONE);
    case CHUNK_DATA:
    case CHUNK_DONE:
        break;
    }
    WRONG("no framing state");
}

static struct slice take_front(struct slice *in, size_t len)
{
    struct slice front = slice_of(in->ptr, len);
    *in = slice_of(in->ptr + len, in->len - len);
    return front;
}

enum status http_chunk_read(struct http_chunk_reader *reader, const struct http_chunk_limits *limits, struct slice *in,
                            struct slice *data, enum http_close *why)
{
    *data = slice_of(NULL, 0);
    while (!http_chunk_is_done(reader)) {
        if (in->len == 0)
            return AGAIN;
        if (reader->state == CHUNK_DATA) {
            *data = take_front(in, in->len < reader->left ? in->len : (size_t)reader->left);
            reader->left -= data->len;
            if (reader->left == 0)
                reader->state = CHUNK_DATA_CR;
            return OK;
        }
        *why = step(reader, limits, take_front(in, 1).ptr[0]);
        if (*why != HTTP_CLOSE_NONE)
            return ERR;
    }
    return OK;
}

bool http_chunk_is_done(const struct http_chunk_reader *reader)
{
    return reader->state == CHUNK_DONE;
}
