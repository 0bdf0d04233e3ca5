/* libcurl's multi interface on our loop: its sockets are our poll handles, its one time-out our timer, and nothing in
 * it blocks. Names are never its business: a transfer comes with its addresses (TRAPS T14), and every socket it opens
 * is judged by the address guard on the address it really connects to.
 *
 * Private to http_client_*. */
#pragma once

#include <curl/curl.h>

#include "data/address_guard.h"
#include "net/loop.h"

struct curl_loop;

struct curl_loop_opts {
    struct loop *loop;
    const struct address_guard *guard; /* borrowed */
    const char *ca_file;               /* NULL: the system's store */
    uint32_t connect_timeout_ms;
    unsigned max_idle; /* connections kept for the next transfer */
};

struct curl_loop *curl_loop_new(const struct curl_loop_opts *opts, struct err *err); /* ERR: no such CA file */
void curl_loop_free(struct curl_loop *curl); /* no transfer may be running; NULL is fine */

/* One transfer. Embed it, zeroed; between prepare and the end of it `easy` may be given more options. */
struct curl_transfer {
    unsigned magic;
    struct curl_loop *curl;
    CURL *easy;
    struct curl_slist *resolve;
    void (*done)(struct curl_transfer *transfer, CURLcode code); /* once, never inside a curl callback */
    bool is_running;
    const char *refused; /* what the guard said about an address it refused */
    char refused_ip[ADDR_TEXT_MAX];
    char error[CURL_ERROR_SIZE];
};

/* A handle with what all our transfers have in common: verified TLS from 1.2 on, no proxy, no environment, no signals.
 */
void curl_transfer_prepare(struct curl_loop *curl, struct curl_transfer *transfer);
/* Starts it: `host` as in its URL, to be reached at these addresses. done comes later. */
void curl_transfer_start(struct curl_transfer *transfer, const char *host, int port, const struct addr *addrs,
                         size_t n_addrs, void (*done)(struct curl_transfer *transfer, CURLcode code));
/* Ends it, running or not, and gives the handle back; done does not come any more. Not inside a curl callback. */
void curl_transfer_stop(struct curl_transfer *transfer);
/* Why it failed, as a run-time failure: forbidden_address, timeout (of connecting), too_large, bad_response,
 * unavailable. */
void curl_transfer_err(const struct curl_transfer *transfer, CURLcode code, struct err *err);
/* True once the other side may have seen what was sent. */
bool curl_transfer_was_sent(const struct curl_transfer *transfer);
