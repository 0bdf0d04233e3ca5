/* The other side of TLS tests: a real server (libssl in a thread, blocking, bound by socket timeouts) on a port of its
 * own, and a test CA made with the openssl command in a temporary directory. The thread never asserts: it writes down
 * what it saw, and server_stop, which joins it, tells the test. */
#pragma once

#include "net/net_help.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/buf.h"

#define SERVER_TIMEOUT_S 20

static char cert_dir[] = "/tmp/chowk-tls-XXXXXX";

/* ---- certificates -------------------------------------------------------------------------------------- */

static const char make_certs[] =
    "set -e; cd \"$1\"\n"
    "key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n"
    "ca() { openssl req -x509 $key -days 30 -subj \"/CN=$1\" -keyout $1.key -out $1.pem; }\n"
    "leaf() { # name, days, subjectAltName\n"
    "  openssl req $key -subj \"/CN=$1\" -keyout $1.key -out $1.csr\n"
    "  echo \"subjectAltName=$3\" > $1.ext\n"
    "  openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days $2 -extfile $1.ext -out $1.pem\n"
    "}\n"
    "ca ca; ca other; ca self\n"
    "leaf good 30 DNS:good.test,DNS:*.wild.test\n"
    "leaf ip 30 IP:127.0.0.1\n"
    "leaf expired -1 DNS:good.test\n"
    "leaf client 30 DNS:client.test\n"
    "cat client.pem client.key > both.pem\n"
    "openssl ec -in client.key -aes128 -passout pass:secret -out locked.key\n"
    ": > empty.pem\n";

static inline int make_cert_dir(void **state UNUSED)
{
    char command[4096];
    if (!mkdtemp(cert_dir))
        return -1;
    snprintf(command, sizeof(command), "sh -s '%s' > '%s/log' 2>&1 <<'END'\n%sEND\n", cert_dir, cert_dir, make_certs);
    if (system(command) != 0) {
        fprintf(stderr, "cannot make certificates: see %s/log\n", cert_dir);
        return -1;
    }
    return 0;
}

static inline int drop_cert_dir(void **state UNUSED)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", cert_dir);
    return system(command);
}

struct path {
    char text[128];
};

static inline struct path path_of(const char *name)
{
    struct path path;
    snprintf(path.text, sizeof(path.text), "%s/%s", cert_dir, name);
    return path;
}
/* Lives as long as the block it is in. */
#define cert_path(name) ((struct path[]) { path_of(name) } -> text)

/* ---- the server ---------------------------------------------------------------------------------------- */

struct server {
    /* Set before server_start. */
    const char *cert;                                /* its name below cert_dir */
    const char *client_ca;                           /* its name; then a client certificate is wanted */
    int max_version;                                 /* 0: the newest */
    bool is_trickling;                               /* every byte on its own */
    void (*before)(struct server *server, int fd);   /* instead of TLS */
    void (*early)(struct server *server, SSL *ssl);  /* 0.5-RTT: before the client has finished */
    void (*script)(struct server *server, SSL *ssl); /* after the handshake */
    /* For scripts. */
    struct slice bytes;
    int go[2]; /* the test says go on, with a byte */
    /* What it saw; read them after server_stop. */
    char sni[64], client[64], error[256], end[64];
    bool is_shaken, saw_notify, saw_cut;
    struct buf got;
    int fd;
    /* Private. */
    int listener;
    struct addr addr;
    pthread_t thread;
};

static inline void server_error(struct server *server, const char *doing)
{
    if (server->error[0] == '\0')
        snprintf(server->error, sizeof(server->error), "%s: %s", doing,
                 ERR_peek_error() ? ERR_reason_error_string(ERR_peek_error()) : strerror(errno));
}

static int on_trickle_write(BIO *bio, const char *ptr, size_t len, size_t *n_written)
{
    int fd = (int)(intptr_t)BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    for (*n_written = 0; *n_written < len; ++*n_written)
        if (send(fd, ptr + *n_written, 1, MSG_NOSIGNAL) != 1)
            return 0;
    return 1;
}

static long on_trickle_ctrl(BIO *bio UNUSED, int command, long number UNUSED, void *ptr UNUSED)
{
    return command == BIO_CTRL_FLUSH;
}

static inline SSL_CTX *server_context(struct server *server)
{
    char name[64];
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    snprintf(name, sizeof(name), "%s.pem", server->cert);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_path(name)) != 1)
        server_error(server, "certificate");
    snprintf(name, sizeof(name), "%s.key", server->cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, cert_path(name), SSL_FILETYPE_PEM) != 1)
        server_error(server, "key");
    if (server->max_version && server->max_version < TLS1_2_VERSION)
        SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(ctx, server->max_version);
    SSL_CTX_set_options(ctx, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    if (server->client_ca) {
        if (SSL_CTX_load_verify_file(ctx, cert_path(server->client_ca)) != 1)
            server_error(server, "client CA");
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    return ctx;
}

static inline void server_note_client(struct server *server, SSL *ssl)
{
    const char *sni = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    snprintf(server->sni, sizeof(server->sni), "%s", sni ? sni : "");
    X509 *client = SSL_get0_peer_certificate(ssl);
    if (client)
        X509_NAME_get_text_by_NID(X509_get_subject_name(client), NID_commonName, server->client,
                                  sizeof(server->client));
}

static inline void server_talk(struct server *server, SSL *ssl)
{
    size_t n;
    if (server->early) {
        char byte;
        (void)SSL_read_early_data(ssl, &byte, 1, &n); /* goes as far as it can before the client's Finished */
        server->early(server, ssl);
    }
    if (SSL_accept(ssl) != 1) {
        server_error(server, "accept");
        return;
    }
    server->is_shaken = true;
    server_note_client(server, ssl);
    if (server->script)
        server->script(server, ssl);
}

static void *server_run(void *data)
{
    struct server *server = data;
    struct pollfd ready = {.fd = server->listener, .events = POLLIN};
    struct timeval timeout = {.tv_sec = SERVER_TIMEOUT_S};
    if (poll(&ready, 1, SERVER_TIMEOUT_S * 1000) != 1)
        return NULL;
    server->fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    setsockopt(server->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(server->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    setsockopt(server->fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &(int){1}, sizeof(int));
    if (server->before) {
        server->before(server, server->fd);
    } else {
        SSL_CTX *ctx = server_context(server);
        BIO_METHOD *trickle = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "trickle");
        SSL *ssl = SSL_new(ctx);
        SSL_set_fd(ssl, server->fd);
        if (server->is_trickling) {
            BIO_meth_set_write_ex(trickle, on_trickle_write);
            BIO_meth_set_ctrl(trickle, on_trickle_ctrl);
            BIO *bio = BIO_new(trickle);
            BIO_set_data(bio, (void *)(intptr_t)server->fd);
            BIO_set_init(bio, 1);
            SSL_set0_wbio(ssl, bio);
        }
        server_talk(server, ssl);
        SSL_free(ssl);
        BIO_meth_free(trickle);
        SSL_CTX_free(ctx);
    }
    if (server->fd >= 0)
        close(server->fd);
    return NULL;
}

static inline void server_start(struct server *server)
{
    sigset_t pipe, old; /* libssl's socket BIO raises it; of the client's thread it would be a failure */
    server->addr = loopback(0);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(setsockopt(server->listener, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int)), 0);
    assert_int_equal(bind(server->listener, (struct sockaddr *)&server->addr.sa, server->addr.len), 0);
    assert_int_equal(listen(server->listener, 1), 0);
    server->addr = addr_of(server->listener);
    server->cert = server->cert ? server->cert : "good";
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, server->go), 0);
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &old);
    assert_int_equal(pthread_create(&server->thread, NULL, server_run, server), 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static inline void server_go(struct server *server)
{
    assert_int_equal(send(server->go[0], "g", 1, MSG_NOSIGNAL), 1);
}

/* Joins; what it got is the caller's to free. */
static inline void server_stop(struct server *server)
{
    close(server->go[0]);
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    close(server->go[1]);
    close(server->listener);
}

/* ---- pieces of scripts (in the thread) ----------------------------------------------------------------- */

static inline void wait_go(struct server *server)
{
    struct pollfd ready = {.fd = server->go[1], .events = POLLIN};
    char byte;
    if (poll(&ready, 1, SERVER_TIMEOUT_S * 1000) != 1 || read(server->go[1], &byte, 1) < 0)
        server_error(server, "go");
}

static inline void server_write(struct server *server, SSL *ssl, struct slice bytes)
{
    size_t n;
    if (bytes.len > 0 && SSL_write_ex(ssl, bytes.ptr, bytes.len, &n) != 1)
        server_error(server, "write");
}

/* Until len bytes in all, or an end. */
static inline void server_read(struct server *server, SSL *ssl, size_t len)
{
    size_t n;
    while (server->got.len < len) {
        int rc = SSL_read_ex(ssl, buf_reserve(&server->got, 65536), 65536, &n);
        if (rc != 1) {
            server->saw_notify = SSL_get_error(ssl, rc) == SSL_ERROR_ZERO_RETURN;
            server->saw_cut = !server->saw_notify;
            if (ERR_peek_error())
                snprintf(server->end, sizeof(server->end), "%s", ERR_reason_error_string(ERR_peek_error()));
            return;
        }
        server->got.len += n;
    }
}

static inline void reset_now(struct server *server)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(server->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(server->fd);
    server->fd = -1;
}

static inline void read_to_end(struct server *server, SSL *ssl)
{
    server_read(server, ssl, SIZE_MAX);
}
