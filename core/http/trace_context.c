#include "http/trace_context.h"

#include <stdio.h>

#include "base/crypto.h"
#include "http/request.h"

enum { TRACE_AT = 3, SPAN_AT = 36, FLAGS_AT = 53, SAMPLED = 1 };

static bool is_hex(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f')))
            return false;
    return true;
}

static bool is_zero(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != '0')
            return false;
    return true;
}

/* Version 00 is exactly 55 characters; a later one may go on after a dash. */
static bool has_good_end(struct slice value)
{
    if (value.len == TRACE_PARENT_LEN)
        return true;
    return memcmp(value.ptr, "00", 2) != 0 && value.ptr[TRACE_PARENT_LEN] == '-';
}

bool trace_context_parse(struct slice value, struct trace_context *out)
{
    value = slice_trim(value);
    const char *p = value.ptr;
    if (value.len < TRACE_PARENT_LEN || p[2] != '-' || p[SPAN_AT - 1] != '-' || p[FLAGS_AT - 1] != '-')
        return false;
    if (!is_hex(p, 2) || memcmp(p, "ff", 2) == 0 || !is_hex(p + TRACE_AT, 32) || !is_hex(p + SPAN_AT, 16) ||
        !is_hex(p + FLAGS_AT, 2) || !has_good_end(value))
        return false;
    if (is_zero(p + TRACE_AT, 32) || is_zero(p + SPAN_AT, 16))
        return false;
    memcpy(out->trace_id, p + TRACE_AT, 32);
    out->trace_id[32] = '\0';
    unsigned char flags;
    out->is_sampled = crypto_unhex(slice_of(p + FLAGS_AT, 2), &flags) && (flags & SAMPLED);
    return true;
}

bool trace_context_of(const struct http_request *req, struct trace_context *out)
{
    const struct http_header *found = NULL;
    for (size_t i = 0; i < req->n_headers; i++) {
        if (!slice_ieq(req->headers[i].name, SLICE("traceparent")))
            continue;
        if (found)
            return false;
        found = &req->headers[i];
    }
    return found && trace_context_parse(found->value, out);
}

void trace_context_child(const struct trace_context *context, char out[TRACE_PARENT_LEN + 1])
{
    unsigned char span[8];
    char hex[16];
    do
        crypto_random(span, sizeof span);
    while (memcmp(span, "\0\0\0\0\0\0\0", sizeof span) == 0);
    crypto_hex(slice_of((const char *)span, sizeof span), hex);
    snprintf(out, TRACE_PARENT_LEN + 1, "00-%.32s-%.16s-%02x", context->trace_id, hex,
             context->is_sampled ? SAMPLED : 0);
}
