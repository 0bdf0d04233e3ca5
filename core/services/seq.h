/* Number sequences (chowk.seq): unique numbers from memory, leased in blocks from get_next_order_sequence(name, period,
 * n) in autocommit calls of the core's own, so that taking one inside a transaction neither waits for it nor is undone
 * with it. Unique always; consecutive only until something stops: unused leased numbers are gaps. (DESIGN 5, T18) */
#pragma once

#include "net/loop.h"
#include "services/seq_format.h"

struct pg;
struct seq;
struct seq_wait;

struct seq_opts {
    struct loop *loop;
    struct pg *pg;            /* NULL: every call fails with ERR_UNAVAILABLE */
    struct slice config_json; /* seq.formats, seq.periods; borrowed for the call */
    int segment_fd;           /* shared with the other workers (seq_segment_create); borrowed for the call; -1: none */
};

int seq_segment_create(struct err *err) MUST_CHECK;                /* by the master; returns owned fd, or -1 */
struct seq *seq_new(const struct seq_opts *opts, struct err *err); /* NULL: err */
void seq_free(struct seq *seq); /* before pg. Who still waits completes with ERR_CANCELLED */

/* Handle of a configured sequence, for the calls below; -1: there is none of that name. */
int seq_find(const struct seq *seq, struct slice name);
const struct seq_def *seq_def(const struct seq *seq, int id); /* borrowed */

struct seq_number {
    const struct seq_def *def; /* borrowed */
    int64_t value;
    struct seq_period period;
};

/* The usual way: from memory. OK; AGAIN: seq_wait_start has to wait for a lease; ERR (ERR_UNAVAILABLE). */
enum status seq_take(struct seq *seq, int id, struct seq_number *out, struct err *err) MUST_CHECK;

struct seq_call {
    uint64_t deadline_ms;                                                             /* loop_now based */
    void (*done)(void *data, const struct seq_number *number, const struct err *err); /* one is NULL; borrowed */
    void *data;
};
/* Completes once through `done`, never from inside this call, unless it was cancelled, after which it does not. */
struct seq_wait *seq_wait_start(struct seq *seq, int id, const struct seq_call *call);
void seq_wait_cancel(struct seq_wait *wait);

/* A number that was given out before, as it reads: its counter. false: it is none of the running period. */
bool seq_read(struct seq *seq, int id, struct slice text, struct seq_number *out) MUST_CHECK;
/* After the database's row was moved past it: what the machine still holds up to that number is dropped. */
void seq_skip(struct seq *seq, int id, const struct seq_number *number);

struct seq_stats {
    uint64_t n_leases, n_lease_errors, n_numbers, n_waits, n_dropped, n_orphaned;
};
void seq_stats(const struct seq *seq, struct seq_stats *out); /* of this process */
