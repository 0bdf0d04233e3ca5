/* Results made up by a test, as the wire would bring them: no server. */
#pragma once

#include <arpa/inet.h>

#include "data/pg_result.h"

static inline void made_up_int(struct buf *body, uint32_t value, size_t size)
{
    uint32_t wire = htonl(value);
    buf_append(body, (const char *)&wire + sizeof(wire) - size, size);
}

/* A result with these columns, and no rows. Returns owned. */
static inline struct pg_result *made_up_result(int n, const char *const *names, const uint32_t *oids)
{
    struct buf body = {0};
    made_up_int(&body, (uint32_t)n, 2);
    for (int i = 0; i < n; i++) {
        buf_append(&body, names[i], strlen(names[i]) + 1);
        made_up_int(&body, 0, 4);
        made_up_int(&body, 0, 2);
        made_up_int(&body, oids[i], 4);
        made_up_int(&body, 0, 2);
        made_up_int(&body, 0, 4);
        made_up_int(&body, 0, 2);
    }
    struct pg_columns *columns = pg_columns_new(buf_as_slice(&body));
    CHECK(columns);
    struct pg_result *result = pg_result_new(columns);
    pg_columns_unref(columns);
    buf_free(&body);
    return result;
}

static inline void made_up_row(struct pg_result *result, int n, const char *const *values) /* NULL: NULL */
{
    struct buf body = {0};
    made_up_int(&body, (uint32_t)n, 2);
    for (int i = 0; i < n; i++) {
        made_up_int(&body, values[i] ? (uint32_t)strlen(values[i]) : UINT32_MAX, 4);
        buf_append(&body, values[i], values[i] ? strlen(values[i]) : 0);
    }
    CHECK(pg_result_add_row(result, buf_as_slice(&body)));
    buf_free(&body);
}
