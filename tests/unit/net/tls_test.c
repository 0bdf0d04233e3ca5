#include "net/tls_owner.h"

/* ---- who the peer is ----------------------------------------------------------------------------------- */

static void test_wildcard_and_trailing_dot(void **state UNUSED)
{
    struct server server = {.script = echo};
    struct owner a = {0};
    server_start(&server);
    begin(&a, &server, "a.wild.test.");
    RUN_UNTIL(loop, a.n_connect == 1);
    end(&a);
    server_stop(&server);
    assert_string_equal(server.sni, "a.wild.test");
    buf_free(&server.got);
}

static void test_wrong_name(void **state UNUSED)
{
    struct server server = {.script = read_to_end};
    assert_refused(&server, "bad.test", "certificate verify failed: hostname mismatch");
    server = (struct server){.script = read_to_end};
    assert_refused(&server, "a.b.wild.test", "certificate verify failed: hostname mismatch");
    server = (struct server){.script = read_to_end, .max_version = TLS1_2_VERSION};
    assert_refused(&server, "bad.test", "certificate verify failed: hostname mismatch");
}

static void test_ip_address(void **state UNUSED)
{
    struct server server = {.script = echo, .cert = "ip"};
    struct owner a = {0};
    server_start(&server);
    begin(&a, &server, "127.0.0.1");
    RUN_UNTIL(loop, a.n_connect == 1);
    end(&a);
    server_stop(&server);
    assert_string_equal(server.sni, ""); /* an address is no name */
    buf_free(&server.got);
    server = (struct server){.script = read_to_end, .cert = "ip"};
    assert_refused(&server, "127.0.0.2", "certificate verify failed: IP address mismatch");
    server = (struct server){.script = read_to_end};
    assert_refused(&server, "::1", "certificate verify failed: IP address mismatch");
}

static void trust(const struct tls_opts *opts)
{
    struct err err;
    tls_context_free(context);
    context = tls_context_new(opts, &err);
    if (!context)
        fail_msg("%s", err.message);
}

static void test_unknown_ca(void **state UNUSED)
{
    struct server server = {.script = read_to_end};
    trust(&(struct tls_opts){.ca_file = cert_path("other.pem")});
    assert_refused(&server, "good.test", "certificate verify failed: unable to get local issuer certificate");
    server = (struct server){.script = read_to_end};
    trust(&(struct tls_opts){0}); /* the system's */
    assert_refused(&server, "good.test", "certificate verify failed: unable to get local issuer certificate");
}

static void test_self_signed(void **state UNUSED)
{
    struct server server = {.script = read_to_end, .cert = "self"};
    assert_refused(&server, "self", "certificate verify failed: self-signed certificate");
}

static void test_expired(void **state UNUSED)
{
    struct server server = {.script = read_to_end, .cert = "expired"};
    assert_refused(&server, "good.test", "certificate verify failed: certificate has expired");
}

static void test_unusable_names(void **state UNUSED)
{
    struct server server = {.script = read_to_end};
    char long_name[400] = {0};
    memset(long_name, 'a', sizeof(long_name) - 1);
    assert_refused(&server, "", "no host name to verify"); /* libssl would check none */
    struct owner a = {0};
    struct addr addr = server.addr;
    addr = (server = (struct server){.script = read_to_end}, server_start(&server), server.addr);
    stream_connect(&a.stream, loop, &addr, &events);
    stream_start_tls(&a.stream, context, long_name);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_true(a.has_err);
    stop_any(&server);
}

static void test_skip_verify(void **state UNUSED)
{
    struct server server = {.script = echo, .cert = "expired"};
    struct owner a = {0};
    trust(&(struct tls_opts){.skip_verify = true});
    server_start(&server);
    begin(&a, &server, "whatever.test");
    RUN_UNTIL(loop, a.n_connect == 1);
    assert_int_equal(write_inside(&a, SLICE("hello")), OK);
    RUN_UNTIL(loop, a.got.len == 5);
    end(&a);
    stop_sound(&server);
}

static void test_client_certificate(void **state UNUSED)
{
    struct server server = {.script = echo, .client_ca = "ca.pem"};
    struct owner a = {0};
    trust(&(struct tls_opts){.ca_file = cert_path("ca.pem"), .cert_file = cert_path("both.pem")});
    connect_good(&a, &server);
    assert_int_equal(write_inside(&a, SLICE("hello")), OK);
    RUN_UNTIL(loop, a.got.len == 5);
    end(&a);
    server_stop(&server);
    assert_string_equal(server.client, "client");
    buf_free(&server.got);

    server = (struct server){.script = echo, .client_ca = "ca.pem"};
    a = (struct owner){0};
    trust(&(struct tls_opts){.ca_file = cert_path("ca.pem")}); /* with TLS 1.3 we are done before it looks */
    connect_good(&a, &server);
    assert_closes(&a, "read: TLS: the peer wants a client certificate");
    stop_any(&server);

    server = (struct server){.script = echo, .client_ca = "ca.pem", .max_version = TLS1_2_VERSION};
    assert_refused(&server, "good.test", "the peer refused: no cipher in common, or no client certificate");
    server = (struct server){.script = echo, .client_ca = "other.pem", .max_version = TLS1_2_VERSION};
    trust(&(struct tls_opts){cert_path("ca.pem"), cert_path("client.pem"), cert_path("client.key"), false});
    assert_refused(&server, "good.test", "the peer refused our client certificate: it does not know its CA");
}

/* The refusal and the reset are there before we write, and the write fails first. */
static void test_a_refusal_is_read_although_the_write_fails(void **state UNUSED)
{
    struct server server = {.script = echo, .client_ca = "ca.pem"};
    struct owner a = {.is_paused = true};
    connect_good(&a, &server);
    stop_any(&server);
    enum status status = OK;
    for (int i = 0; i < 3 && status == OK; i++)
        status = write_inside(&a, SLICE("AUTH secret"));
    assert_int_equal(status, ERR);
    assert_closes(&a, "write: the peer wants a client certificate");
}

static void assert_no_context(const struct tls_opts *opts, const char *text)
{
    struct err err = {0};
    assert_null(tls_context_new(opts, &err));
    assert_int_equal(err.code, ERR_INVALID);
    if (!strstr(err.message, text))
        fail_msg("%s", err.message);
}

static void test_contexts_that_cannot_be(void **state UNUSED)
{
    assert_no_context(&(struct tls_opts){.ca_file = "/nonexistent/ca.pem"},
                      "tls: ca_file /nonexistent/ca.pem: No such file or directory");
    assert_no_context(&(struct tls_opts){.ca_file = cert_path("empty.pem")}, "empty.pem: no certificate in it");
    assert_no_context(&(struct tls_opts){.key_file = cert_path("client.key")}, "tls: key_file without cert_file");
    assert_no_context(&(struct tls_opts){.cert_file = "/nonexistent.pem"},
                      "tls: cert_file /nonexistent.pem: No such file or directory");
    assert_no_context(&(struct tls_opts){.cert_file = cert_path("client.pem")}, "client.pem: no private key in it");
    assert_no_context(&(struct tls_opts){.cert_file = cert_path("client.pem"), .key_file = cert_path("good.key")},
                      "good.key: not the key of the certificate");
    assert_no_context(&(struct tls_opts){.cert_file = cert_path("client.pem"), .key_file = cert_path("locked.key")},
                      "locked.key: locked with a passphrase"); /* it does not ask on the terminal */
}

static void test_a_context_may_go_before_its_streams(void **state UNUSED)
{
    struct server server = {.script = echo};
    struct owner a = {0};
    server_start(&server);
    begin(&a, &server, "good.test");
    tls_context_free(context);
    context = NULL;
    RUN_UNTIL(loop, a.n_connect == 1);
    assert_int_equal(write_inside(&a, SLICE("hello")), OK);
    RUN_UNTIL(loop, a.got.len == 5);
    end(&a);
    stop_sound(&server);
}

/* ---- handshakes that fail ------------------------------------------------------------------------------ */

static void speak_redis(struct server *server UNUSED, int fd)
{
    char hello[4096];
    (void)!recv(fd, hello, sizeof(hello), 0);
    (void)!send(fd, "-ERR unknown command\r\n", 22, MSG_NOSIGNAL);
    (void)!recv(fd, hello, sizeof(hello), 0);
}
static void close_at_once(struct server *server UNUSED, int fd)
{
    char hello[4096];
    (void)!recv(fd, hello, sizeof(hello), 0);
}
static void reset_at_once(struct server *server, int fd)
{
    char hello[4096];
    (void)!recv(fd, hello, sizeof(hello), 0);
    reset_now(server);
}

static void test_peers_that_do_not_shake_hands(void **state UNUSED)
{
    struct server server = {.before = speak_redis};
    assert_refused(&server, "good.test", "the peer does not speak TLS on this port");
    server = (struct server){.before = close_at_once};
    assert_refused(&server, "good.test", "the peer closed the connection during the handshake");
    server = (struct server){.before = reset_at_once};
    assert_refused(&server, "good.test", "Connection reset by peer");
    server = (struct server){.max_version = TLS1_1_VERSION};
    assert_refused(&server, "good.test", "the peer offers no TLS version from 1.2 on");
}

static void say_nothing(struct server *server, int fd UNUSED)
{
    wait_go(server);
}

static struct owner *impatient;
static void on_impatience(struct timer *timer UNUSED)
{
    stream_close(&impatient->stream);
}

static void test_a_silent_peer_is_the_owners_to_close(void **state UNUSED)
{
    struct server server = {.before = say_nothing};
    struct owner a = {0};
    struct timer timer = {0};
    server_start(&server);
    begin(&a, &server, "good.test");
    assert_int_equal(write_inside(&a, SLICE("secret")), AGAIN);
    impatient = &a;
    timer_arm(loop, &timer, loop_now(loop) + 50, on_impatience);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_false(a.has_err);
    assert_int_equal(a.n_connect, 0);
    assert_int_equal(a.n_drain, 0);
    server_go(&server);
    stop_any(&server);
}

static void test_connect_refused(void **state UNUSED)
{
    struct server server = {.before = say_nothing};
    struct owner a = {0};
    char where[ADDR_TEXT_MAX], expected[ADDR_TEXT_MAX + 64];
    server_start(&server);
    server_go(&server);
    close(connect_to(&server.addr));
    stop_any(&server);
    begin(&a, &server, "good.test"); /* nobody listens there any more */
    addr_text(&server.addr, where);
    snprintf(expected, sizeof(expected), "connect to %s: Connection refused", where);
    assert_closes(&a, expected);

    a = (struct owner){0};
    assert_int_equal(addr_unix("/nonexistent/x.sock", &server.addr, NULL), OK);
    begin(&a, &server, "good.test"); /* fails inside stream_connect */
    assert_closes(&a, "connect to unix:/nonexistent/x.sock: No such file or directory");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_wildcard_and_trailing_dot),
        T(test_wrong_name),
        T(test_ip_address),
        T(test_unknown_ca),
        T(test_self_signed),
        T(test_expired),
        T(test_unusable_names),
        T(test_skip_verify),
        T(test_client_certificate),
        T(test_a_refusal_is_read_although_the_write_fails),
        T(test_contexts_that_cannot_be),
        T(test_a_context_may_go_before_its_streams),
        T(test_peers_that_do_not_shake_hands),
        T(test_a_silent_peer_is_the_owners_to_close),
        T(test_connect_refused),
    };
    return cmocka_run_group_tests(tests, make_cert_dir, drop_cert_dir);
}
