/* COPY … FROM STDIN and COPY … TO STDOUT, streamed over an exclusive connection. Never blocks; holds at most what one
 * write or one read is about.
 *
 * One wait at a time: pg_copy_start, pg_copy_end, and a write or read that answered AGAIN, each end by `done`, exactly
 * once, never from inside the call. The first failure stays: whatever is called afterwards answers it again. Whoever
 * started it frees it, at any time; if it is not over then, the server is told to give up, and nothing of a COPY in
 * stays. */
#pragma once

#include "data/pg.h"

struct pg_copy;

struct pg_copy_opts {
    struct slice sql; /* copied */
    bool is_out;
    uint64_t deadline_ms; /* of this wait; loop_now based */
    void (*done)(void *data, const struct err *err);
    void *data;
};

/* What a text is, told from its words: one COPY, from STDIN or to STDOUT. */
enum pg_copy_kind { PG_COPY_NONE, PG_COPY_IN, PG_COPY_OUT };
/* is_plain: no option changes the text format (tabs, \N, backslashes), so rows may be written in it. */
enum pg_copy_kind pg_copy_classify(struct slice sql, bool *is_plain);

/* The text must be of that kind. Waits for a connection and the server's go. Returns owned. */
struct pg_copy *pg_copy_start(struct pg *pg, const struct pg_copy_opts *opts);
void pg_copy_free(struct pg_copy *copy);        /* NULL is fine; `done` is not called afterwards */
void pg_copy_cancel_wait(struct pg_copy *copy); /* `done` is not called for the wait that is on */
int pg_copy_n_columns(const struct pg_copy *copy);

/* In. OK: taken; AGAIN: taken too, and `done` comes when the server has read on; ERR. */
enum status pg_copy_write(struct pg_copy *copy, struct slice bytes, uint64_t deadline_ms, struct err *err) MUST_CHECK;
void pg_copy_end(struct pg_copy *copy, uint64_t deadline_ms); /* done without error: it has committed */

/* Out. OK: whole rows were appended, or *is_end; AGAIN: read again after `done`; ERR. */
enum status pg_copy_read(struct pg_copy *copy, struct buf *out, bool *is_end, uint64_t deadline_ms,
                         struct err *err) MUST_CHECK;
int64_t pg_copy_n_rows(const struct pg_copy *copy); /* after its end */
