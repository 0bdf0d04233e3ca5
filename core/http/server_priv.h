/* What server.c, conn.c and response.c share: the server's state, one connection, one request in progress. */
#pragma once

#include "base/clock.h"
#include "http/chunk.h"
#include "http/parse.h"
#include "http/server.h"
#include "net/stream.h"
#include "net/timer.h"

#define HTTP_SERVER_MAGIC 0x4874e902u
#define HTTP_CONN_MAGIC 0x4874e903u
#define HTTP_IP_MAX 64

enum http_conn_state {
    HTTP_CONN_PROXY,  /* a proxy's greeting comes first (proxy_line.h) */
    HTTP_CONN_IDLE,   /* between requests */
    HTTP_CONN_HEAD,   /* a request has begun, its head is not whole */
    HTTP_CONN_BODY,   /* its body is not whole */
    HTTP_CONN_HANDLE, /* its answer is not whole */
    HTTP_CONN_SEND,   /* answered; the kernel has not taken all bytes */
    HTTP_CONN_LINGER, /* FIN sent; what arrives is discarded for a moment */
    HTTP_CONN_CLOSED, /* the stream is closed; only a handler may still hold the request */
    HTTP_CONN_N_STATES
};

/* A request from the end of its head to the end of its answer; lives in its connection's arena. */
struct http_exchange {
    struct http_request req;
    struct http_conn *conn;
    unsigned allowed; /* methods of the path, when there is no route */

    /* the body on its way in */
    size_t max_body, received;
    uint64_t left; /* of Content-Length */
    struct http_chunk_reader chunks;
    struct buf body; /* owned; empty when the body came whole with the head */
    bool is_chunked, expects_continue;

    /* the answer on its way out */
    uint64_t started_us; /* only for the log */
    size_t sent;         /* body bytes */
    int status;
    bool allows_keep_alive, must_close;
    bool is_handed;    /* the handler knows of it */
    bool is_streaming; /* http_stream_begin was called */
    bool is_waiting;   /* a writer was told AGAIN */
    bool sends_chunks, sends_body;
    void (*on_drain)(struct http_request *req);
};

struct http_conn {
    unsigned magic;
    uint8_t state, why; /* enum http_conn_state; enum http_close, the first reason given */
    bool is_busy;       /* an entry point below is on the stack and will settle */
    bool is_eof, must_close, is_read_off;
    uint32_t n_discarded; /* bytes read after the last answer */
    struct http_server *server;
    struct list node;
    uint64_t since_ms; /* of the state, or of the last progress of a slow reader */
    size_t send_mark;  /* bytes that were unsent at since_ms */
    struct http_exchange *exchange;
    struct arena arena; /* the exchange and all it needs */
    struct buf in;      /* bytes not parsed yet; freed when empty */
    struct http_scan scan;
    struct timer timer;
    struct loop_task task;
    struct stream stream;
    char ip[HTTP_IP_MAX]; /* of the peer, or of whom the peer's greeting speaks for */
};

#define HTTP_ID_PREFIX 10
#define HTTP_DATE_LINE (6 + CLOCK_HTTP_LEN + 2)

struct http_server {
    unsigned magic;
    struct http_server_opts opts;
    struct listener **listeners;
    size_t n_listeners;
    bool is_paused, is_draining, is_grace_over, is_freed;
    struct list conns;
    size_t n_conns, n_in_state[HTTP_CONN_N_STATES];
    struct buf scratch; /* http_body_buf */
    char date_line[HTTP_DATE_LINE + 1];
    uint64_t date_due_ms;
    char id_prefix[HTTP_ID_PREFIX];
    uint64_t n_ids;
    uint64_t n_requests, n_5xx, n_closes[HTTP_N_CLOSES];
    struct timer grace;
    struct loop_task drained_task;
    void (*on_drained)(void *data);
    void *drained_data;
};

/* server.c */
struct slice http_server_date(struct http_server *server);               /* "Date: …\r\n" of this second */
void http_server_id(struct http_server *server, char out[37]);           /* a fresh request id, NUL-terminated */
void http_server_forget(struct http_server *server, struct http_conn *); /* a connection's memory is about to go */

/* exchange.c */
/* `block` is a whole head of n_headers lines. OK: conn->exchange is the request, routed. ERR: *why. */
enum status http_exchange_new(struct http_conn *conn, struct slice block, size_t n_headers,
                              enum http_close *why) MUST_CHECK;
void http_exchange_route(struct http_exchange *exchange); /* by the server's router of now */
void http_exchange_report(const struct http_exchange *exchange);
void http_exchange_free(struct http_conn *conn); /* conn->exchange and its arena */

/* conn.c */
void http_conn_open(struct http_server *server, int fd /* takes */, const struct addr *peer);
void http_conn_cut(struct http_conn *conn, enum http_close why); /* at once; on_gone follows within the turn */
uint64_t http_conn_due_ms(const struct http_conn *conn); /* its deadline in this state; 0: none (conn_deadline.c) */
/* The answer of conn->exchange is with the stream, or cannot be sent any more. Kills the exchange. */
void http_conn_end_exchange(struct http_conn *conn);
void http_conn_wait_drain(struct http_conn *conn); /* a stream's writer was told AGAIN: from now the client must read */
void http_conn_wake_later(struct http_conn *conn); /* the writer waits, though perhaps nothing is unsent any more */

/* response.c */
/* Refuses the request in progress; without an exchange nothing of it is echoed. The connection closes after. */
void http_response_refuse(struct http_conn *conn, enum http_close why);
void http_response_unrouted(struct http_request *req); /* 404, 405, or the automatic OPTIONS */
