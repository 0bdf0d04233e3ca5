/* Keyset paging: a page of rows as JSON, and the cursor that says where the next one begins. The statement itself is
 * written by lua/chowk/pg_page.lua.
 *
 * A cursor is the last row's key as PostgreSQL's own text, so it is exact for every type, behind a check sum that binds
 * it to its statement and order: one that was cut, changed or taken from another list is told apart. It is no secret
 * and no signature: it holds what the client has seen, and whoever forges one reads what he may read anyway. */
#pragma once

#include "base/err.h"
#include "data/pg_result.h"

#define PG_PAGE_MAX_KEYS 8

struct pg_page {
    int limit;         /* the result may have one row more, which says that there is a next page */
    struct slice by;   /* names of the key's columns, each ended by a zero byte */
    struct slice hide; /* names of columns that are not shown, in the same form */
    struct slice tag;  /* of statement and order */
};

/* Appends {"items":[…],"next_cursor":"…"|null}. ERR_INVALID: a column is not there, or the key has a NULL. */
enum status pg_page_write(const struct pg_result *result, const struct pg_page *page, struct buf *out,
                          struct err *err) MUST_CHECK;
/* The key's values, which point into `scratch`. False if it is no cursor of this list. */
bool pg_cursor_read(struct slice cursor, struct slice tag, struct slice *values, size_t n_values,
                    struct buf *scratch) MUST_CHECK;
int pg_page_n_params(struct slice sql); /* the highest $n of a statement */
