#include "net/tls_owner.h"

#include <errno.h>

/* Stands in front of the C library's: a kernel that takes little, and refuses every other time. */
static _Thread_local struct {
    size_t most; /* bytes it takes; 0: as it likes */
    int n_refusals;
} kernel;

ssize_t send(int fd, const void *ptr, size_t len, int flags)
{
    if (kernel.n_refusals > 0) {
        kernel.n_refusals--;
        errno = EAGAIN;
        return -1;
    }
    kernel.n_refusals = kernel.most != 0;
    return sendto(fd, ptr, kernel.most && kernel.most < len ? kernel.most : len, flags, NULL, 0);
}

/* ---- talking ------------------------------------------------------------------------------------------- */

static void test_echo(void **state UNUSED)
{
    struct server server = {.script = echo};
    struct owner a = {0};
    connect_good(&a, &server);
    for (size_t i = 1; i <= 3; i++) {
        assert_int_equal(write_inside(&a, SLICE("hello")), OK);
        RUN_UNTIL(loop, a.got.len == 5 * i);
    }
    assert_memory_equal(a.got.ptr, "hellohellohello", 15);
    assert_null(a.stream.out.ptr); /* what the kernel takes is never kept */
    end(&a);
    assert_false(a.has_err);
    assert_int_equal(a.n_drain, 0);
    server_stop(&server);
    assert_string_equal(server.sni, "good.test");
    assert_true(server.saw_notify);
    buf_free(&server.got);
}

static void write_late(struct owner *owner)
{
    assert_int_equal(stream_write(&owner->stream, SLICE("late")), AGAIN); /* behind what was kept */
}

static void test_early_writes_wait_for_the_handshake(void **state UNUSED)
{
    struct server server = {.script = read_to_end};
    struct owner a = {.on_connect = write_late};
    server_start(&server);
    begin(&a, &server, "good.test");
    assert_int_equal(write_inside(&a, SLICE("")), OK);
    assert_int_equal(write_inside(&a, SLICE("early ")), AGAIN);
    assert_int_equal(stream_pending(&a.stream), 6);
    RUN_UNTIL(loop, a.n_connect == 1);
    RUN_UNTIL(loop, a.n_drain == 1);
    end(&a);
    server_stop(&server);
    assert_int_equal(server.got.len, 10);
    assert_memory_equal(server.got.ptr, "early late", 10);
    buf_free(&server.got);
}

static void test_a_server_that_sends_byte_by_byte(void **state UNUSED)
{
    enum { LEN = 40000 };
    char *bytes = pattern(LEN);
    struct server server = {.script = echo, .is_trickling = true};
    struct owner a = {0};
    connect_good(&a, &server);
    (void)write_inside(&a, slice_of(bytes, LEN));
    RUN_UNTIL(loop, a.got.len == LEN);
    assert_memory_equal(a.got.ptr, bytes, LEN);
    end(&a);
    stop_sound(&server);
    free(bytes);
}

static void send_then_read(struct server *server, SSL *ssl)
{
    wait_go(server); /* the client's socket is full by now */
    server_write(server, ssl, server->bytes);
    server_read(server, ssl, server->bytes.len);
}

/* The server sends all before it reads anything, so the client's write cannot but stop half-way. */
static void transfer(int version)
{
    enum { LEN = 8 << 20 };
    char *bytes = pattern(LEN);
    struct server server = {.script = send_then_read, .bytes = slice_of(bytes, LEN), .max_version = version};
    struct owner a = {0};
    connect_good(&a, &server);
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN - 10)), AGAIN);
    assert_true(stream_pending(&a.stream) > LEN / 4);
    assert_int_equal(write_inside(&a, slice_of(bytes + LEN - 10, 10)), AGAIN);
    assert_int_equal(a.n_drain, 0);
    server_go(&server);
    RUN_UNTIL(loop, a.got.len == LEN && a.n_drain == 1);
    assert_memory_equal(a.got.ptr, bytes, LEN);
    assert_null(a.stream.out.ptr);       /* an idle stream keeps nothing */
    assert_true(a.n_data < LEN / 16384); /* several records each time */
    end(&a);
    server_stop(&server);
    assert_string_equal(server.error, "");
    assert_int_equal(server.got.len, LEN);
    assert_memory_equal(server.got.ptr, bytes, LEN);
    buf_free(&server.got);
    free(bytes);
}

static void test_large_transfers_both_ways(void **state UNUSED)
{
    transfer(TLS1_3_VERSION);
    transfer(TLS1_2_VERSION);
}

static void pass_back(struct server *server, SSL *ssl)
{
    server_read(server, ssl, server->bytes.len);
    server_write(server, ssl, buf_as_slice(&server->got));
    read_to_end(server, ssl);
}

/* Handshake, data and end find the socket full again and again. */
static void test_a_kernel_that_takes_little(void **state UNUSED)
{
    enum { LEN = 20000 };
    char *bytes = pattern(LEN);
    struct server server = {.script = pass_back, .bytes = slice_of(NULL, LEN)};
    struct owner a = {0};
    kernel.most = 50;
    kernel.n_refusals = 1;
    connect_good(&a, &server);
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN)), AGAIN);
    RUN_UNTIL(loop, a.got.len == LEN && a.n_drain == 1);
    assert_memory_equal(a.got.ptr, bytes, LEN);
    kernel.n_refusals = 1;
    stream_shutdown(&a.stream);
    assert_true(stream_pending(&a.stream) > 0); /* close_notify */
    RUN_UNTIL(loop, stream_pending(&a.stream) == 0);
    memset(&kernel, 0, sizeof(kernel));
    server_stop(&server); /* it saw the end although our stream is still open */
    assert_true(server.saw_notify);
    assert_int_equal(server.got.len, LEN);
    buf_free(&server.got);
    end(&a);
    assert_int_equal(a.n_drain, 1);
    free(bytes);
}

static void read_twice(struct server *server, SSL *ssl)
{
    server_read(server, ssl, 1); /* one record */
    server->bytes = slice_of(NULL, server->got.len);
    read_to_end(server, ssl);
}

static void test_cork_collects_one_record(void **state UNUSED)
{
    struct server server = {.script = read_twice};
    struct owner a = {0};
    connect_good(&a, &server);
    stream_cork(&a.stream, true);
    assert_int_equal(write_inside(&a, SLICE("one ")), AGAIN);
    assert_int_equal(write_inside(&a, SLICE("two ")), AGAIN);
    assert_int_equal(stream_pending(&a.stream), 8);
    a.is_inside = true;
    stream_cork(&a.stream, false);
    a.is_inside = false;
    assert_int_equal(stream_pending(&a.stream), 0);
    assert_int_equal(write_inside(&a, SLICE("three")), OK);
    end(&a);
    server_stop(&server);
    assert_int_equal(server.bytes.len, 8);
    assert_int_equal(server.got.len, 13);
    assert_memory_equal(server.got.ptr, "one two three", 13);
    buf_free(&server.got);
}

static void write_in_pieces(struct server *server, SSL *ssl)
{
    for (int i = 0; i < 3; i++)
        server_write(server, ssl, SLICE("piece "));
    wait_go(server);
}

static void pause_reading(struct owner *owner)
{
    stream_read(&owner->stream, false);
}

static void test_nothing_is_read_while_paused(void **state UNUSED)
{
    struct server server = {.script = write_in_pieces};
    struct owner a = {.is_paused = true, .on_data = pause_reading};
    connect_good(&a, &server);
    for (int i = 0; i < 20; i++)
        loop_turn(loop, false);
    assert_int_equal(a.n_data, 0);
    while (a.got.len < 18) {
        int n = a.n_data;
        stream_read(&a.stream, true);
        RUN_UNTIL(loop, a.n_data == n + 1);
        loop_turn(loop, false);
        assert_int_equal(a.n_data, n + 1);
    }
    server_go(&server);
    end(&a);
    stop_sound(&server);
}

static void write_early(struct server *server, SSL *ssl)
{
    size_t n;
    if (SSL_write_early_data(ssl, "already", 7, &n) != 1)
        server_error(server, "early write");
}

/* Data can come right behind the server's Finished, before anybody reads: it waits in the kernel. */
static void test_data_behind_the_handshake_waits_for_the_reader(void **state UNUSED)
{
    struct server server = {.early = write_early, .script = read_to_end};
    struct owner a = {.is_paused = true};
    connect_good(&a, &server);
    for (int i = 0; i < 20; i++)
        loop_turn(loop, false);
    assert_int_equal(a.n_data, 0);
    stream_read(&a.stream, true);
    RUN_UNTIL(loop, a.got.len == 7);
    assert_memory_equal(a.got.ptr, "already", 7);
    end(&a);
    stop_sound(&server);
}

static void update_keys(struct server *server, SSL *ssl)
{
    for (int i = 0; i < 100; i++) {
        if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1)
            server_error(server, "key update");
        server_write(server, ssl, SLICE("new keys "));
        server_read(server, ssl, server->got.len + 2);
    }
}

static void answer_ok(struct owner *owner)
{
    for (; owner->got.len >= 9; buf_consume(&owner->got, 9))
        assert_int_equal(stream_write(&owner->stream, SLICE("ok")), OK);
}

static void test_key_updates(void **state UNUSED)
{
    struct server server = {.script = update_keys};
    struct owner a = {.on_data = answer_ok};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.n_close + a.n_eof == 1); /* the script is over; it does not say goodbye */
    assert_int_equal(a.n_data, 100);
    end(&a);
    server_stop(&server);
    assert_string_equal(server.error, "");
    assert_int_equal(server.got.len, 200);
    buf_free(&server.got);
}

static void update_keys_with_data(struct server *server, SSL *ssl)
{
    for (int i = 0; i < 200; i++) {
        if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1)
            server_error(server, "key update");
        server_write(server, ssl, SLICE("new keys "));
    }
    wait_go(server);
}

static void test_many_key_updates_with_data_are_no_flood(void **state UNUSED)
{
    struct server server = {.script = update_keys_with_data};
    struct owner a = {0};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.got.len == 1800 || a.n_close == 1);
    assert_int_equal(a.n_close, 0);
    server_go(&server);
    end(&a);
    stop_sound(&server);
}

static void renegotiate(struct server *server, SSL *ssl)
{
    server_write(server, ssl, SLICE("before "));
    if (SSL_renegotiate(ssl) != 1 || SSL_do_handshake(ssl) != 1)
        server_error(server, "renegotiate");
    server_read(server, ssl, 2);
}

/* It is refused with a warning; it is the server's choice to go on. OpenSSL's does not. */
static void test_renegotiation_is_refused(void **state UNUSED)
{
    struct server server = {.script = renegotiate, .max_version = TLS1_2_VERSION};
    struct owner a = {0};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_int_equal(a.got.len, 7);
    assert_true(a.has_err);
    buf_free(&a.got);
    server_stop(&server);
    assert_string_equal(server.error, "");
    assert_string_equal(server.end, "no renegotiation");
    buf_free(&server.got);
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

static void say_goodbye(struct server *server, SSL *ssl)
{
    server_write(server, ssl, SLICE("last words"));
    if (SSL_shutdown(ssl) != 0)
        server_error(server, "shutdown");
    read_to_end(server, ssl);
}

static void test_close_notify_is_eof_and_the_answer_still_goes(void **state UNUSED)
{
    struct server server = {.script = say_goodbye};
    struct owner a = {.on_data = pause_reading};
    connect_good(&a, &server);
    for (int i = 0; i < 100 && a.n_eof == 0; i++) {
        stream_read(&a.stream, true);
        loop_turn(loop, true);
    }
    assert_int_equal(a.n_eof, 1);
    assert_int_equal(a.got.len, 10);
    assert_int_equal(write_inside(&a, SLICE("answer")), OK);
    stream_shutdown(&a.stream);
    for (int i = 0; i < 5; i++)
        loop_turn(loop, false);
    assert_int_equal(a.n_eof, 1);
    end(&a);
    assert_false(a.has_err);
    server_stop(&server);
    assert_int_equal(server.got.len, 6);
    assert_true(server.saw_notify);
    buf_free(&server.got);
}

static void cut(struct server *server, SSL *ssl)
{
    server_write(server, ssl, SLICE("half of it"));
    shutdown(server->fd, SHUT_WR);
    read_to_end(server, ssl);
}

static void test_a_truncated_stream_is_an_error(void **state UNUSED)
{
    struct server server = {.script = cut};
    struct owner a = {0};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_int_equal(a.got.len, 10);
    assert_int_equal(a.n_eof, 0);
    assert_closes(&a, "read: TLS: closed without close_notify: the end may be cut off");
    stop_any(&server);
}

static void reset_in_talk(struct server *server, SSL *ssl)
{
    server_read(server, ssl, 1);
    reset_now(server);
}

static void test_reset(void **state UNUSED)
{
    for (int paused = 0; paused <= 1; paused++) {
        struct server server = {.script = reset_in_talk};
        struct owner a = {.is_paused = paused};
        connect_good(&a, &server);
        assert_int_equal(write_inside(&a, SLICE("x")), OK);
        assert_closes(&a, "read: Connection reset by peer");
        stop_any(&server);
    }
}

static void cut_and_reset(struct server *server, SSL *ssl)
{
    server_read(server, ssl, 1);
    shutdown(server->fd, SHUT_WR); /* FIN before RST: now a write would raise SIGPIPE */
    reset_now(server);
}

static void test_write_to_a_dead_peer(void **state UNUSED)
{
    struct server server = {.script = cut_and_reset};
    struct owner a = {.is_paused = true};
    connect_good(&a, &server);
    assert_int_equal(write_inside(&a, SLICE("x")), OK);
    stop_any(&server); /* the reset is there, the loop has not seen it; no SIGPIPE */
    enum status status = OK;
    for (int i = 0; i < 3 && status == OK; i++)
        status = write_inside(&a, SLICE("y"));
    assert_int_equal(status, ERR);
    assert_int_equal(a.n_close, 0);
    loop_turn(loop, false);
    assert_int_equal(a.n_close, 1);
    assert_string_equal(a.err.message, "write: Broken pipe");
}

static void send_garbage(struct server *server, SSL *ssl)
{
    static const char record[] = "\x17\x03\x03\x00\x20 this was never encrypted by us ";
    server_write(server, ssl, SLICE("good"));
    (void)!send(server->fd, record, sizeof(record) - 1, MSG_NOSIGNAL);
    read_to_end(server, ssl);
}

static void test_a_forged_record_breaks_it_after_the_good_ones(void **state UNUSED)
{
    struct server server = {.script = send_garbage};
    struct owner a = {0};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_int_equal(a.got.len, 4);
    assert_closes(&a, "read: TLS: decryption failed or bad record mac");
    stop_any(&server);
}

/* Records made by hand would not be decrypted; so the server's own libssl asks, without end. */
static void flood(struct server *server UNUSED, SSL *ssl)
{
    for (int i = 0; i < 100000; i++)
        if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1 || SSL_do_handshake(ssl) != 1)
            return;
}

static void test_a_flood_of_key_updates_ends(void **state UNUSED)
{
    struct server server = {.script = flood};
    struct owner a = {0};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_true(a.has_err);
    assert_int_equal(a.got.len, 0);
    assert_string_equal(a.err.message, "read: TLS: the peer asks for new keys without end");
    stop_any(&server);
}

static void test_shutdown_while_connecting(void **state UNUSED)
{
    struct server server = {.script = read_to_end};
    struct owner a = {0};
    server_start(&server);
    begin(&a, &server, "good.test");
    assert_int_equal(write_inside(&a, SLICE("all of it")), AGAIN);
    stream_shutdown(&a.stream);
    RUN_UNTIL(loop, a.n_connect == 1);
    server_stop(&server); /* it saw the end, while our stream is still open */
    assert_true(server.saw_notify);
    assert_int_equal(server.got.len, 9);
    buf_free(&server.got);
    assert_int_equal(write_inside(&a, SLICE("x")), ERR);
    end(&a);
    assert_string_equal(a.err.message, "write after shutdown: Broken pipe");
}

static void test_shutdown_does_not_cut_the_handshake(void **state UNUSED)
{
    struct server server = {.script = read_to_end};
    struct owner a = {0};
    kernel.most = 50;
    server_start(&server);
    begin(&a, &server, "good.test");
    stream_shutdown(&a.stream);
    RUN_UNTIL(loop, a.n_connect == 1 && stream_pending(&a.stream) == 0);
    memset(&kernel, 0, sizeof(kernel));
    server_stop(&server);
    assert_true(server.is_shaken);
    assert_true(server.saw_notify);
    buf_free(&server.got);
    end(&a);
}

static void read_when_told(struct server *server, SSL *ssl)
{
    wait_go(server);
    read_to_end(server, ssl);
}

static void test_shutdown_comes_after_kept_bytes(void **state UNUSED)
{
    enum { LEN = 8 << 20 };
    char *bytes = pattern(LEN);
    struct server server = {.script = read_when_told};
    struct owner a = {0};
    connect_good(&a, &server);
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN)), AGAIN);
    stream_shutdown(&a.stream);
    server_go(&server);
    RUN_UNTIL(loop, a.n_drain == 1);
    server_stop(&server);
    assert_true(server.saw_notify);
    assert_int_equal(server.got.len, LEN);
    assert_memory_equal(server.got.ptr, bytes, LEN);
    buf_free(&server.got);
    end(&a);
    free(bytes);
}

/* What was dropped must not look complete to the peer. */
static void test_close_with_kept_bytes_is_seen_as_a_cut(void **state UNUSED)
{
    enum { LEN = 8 << 20 };
    char *bytes = pattern(LEN);
    struct server server = {.script = read_when_told};
    struct owner a = {0};
    connect_good(&a, &server);
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN)), AGAIN);
    end(&a);
    assert_false(a.has_err);
    server_go(&server);
    server_stop(&server);
    assert_true(server.saw_cut);
    assert_true(server.got.len < LEN);
    buf_free(&server.got);
    free(bytes);

    server = (struct server){.script = read_to_end};
    a = (struct owner){0};
    connect_good(&a, &server);
    stream_cork(&a.stream, true);
    assert_int_equal(write_inside(&a, SLICE("never encrypted")), AGAIN);
    end(&a);
    server_stop(&server);
    assert_true(server.saw_cut);
    assert_int_equal(server.got.len, 0);
    buf_free(&server.got);
}

static void close_inside(struct owner *owner)
{
    stream_close(&owner->stream);
    assert_int_equal(owner->n_close, 0);
}

static void test_owner_may_close_in_callbacks(void **state UNUSED)
{
    struct server server = {.script = echo};
    struct owner a = {.on_connect = close_inside};
    server_start(&server);
    begin(&a, &server, "good.test");
    RUN_UNTIL(loop, a.n_close == 1);
    assert_false(a.has_err);
    stop_any(&server);

    server = (struct server){.script = say_goodbye};
    a = (struct owner){.on_data = close_inside};
    connect_good(&a, &server);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_false(a.has_err);
    assert_int_equal(a.n_eof, 0);
    buf_free(&a.got);
    stop_any(&server);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_echo),
        T(test_early_writes_wait_for_the_handshake),
        T(test_a_server_that_sends_byte_by_byte),
        T(test_large_transfers_both_ways),
        T(test_a_kernel_that_takes_little),
        T(test_cork_collects_one_record),
        T(test_nothing_is_read_while_paused),
        T(test_data_behind_the_handshake_waits_for_the_reader),
        T(test_key_updates),
        T(test_many_key_updates_with_data_are_no_flood),
        T(test_renegotiation_is_refused),
        T(test_close_notify_is_eof_and_the_answer_still_goes),
        T(test_a_truncated_stream_is_an_error),
        T(test_reset),
        T(test_write_to_a_dead_peer),
        T(test_a_forged_record_breaks_it_after_the_good_ones),
        T(test_a_flood_of_key_updates_ends),
        T(test_shutdown_while_connecting),
        T(test_shutdown_does_not_cut_the_handshake),
        T(test_shutdown_comes_after_kept_bytes),
        T(test_close_with_kept_bytes_is_seen_as_a_cut),
        T(test_owner_may_close_in_callbacks),
    };
    return cmocka_run_group_tests(tests, make_cert_dir, drop_cert_dir);
}
