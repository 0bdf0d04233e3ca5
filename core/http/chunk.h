/* Decoder of the chunked transfer coding (RFC 9112 7.1), byte by byte and strict: CRLF only, no white space
 * around sizes, extensions and trailers checked, bounded and dropped. */
#pragma once

#include "http/close.h"

struct http_chunk_limits {
    size_t max_extension_bytes; /* in all chunks together */
    size_t max_trailer_bytes;
};

struct http_chunk_reader { /* zeroed = before the first size */
    uint64_t left;         /* of the chunk's data; while reading a size: what was read so far */
    uint32_t n_extension, n_trailer;
    uint8_t state, n_digits;
};

/* Reads from the front of *in. OK: *data is a run of body bytes, borrowed from *in, or empty at the end of the
 * body (http_chunk_is_done). AGAIN: *in is used up. ERR: *why. */
enum status http_chunk_read(struct http_chunk_reader *reader, const struct http_chunk_limits *limits, struct slice *in,
                            struct slice *data, enum http_close *why) MUST_CHECK;
bool http_chunk_is_done(const struct http_chunk_reader *reader);
