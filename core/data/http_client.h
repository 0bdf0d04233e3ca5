/* HTTP calls to other services: connections kept and shared, HTTP/2 where the other side speaks it, verified TLS. One
 * per process.
 *
 * What a call goes through, each with a bound: the URL is parsed, the host's circuit breaker asked (data/breaker.h), a
 * place among the calls of that host and of all is waited for, the name is resolved by net/names (an answer is kept
 * for a minute, and used up to ten while a new one is fetched), the address is judged by the guard, curl does the rest.
 * One time-out covers all of it. A redirect goes the same way from the start.
 *
 * Nothing is sent twice that may not be: a call that is not idempotent is never repeated once its body began to leave,
 * not even when a kept connection turns out to be dead. Who wants a call repeated does so himself, knowing `was_sent`.
 */
#pragma once

#include "base/err.h"
#include "base/slice.h"
#include "net/loop.h"

struct address_guard;
struct names;
struct http_client;
struct http_client_op;

struct http_client_opts {
    struct loop *loop;
    struct names *names;
    const struct address_guard *guard; /* borrowed */
    const char *ca_file;               /* NULL: the system's store */
    const char *user_agent;            /* borrowed for ever */
    uint32_t connect_timeout_ms;
    unsigned max_active, max_per_host, max_waiting;
    unsigned breaker_failures; /* in a row; 0: no breaker */
    uint32_t breaker_open_ms;
};

struct http_client *http_client_new(const struct http_client_opts *opts, struct err *err); /* NULL: the CA file */
void http_client_free(struct http_client *client); /* no call may be left; NULL is fine */

enum http_client_method {
    CLIENT_GET,
    CLIENT_HEAD,
    CLIENT_OPTIONS,
    CLIENT_POST,
    CLIENT_PUT,
    CLIENT_PATCH,
    CLIENT_DELETE
};
bool http_client_is_safe(enum http_client_method method);       /* RFC 9110 9.2.1: asks, changes nothing */
bool http_client_is_idempotent(enum http_client_method method); /* 9.2.2: twice is as once */

struct http_client_header {
    struct slice name, value;
};

/* Valid during done; a stream's until it is freed. */
struct http_client_answer {
    int status;
    const struct http_client_header *headers; /* as sent, in order; of the last hop */
    size_t n_headers;
    struct slice body; /* empty for a stream */
    const char *url;   /* that answered: after redirects another */
};

/* err: NULL, or unavailable (could not connect, the connection broke, the breaker is open), timeout, queue_full,
 * too_large, forbidden_address, bad_response, invalid (the URL). was_sent: the other side may have seen the call.
 * op: for a stream. Never from inside the function that started it. */
typedef void (*http_client_done_fn)(void *data, struct http_client_op *op, const struct http_client_answer *answer,
                                    const struct err *err, bool was_sent);

struct http_client_call {
    enum http_client_method method;
    struct slice url;
    const struct http_client_header *headers; /* checked with http_client_header_flaw */
    size_t n_headers;
    struct slice body; /* of POST, PUT, PATCH and DELETE */
    bool has_body;
    uint32_t timeout_ms; /* until the answer is whole; a stream: until its head, then between reads */
    size_t max_body;     /* bytes, after decompression; a stream: in all, 0: as many as come */
    unsigned redirects;  /* followed at most */
    bool is_stream;      /* done has the head; read the body with http_client_read. Comes as sent: never decompressed */
    http_client_done_fn done;
    void *data;
};

/* NULL: may be sent; else what is wrong with it, for a message. Refuses what would end the line, and the fields that
 * the call itself decides (Host, Content-Length, Connection …). */
const char *http_client_header_flaw(struct slice name, struct slice value);

/* Copies all it is given. The op is valid until done was called; a stream's until http_client_stream_free. */
struct http_client_op *http_client_start(struct http_client *client, const struct http_client_call *call);
/* done does not come; at_deadline: the caller could wait no longer, which counts against the other side. */
void http_client_cancel(struct http_client_op *op, bool at_deadline);
bool http_client_is_stream(const struct http_client_op *op);
bool http_client_is_unknown(const struct http_client_op *op); /* it may have changed something by now */

/* ---- streams, after done without error ----------------------------------------------------------------------------
 */

/* OK: bytes, borrowed until the next call; empty: the end. AGAIN: nothing yet; on_ready is called once, when there is.
 * ERR: as done; sticky. What is not read is not received: at most 64 KiB wait here. A stream that nobody reads for
 * timeout_ms, and one that brings nothing for so long, ends with timeout. */
enum status http_client_read(struct http_client_op *op, struct slice *out, void (*on_ready)(void *data), void *data,
                             struct err *err) MUST_CHECK;
void http_client_stop_waiting(struct http_client_op *op); /* on_ready does not come */
void http_client_stream_free(struct http_client_op *op);

struct http_client_stats {
    unsigned active, waiting, hosts, open_breakers;
    uint64_t calls, failures, timeouts, refused; /* refused: by a breaker or a full queue */
};
void http_client_stats(const struct http_client *client, struct http_client_stats *out);
