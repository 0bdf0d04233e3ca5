/* What the files of struct http_client share: http_client.c (admission: who may call now), http_client_host.c (a host:
 * its addresses and its breaker), http_client_op.c (the life of a call), http_client_transfer.c (a call as curl sees
 * it). Nobody else includes it. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/map.h"
#include "data/breaker.h"
#include "data/curl_loop.h"
#include "data/curl_url.h"
#include "data/http_client.h"
#include "net/names.h"
#include "net/timer.h"

#define HTTP_CLIENT_MAGIC 0x477c9001u
#define HTTP_CLIENT_OP_MAGIC 0x477c9002u
#define HTTP_CLIENT_HOST_MAGIC 0x477c9003u

struct http_client {
    unsigned magic;
    struct http_client_opts opts;
    struct curl_loop *curl;
    struct map hosts;
    struct list idle_hosts;    /* no call: those used longest ago first */
    struct list waiting_hosts; /* have calls that wait for a place */
    unsigned n_idle_hosts, n_active, n_waiting, n_ops;
    uint64_t calls, failures, timeouts, refused;
};

/* ---- hosts --------------------------------------------------------------------------------------------------------
 */

struct http_client_host {
    unsigned magic;
    struct http_client *client;
    char *origin; /* the key */
    struct list idle_node, waiting_node;
    unsigned n_ops, n_active; /* ops of it; those that have a place */
    struct list waiting;      /* ops that wait for a place */
    struct breaker breaker;
    struct list resolving; /* ops that wait for the addresses */
    struct names_query *query;
    struct addr addrs[NAMES_MAX_ADDRS];
    size_t n_addrs;
    uint64_t resolved_ms;
};

struct http_client_op;
struct http_client_host *http_client_host_ref(struct http_client *client, const char *origin);
void http_client_host_unref(struct http_client_host *host);
void http_client_host_free_all(struct http_client *client);
/* OK: host->addrs may be used. AGAIN: http_client_op_on_addrs is called when they are there, or with an error. */
enum status http_client_host_resolve(struct http_client_host *host, struct http_client_op *op);

/* ---- calls --------------------------------------------------------------------------------------------------------
 */

enum http_client_op_state {
    CLIENT_OP_WAITING,   /* for a place */
    CLIENT_OP_RESOLVING, /* in host->resolving */
    CLIENT_OP_RUNNING,   /* with curl */
    CLIENT_OP_ENDING,    /* the deferred call of done is queued */
    CLIENT_OP_STREAMING, /* done was called, the body arrives */
    CLIENT_OP_DONE,
};

struct http_client_op {
    unsigned magic;
    enum http_client_op_state state;
    struct http_client *client;
    struct http_client_host *host;
    struct list node; /* waiting or resolving */
    struct arena arena;

    enum http_client_method method;
    struct curl_url url;
    struct http_client_header *headers;
    size_t n_headers;
    struct slice body;
    bool has_body, is_stream, is_probe, has_place, was_sent;
    unsigned max_redirects, n_redirects;
    uint32_t timeout_ms;
    uint64_t started_us;
    size_t max_body;
    http_client_done_fn done;
    void *data;
    struct timer timer;
    struct loop_task task; /* whatever must not happen inside a curl callback, or inside http_client_start */

    struct curl_transfer transfer;
    struct curl_slist *header_list;
    size_t body_sent, n_received; /* bytes of our body handed to curl; of the answer's */
    struct buf head, in, out; /* raw header lines; the body, of a stream what was not read yet; what is being read */
    bool has_head, will_follow, is_over, is_paused, is_too_large;
    struct err err;
    void (*on_ready)(void *data);
    void *ready_data;
    struct http_client_answer answer;
};

/* admission, http_client.c */
void http_client_ask_place(struct http_client_op *op);   /* at once, or later in http_client_op_on_place */
void http_client_give_place(struct http_client_op *op);  /* safe without one */
void http_client_leave_queue(struct http_client_op *op); /* safe when not in it */

/* http_client_op.c */
void http_client_op_on_place(struct http_client_op *op);
void http_client_op_on_addrs(struct http_client_op *op, const struct err *err);
void http_client_op_fail(struct http_client_op *op, const struct err *err);
void http_client_op_on_head(struct http_client_op *op); /* this and on_bytes: from inside curl */
void http_client_op_on_bytes(struct http_client_op *op);
void http_client_op_on_end(struct http_client_op *op, CURLcode code);

/* http_client_transfer.c */
void http_client_transfer_start(struct http_client_op *op);
void http_client_transfer_stop(struct http_client_op *op);
/* Splits op->head into the answer's headers and status. */
void http_client_transfer_read_head(struct http_client_op *op);
/* The value of the first header of that name; empty: none */
struct slice http_client_answer_header(const struct http_client_answer *answer, struct slice name);
#define HTTP_CLIENT_STREAM_MAX (64 * 1024)
