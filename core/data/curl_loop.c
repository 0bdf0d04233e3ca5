/* The socket interface of curl's multi handle (curl_multi_socket_action), translated: curl says which sockets it wants
 * to hear of and when it wants to be called; we call it from poll handles and one timer, and hand out what has ended.
 *
 * Ended transfers are handed out after curl has returned, so that `done` may start and stop others. Nothing may call
 * back into the multi handle from inside a curl callback; that is why curl_on_timer only arms. */
#include "data/curl_loop.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "net/poll.h"
#include "net/timer.h"

#define CURL_MAGIC 0xc0219001u
#define TRANSFER_MAGIC 0xc0219002u
#define MAX_SPARE 32     /* easy handles kept for the next transfer */
#define IDLE_MAX_S 30L   /* an idle connection older than this is not used again: servers drop them from 60 s on */
#define DNS_KEEP_S 3600L /* longer than any transfer waits: curl must never look a name up itself */

struct curl_loop {
    unsigned magic;
    struct curl_loop_opts opts;
    char *ca_file; /* owned; NULL: curl's default */
    CURLM *multi;
    struct timer timer;
    size_t n_running;
    CURL *spare[MAX_SPARE];
    unsigned n_spare;
};

struct socket_watch {
    struct curl_loop *curl;
    struct poll *poll;
    curl_socket_t fd;
};

/* ---- curl → loop ------------------------------------------------------------------------------------------------ */

static void hand_out(struct curl_loop *curl)
{
    CURLMsg *msg;
    int n_left;
    while ((msg = curl_multi_info_read(curl->multi, &n_left))) {
        char *owner = NULL;
        CURLcode code = msg->data.result;
        CHECK(msg->msg == CURLMSG_DONE);
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &owner);
        struct curl_transfer *transfer;
        CAST_OBJ(transfer, (void *)owner, TRANSFER_MAGIC);
        transfer->done(transfer, code); /* which stops it */
    }
}

static void act(struct curl_loop *curl, curl_socket_t fd, int events)
{
    int n_running;
    CHECK(curl_multi_socket_action(curl->multi, fd, events, &n_running) == CURLM_OK);
    hand_out(curl);
}

static void on_poll(void *data, int events)
{
    struct socket_watch *watch = data; /* may be gone when curl returns */
    act(watch->curl, watch->fd,
        (events & POLL_READ ? CURL_CSELECT_IN : 0) | (events & POLL_WRITE ? CURL_CSELECT_OUT : 0));
}

static void on_timer(struct timer *timer)
{
    act(container_of(timer, struct curl_loop, timer), CURL_SOCKET_TIMEOUT, 0);
}

static int curl_on_timer(CURLM *multi UNUSED, long timeout_ms, void *data)
{
    struct curl_loop *curl = data;
    if (timeout_ms < 0)
        timer_stop(curl->opts.loop, &curl->timer);
    else
        timer_arm(curl->opts.loop, &curl->timer, loop_now(curl->opts.loop) + (uint64_t)timeout_ms, on_timer);
    return 0;
}

static int curl_on_socket(CURL *easy UNUSED, curl_socket_t fd, int what, void *data, void *watched)
{
    struct curl_loop *curl = data;
    struct socket_watch *watch = watched;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            poll_free(watch->poll);
            loop_reclaim(curl->opts.loop, watch);
        }
        return 0;
    }
    if (!watch) {
        watch = xalloc(sizeof *watch);
        *watch = (struct socket_watch){.curl = curl, .fd = fd};
        watch->poll = poll_new(curl->opts.loop, fd, on_poll, watch);
        curl_multi_assign(curl->multi, fd, watch);
    }
    poll_set(watch->poll, (what & CURL_POLL_IN ? POLL_READ : 0) | (what & CURL_POLL_OUT ? POLL_WRITE : 0));
    return 0;
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static enum status set_ca_file(struct curl_loop *curl, const char *ca_file, struct err *err)
{
    if (!ca_file)
        ca_file = curl_version_info(CURLVERSION_NOW)->cainfo;
    else if (access(ca_file, R_OK) != 0)
        return err_set(err, ERR_INVALID, "cannot read the CA certificates in %s", ca_file);
    curl->ca_file = ca_file ? xstrndup(ca_file, strlen(ca_file)) : NULL;
    return OK;
}

struct curl_loop *curl_loop_new(const struct curl_loop_opts *opts, struct err *err)
{
    struct curl_loop *curl = xalloc(sizeof *curl);
    *curl = (struct curl_loop){.magic = CURL_MAGIC, .opts = *opts};
    if (set_ca_file(curl, opts->ca_file, err) != OK) {
        free(curl);
        return NULL;
    }
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    curl->multi = curl_multi_init();
    CHECK(curl->multi);
    curl_multi_setopt(curl->multi, CURLMOPT_SOCKETFUNCTION, curl_on_socket);
    curl_multi_setopt(curl->multi, CURLMOPT_SOCKETDATA, curl);
    curl_multi_setopt(curl->multi, CURLMOPT_TIMERFUNCTION, curl_on_timer);
    curl_multi_setopt(curl->multi, CURLMOPT_TIMERDATA, curl);
    curl_multi_setopt(curl->multi, CURLMOPT_MAXCONNECTS, (long)opts->max_idle);
    return curl;
}

void curl_loop_free(struct curl_loop *curl)
{
    if (!curl)
        return;
    CHECK_OBJ(curl, CURL_MAGIC);
    CHECK(curl->n_running == 0);
    while (curl->n_spare)
        curl_easy_cleanup(curl->spare[--curl->n_spare]);
    curl_multi_cleanup(curl->multi);
    timer_stop(curl->opts.loop, &curl->timer);
    curl_global_cleanup();
    free(curl->ca_file);
    curl->magic = 0;
    loop_reclaim(curl->opts.loop, curl);
}

/* ---- a transfer ---------------------------------------------------------------------------------------------------
 */

/* The last word on where a connection goes: names, redirects and literals all end here. */
static curl_socket_t open_socket(void *data, curlsocktype purpose UNUSED, struct curl_sockaddr *to)
{
    struct curl_transfer *transfer = data;
    const char *refused = address_guard_refuses(transfer->curl->opts.guard, &to->addr);
    if (!refused)
        return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
    struct addr addr = {.len = to->addrlen};
    transfer->refused = refused;
    if (to->addrlen <= sizeof addr.sa) {
        memcpy(&addr.sa, &to->addr, to->addrlen);
        addr_ip(&addr, transfer->refused_ip);
    }
    return CURL_SOCKET_BAD;
}

void curl_transfer_prepare(struct curl_loop *curl, struct curl_transfer *transfer)
{
    CHECK_OBJ(curl, CURL_MAGIC);
    *transfer = (struct curl_transfer){.magic = TRANSFER_MAGIC, .curl = curl};
    transfer->easy = curl->n_spare ? curl->spare[--curl->n_spare] : curl_easy_init();
    CHECK(transfer->easy);
    CURL *easy = transfer->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (void *)transfer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* not even the environment's */
    curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, DNS_KEEP_S);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)curl->opts.connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, IDLE_MAX_S);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    if (curl->ca_file) { /* a directory beside it would keep curl from caching the parsed certificates */
        curl_easy_setopt(easy, CURLOPT_CAINFO, curl->ca_file);
        curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    }
}

/* "+host:port:1.2.3.4,[::1]": for curl's cache, where it expires and is cleared away. */
static struct curl_slist *resolve_list(const char *host, int port, const struct addr *addrs, size_t n_addrs)
{
    struct buf text = {0};
    buf_printf(&text, "+%s:%d:", host, port);
    for (size_t i = 0; i < n_addrs; i++) {
        char ip[ADDR_TEXT_MAX];
        addr_ip(&addrs[i], ip);
        buf_printf(&text, strchr(ip, ':') ? "%s[%s]" : "%s%s", i ? "," : "", ip);
    }
    buf_byte(&text, '\0');
    struct curl_slist *list = curl_slist_append(NULL, text.ptr);
    CHECK(list);
    buf_free(&text);
    return list;
}

void curl_transfer_start(struct curl_transfer *transfer, const char *host, int port, const struct addr *addrs,
                         size_t n_addrs, void (*done)(struct curl_transfer *transfer, CURLcode code))
{
    CHECK_OBJ(transfer, TRANSFER_MAGIC);
    CHECK(!transfer->is_running && n_addrs > 0);
    transfer->done = done;
    if (!strchr(host, ':')) { /* an IPv6 literal needs none */
        transfer->resolve = resolve_list(host, port, addrs, n_addrs);
        curl_easy_setopt(transfer->easy, CURLOPT_RESOLVE, transfer->resolve);
    }
    CHECK(curl_multi_add_handle(transfer->curl->multi, transfer->easy) == CURLM_OK);
    transfer->is_running = true;
    transfer->curl->n_running++;
}

void curl_transfer_stop(struct curl_transfer *transfer)
{
    if (!transfer->easy)
        return;
    CHECK_OBJ(transfer, TRANSFER_MAGIC);
    struct curl_loop *curl = transfer->curl;
    if (transfer->is_running) {
        CHECK(curl_multi_remove_handle(curl->multi, transfer->easy) == CURLM_OK);
        curl->n_running--;
    }
    transfer->is_running = false;
    if (curl->n_spare < MAX_SPARE) {
        curl_easy_reset(transfer->easy);
        curl->spare[curl->n_spare++] = transfer->easy;
    } else {
        curl_easy_cleanup(transfer->easy);
    }
    curl_slist_free_all(transfer->resolve);
    transfer->resolve = NULL;
    transfer->easy = NULL;
}

static enum err_code code_of(const struct curl_transfer *transfer, CURLcode code)
{
    switch ((int)code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        return transfer->refused ? ERR_FORBIDDEN_ADDRESS : ERR_UNAVAILABLE;
    case CURLE_OPERATION_TIMEDOUT: /* ours is a timer of our own: curl's is that of connecting */
        return transfer->refused ? ERR_FORBIDDEN_ADDRESS : ERR_TIMEOUT;
    case CURLE_FILESIZE_EXCEEDED:
        return ERR_TOO_LARGE;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return ERR_BAD_RESPONSE;
    default:
        return ERR_UNAVAILABLE;
    }
}

void curl_transfer_err(const struct curl_transfer *transfer, CURLcode code, struct err *err)
{
    enum err_code kind = code_of(transfer, code);
    if (kind == ERR_FORBIDDEN_ADDRESS)
        (void)err_set(err, kind, "%s is %s: allow it in http_client.allow_private if the shop itself lives there",
                      transfer->refused_ip, transfer->refused);
    else
        (void)err_set(err, kind, "%s", transfer->error[0] ? transfer->error : curl_easy_strerror(code));
}

bool curl_transfer_was_sent(const struct curl_transfer *transfer)
{
    curl_off_t us = 0;
    if (transfer->easy)
        curl_easy_getinfo(transfer->easy, CURLINFO_PRETRANSFER_TIME_T, &us);
    return us > 0;
}
