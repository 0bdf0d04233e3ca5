/* What the TLS tests share on our side: a stream whose owner writes down what it is told, set up to trust the test CA,
 * and the beginning and the end of a conversation with a server of tls_server.h. */
#pragma once

#include "net/tls_server.h"

#include "net/stream.h"

/* An owner that writes down what its stream tells it. */
struct owner {
    struct stream stream;
    struct buf got;
    int n_data, n_eof, n_connect, n_drain, n_close;
    bool is_inside; /* a call of ours into the stream: no callback may come */
    bool is_paused; /* do not read */
    struct err err;
    bool has_err;
    void (*on_data)(struct owner *owner);
    void (*on_connect)(struct owner *owner);
};

static struct loop *loop;
static struct tls_context *context; /* trusts the test CA */

static inline struct owner *owner_of(struct stream *stream)
{
    struct owner *owner = container_of(stream, struct owner, stream);
    assert_false(owner->is_inside);
    assert_int_equal(owner->n_close, 0);
    return owner;
}

static inline void on_data(struct stream *stream, struct slice bytes)
{
    struct owner *owner = owner_of(stream);
    assert_int_equal(owner->n_connect, 1);
    assert_int_equal(owner->n_eof, 0);
    assert_true(bytes.len > 0);
    owner->n_data++;
    buf_slice(&owner->got, bytes);
    if (owner->on_data)
        owner->on_data(owner);
}
static inline void on_eof(struct stream *stream)
{
    owner_of(stream)->n_eof++;
}
static inline void on_connect(struct stream *stream)
{
    struct owner *owner = owner_of(stream);
    owner->n_connect++;
    if (!owner->is_paused)
        stream_read(stream, true);
    if (owner->on_connect)
        owner->on_connect(owner);
}
static inline void on_drain(struct stream *stream)
{
    struct owner *owner = owner_of(stream);
    assert_int_equal(stream_pending(stream), 0);
    owner->n_drain++;
}
static inline void on_close(struct stream *stream, const struct err *err)
{
    struct owner *owner = owner_of(stream);
    owner->n_close++;
    owner->has_err = err != NULL;
    if (err)
        owner->err = *err;
    assert_int_equal(stream_write(stream, SLICE("late")), ERR);
}

static const struct stream_events events = {on_data, on_eof, on_connect, on_drain, on_close};

static inline int setup(void **state UNUSED)
{
    struct err err;
    loop = loop_new();
    context = tls_context_new(&(struct tls_opts){.ca_file = cert_path("ca.pem")}, &err);
    return context ? 0 : -1;
}
static inline int teardown(void **state UNUSED)
{
    tls_context_free(context);
    loop_free(loop);
    return 0;
}

static inline void begin(struct owner *owner, struct server *server, const char *host_name)
{
    owner->is_inside = true;
    stream_connect(&owner->stream, loop, &server->addr, &events);
    stream_start_tls(&owner->stream, context, host_name);
    owner->is_inside = false;
}

static inline void connect_good(struct owner *owner, struct server *server)
{
    server_start(server);
    begin(owner, server, "good.test");
    RUN_UNTIL(loop, owner->n_connect + owner->n_close == 1);
    if (owner->has_err)
        fail_msg("%s", owner->err.message);
}

static inline void end(struct owner *owner)
{
    owner->is_inside = true;
    stream_close(&owner->stream);
    owner->is_inside = false;
    if (owner->n_close == 0)
        loop_turn(loop, false);
    assert_int_equal(owner->n_close, 1);
    buf_free(&owner->got);
}

/* For servers that must have had nothing to complain about. */
static inline void stop_sound(struct server *server)
{
    server_stop(server);
    assert_string_equal(server->error, "");
    buf_free(&server->got);
}

static inline void stop_any(struct server *server)
{
    server_stop(server);
    buf_free(&server->got);
}

static inline enum status write_inside(struct owner *owner, struct slice bytes)
{
    owner->is_inside = true;
    enum status status = stream_write(&owner->stream, bytes);
    owner->is_inside = false;
    return status;
}

static inline void assert_closes(struct owner *owner, const char *message)
{
    RUN_UNTIL(loop, owner->n_close == 1);
    assert_true(owner->has_err);
    assert_int_equal(owner->err.code, ERR_UNAVAILABLE);
    assert_string_equal(owner->err.message, message);
    assert_int_equal(owner->n_eof, 0);
    buf_free(&owner->got);
}

/* The handshake with `server` fails, for this reason. */
static inline void assert_refused(struct server *server, const char *host_name, const char *why)
{
    struct owner a = {0};
    char where[ADDR_TEXT_MAX], message[512];
    server_start(server);
    begin(&a, server, host_name);
    assert_int_equal(write_inside(&a, SLICE("secret")), AGAIN);
    addr_text(&server->addr, where);
    snprintf(message, sizeof(message), "connect to %s: TLS for %s: %s", where, host_name, why);
    assert_closes(&a, message);
    assert_int_equal(a.n_connect, 0);
    server_stop(server);
    assert_int_equal(server->got.len, 0);
    buf_free(&server->got);
}

static inline char *pattern(size_t len)
{
    char *bytes = xalloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + (i >> 8));
    return bytes;
}

static inline void echo(struct server *server, SSL *ssl)
{
    size_t sent = 0;
    while (!server->saw_notify && !server->saw_cut) {
        server_read(server, ssl, server->got.len + 1);
        server_write(server, ssl, slice_of(server->got.ptr + sent, server->got.len - sent));
        sent = server->got.len;
    }
}
