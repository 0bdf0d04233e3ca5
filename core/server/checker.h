/* The master's end of a check (server/check.h): starts the process, waits for its answer and its end, kills it when its
 * time is over. Never blocks. */
#pragma once

#include "net/loop.h"
#include "server/reload.h"

struct checker;

struct checker_opts {
    struct loop *loop;
    int config_fd;        /* borrowed */
    unsigned n_processes; /* who share the pool's budget */
    uint32_t timeout_ms;
    /* Once, when the process is gone. The result is NULL after checker_stop. The checker is freed after it. */
    void (*done)(void *data, const struct reload_checked *result);
    void *data;
};

struct checker *checker_start(const struct checker_opts *opts, struct err *err); /* or NULL */
void checker_reap(struct checker *checker);                                      /* on SIGCHLD; NULL is fine */
void checker_stop(struct checker *checker); /* kills it: `done` follows. NULL is fine */
void checker_free(struct checker *checker); /* without waiting for either, at the master's end; NULL is fine */
