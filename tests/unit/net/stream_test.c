#include "net/net_help.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/stream.h"

/* An owner that writes down what its stream tells it. */
struct owner {
    struct stream stream;
    struct buf got;
    size_t largest; /* slice seen */
    int n_eof, n_connect, n_drain, n_close;
    bool is_inside; /* a call of ours into the stream: no callback may come */
    struct err err;
    bool has_err;
    void (*on_data)(struct owner *owner);
    void (*on_connect)(struct owner *owner);
    void (*on_drain)(struct owner *owner);
};

static struct loop *loop;
static int fds[2];

static struct owner *owner_of(struct stream *stream)
{
    struct owner *owner = container_of(stream, struct owner, stream);
    assert_false(owner->is_inside);
    assert_int_equal(owner->n_close, 0); /* on_close is the last */
    return owner;
}

static void on_data(struct stream *stream, struct slice bytes)
{
    struct owner *owner = owner_of(stream);
    assert_int_equal(owner->n_eof, 0);
    buf_slice(&owner->got, bytes);
    owner->largest = bytes.len > owner->largest ? bytes.len : owner->largest;
    if (owner->on_data)
        owner->on_data(owner);
}
static void on_eof(struct stream *stream)
{
    owner_of(stream)->n_eof++;
}
static void on_connect(struct stream *stream)
{
    struct owner *owner = owner_of(stream);
    owner->n_connect++;
    if (owner->on_connect)
        owner->on_connect(owner);
}
static void on_drain(struct stream *stream)
{
    struct owner *owner = owner_of(stream);
    assert_int_equal(stream_pending(stream), 0);
    owner->n_drain++;
    if (owner->on_drain)
        owner->on_drain(owner);
}
static void on_close(struct stream *stream, const struct err *err)
{
    struct owner *owner = owner_of(stream);
    assert_false(stream_is_open(stream));
    assert_int_equal(stream_write(stream, SLICE("late")), ERR);
    stream_close(stream);
    owner->n_close++;
    owner->has_err = err != NULL;
    if (err)
        owner->err = *err;
}

static const struct stream_events events = {on_data, on_eof, on_connect, on_drain, on_close};

static int setup(void **state UNUSED)
{
    fds[0] = fds[1] = -1;
    loop = loop_new();
    return 0;
}
static int teardown(void **state UNUSED)
{
    loop_free(loop);
    if (fds[1] >= 0)
        close(fds[1]);
    return 0;
}

static void open_on(struct owner *owner, int fd)
{
    stream_open(&owner->stream, loop, fd, &events);
    stream_read(&owner->stream, true);
}

static void end(struct owner *owner)
{
    owner->is_inside = true;
    stream_close(&owner->stream);
    stream_close(&owner->stream);
    owner->is_inside = false;
    if (owner->n_close == 0)
        loop_turn(loop, false);
    assert_int_equal(owner->n_close, 1);
    buf_free(&owner->got);
}

static enum status write_inside(struct owner *owner, struct slice bytes)
{
    owner->is_inside = true;
    enum status status = stream_write(&owner->stream, bytes);
    owner->is_inside = false;
    return status;
}

static void assert_peer_gets(struct slice expected)
{
    char got[256];
    assert_true(expected.len < sizeof(got));
    assert_int_equal(recv(fds[1], got, sizeof(got), 0), expected.len);
    assert_memory_equal(got, expected.ptr, expected.len);
}

static void assert_peer_gets_nothing(void)
{
    char byte;
    assert_int_equal(recv(fds[1], &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

static char *pattern(size_t len)
{
    char *bytes = xalloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + (i >> 8));
    return bytes;
}

/* ---- reading and writing ------------------------------------------------------------------------------- */

static void echo(struct owner *owner)
{
    assert_int_equal(stream_write(&owner->stream, buf_as_slice(&owner->got)), OK);
    buf_clear(&owner->got);
}

static void test_echo(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {.on_data = echo};
    open_on(&a, fds[0]);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(fds[1], "hello", 5), 5);
        loop_turn(loop, true);
        assert_peer_gets(SLICE("hello"));
    }
    assert_null(a.stream.out.ptr); /* what the kernel takes is never kept */
    end(&a);
    assert_false(a.has_err);
    assert_int_equal(a.n_drain, 0);
}

static void test_nothing_is_read_until_asked_and_while_paused(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {0};
    stream_open(&a.stream, loop, fds[0], &events);
    assert_int_equal(write(fds[1], "one", 3), 3);
    loop_turn(loop, false);
    assert_int_equal(a.got.len, 0);
    stream_read(&a.stream, true);
    loop_turn(loop, false);
    assert_int_equal(a.got.len, 3);
    stream_read(&a.stream, false);
    assert_int_equal(write(fds[1], "two", 3), 3);
    loop_turn(loop, false);
    assert_int_equal(a.got.len, 3);
    stream_read(&a.stream, true);
    loop_turn(loop, false);
    assert_int_equal(a.got.len, 6);
    end(&a);
}

static void test_two_streams_with_back_pressure_lose_nothing(void **state UNUSED)
{
    enum { LEN = 4 << 20 };
    char *bytes = pattern(LEN);
    unix_pair(fds);
    struct owner a = {0}, b = {0};
    open_on(&a, fds[0]);
    open_on(&b, fds[1]);
    fds[1] = -1; /* b's */
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN - 10)), AGAIN);
    assert_true(stream_pending(&a.stream) > 0);
    assert_int_equal(write_inside(&a, slice_of(bytes + LEN - 10, 10)), AGAIN);
    RUN_UNTIL(loop, b.got.len == LEN);
    assert_memory_equal(b.got.ptr, bytes, LEN);
    RUN_UNTIL(loop, a.n_drain == 1);
    assert_null(a.stream.out.ptr); /* an idle stream owns no memory */
    assert_true(b.largest <= 65536);
    assert_int_equal(write_inside(&a, SLICE("more")), OK);
    RUN_UNTIL(loop, b.got.len == LEN + 4);
    assert_int_equal(a.n_drain, 1);
    end(&a);
    RUN_UNTIL(loop, b.n_eof == 1);
    end(&b);
    free(bytes);
}

static void write_on_drain(struct owner *owner)
{
    static char block[1 << 20];
    while (owner->n_drain < 5)
        if (stream_write(&owner->stream, slice_of(block, sizeof(block))) == AGAIN)
            return;
}

static void test_owner_may_write_in_on_drain(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {.on_drain = write_on_drain}, b = {0};
    open_on(&a, fds[0]);
    open_on(&b, fds[1]);
    fds[1] = -1;
    write_on_drain(&a);
    RUN_UNTIL(loop, a.n_drain == 5);
    RUN_UNTIL(loop, b.got.len == 5 << 20);
    end(&a);
    end(&b);
}

static void test_cork_collects_and_uncork_sends_at_once(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    stream_cork(&a.stream, true);
    assert_int_equal(write_inside(&a, SLICE("one ")), AGAIN);
    assert_int_equal(write_inside(&a, SLICE("two ")), AGAIN);
    assert_int_equal(stream_pending(&a.stream), 8);
    assert_peer_gets_nothing();
    a.is_inside = true;
    stream_cork(&a.stream, false);
    a.is_inside = false;
    assert_int_equal(stream_pending(&a.stream), 0);
    assert_peer_gets(SLICE("one two "));
    loop_turn(loop, false);
    assert_int_equal(a.n_drain, 0); /* nothing is left: nothing owed */
    end(&a);
}

/* The buffers of held bytes are used again: nothing of the last answer may be in the next one's. */
static void test_held_bytes_go_to_their_peer_alone(void **state UNUSED)
{
    for (int i = 0; i < 3; i++) {
        unix_pair(fds);
        struct owner a = {0};
        char text[16];
        struct slice bytes = slice_of(text, (size_t)snprintf(text, sizeof text, "for peer %d", i));
        open_on(&a, fds[0]);
        stream_cork(&a.stream, true);
        assert_int_equal(write_inside(&a, bytes), AGAIN);
        stream_cork(&a.stream, false);
        assert_peer_gets(bytes);
        end(&a);
        close(fds[1]);
        fds[1] = -1;
    }
}

static void test_uncork_owes_a_drain_for_what_is_left(void **state UNUSED)
{
    enum { LEN = 4 << 20 };
    unix_pair(fds);
    struct owner a = {0}, b = {0};
    open_on(&a, fds[0]);
    open_on(&b, fds[1]);
    stream_read(&b.stream, true);
    char *bytes = xalloc(LEN);
    memset(bytes, 'x', LEN);
    stream_cork(&a.stream, true);
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN)), AGAIN);
    stream_cork(&a.stream, false);
    assert_true(stream_pending(&a.stream) > 0);
    RUN_UNTIL(loop, a.n_drain == 1);
    RUN_UNTIL(loop, b.got.len == LEN);
    assert_int_equal(stream_pending(&a.stream), 0);
    free(bytes);
    end(&a);
    end(&b);
}

/* ---- ends of many kinds -------------------------------------------------------------------------------- */

static void test_half_close_still_takes_an_answer(void **state UNUSED)
{
    tcp_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    assert_int_equal(write(fds[1], "request", 7), 7);
    assert_int_equal(shutdown(fds[1], SHUT_WR), 0);
    RUN_UNTIL(loop, a.n_eof == 1);
    assert_int_equal(a.got.len, 7);
    for (int i = 0; i < 5; i++)
        loop_turn(loop, false);
    assert_int_equal(a.n_eof, 1);
    assert_true(stream_is_open(&a.stream));
    assert_int_equal(write_inside(&a, SLICE("answer")), OK);
    assert_peer_gets(SLICE("answer"));
    stream_shutdown(&a.stream);
    assert_peer_gets(SLICE(""));
    end(&a);
    assert_false(a.has_err);
}

static void assert_reset_closes(struct owner *owner, const char *message)
{
    reset(fds[1]);
    fds[1] = -1;
    RUN_UNTIL(loop, owner->n_close == 1);
    assert_true(owner->has_err);
    assert_int_equal(owner->err.code, ERR_UNAVAILABLE);
    assert_string_equal(owner->err.message, message);
    buf_free(&owner->got);
}

static void test_reset_closes_a_reading_stream(void **state UNUSED)
{
    tcp_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    assert_reset_closes(&a, "read: Connection reset by peer");
}

static void test_reset_closes_a_paused_stream(void **state UNUSED)
{
    tcp_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    stream_read(&a.stream, false);
    assert_int_equal(write(fds[1], "unread", 6), 6);
    loop_turn(loop, false);
    assert_reset_closes(&a, "read: Connection reset by peer");
}

static void test_reset_after_fin_closes(void **state UNUSED)
{
    tcp_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    assert_int_equal(shutdown(fds[1], SHUT_WR), 0);
    RUN_UNTIL(loop, a.n_eof == 1);
    assert_reset_closes(&a, "read: Broken pipe"); /* what Linux makes of it */
}

/* A peer that closed both directions is one event, not a busy loop, and its bytes wait for the reader. */
static void test_hangup_of_a_paused_stream_keeps_the_bytes(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    stream_read(&a.stream, false);
    assert_int_equal(write(fds[1], "last words", 10), 10);
    close(fds[1]);
    fds[1] = -1;
    for (int i = 0; i < 5; i++)
        loop_turn(loop, false);
    assert_false(loop_turn(loop, false)); /* watched no more */
    assert_int_equal(a.got.len, 0);
    stream_read(&a.stream, true);
    RUN_UNTIL(loop, a.n_eof == 1);
    assert_int_equal(a.got.len, 10);
    assert_int_equal(a.n_close, 0);
    end(&a);
}

static void test_write_error_breaks_the_stream(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {0};
    stream_open(&a.stream, loop, fds[0], &events);
    close(fds[1]);
    fds[1] = -1;
    assert_int_equal(write_inside(&a, SLICE("x")), ERR);
    assert_false(stream_is_open(&a.stream));
    assert_int_equal(write_inside(&a, SLICE("x")), ERR);
    assert_int_equal(a.n_close, 0);
    loop_turn(loop, false);
    assert_int_equal(a.n_close, 1);
    assert_true(a.has_err);
    assert_string_equal(a.err.message, "write: Broken pipe");
}

static void test_shutdown_comes_after_kept_bytes(void **state UNUSED)
{
    enum { LEN = 2 << 20 };
    char *bytes = pattern(LEN);
    unix_pair(fds);
    struct owner a = {0}, b = {0};
    open_on(&a, fds[0]);
    open_on(&b, fds[1]);
    fds[1] = -1;
    assert_int_equal(write_inside(&a, slice_of(bytes, LEN)), AGAIN);
    stream_shutdown(&a.stream);
    RUN_UNTIL(loop, b.n_eof == 1);
    assert_int_equal(b.got.len, LEN);
    assert_int_equal(stream_write(&b.stream, SLICE("still open")), OK);
    RUN_UNTIL(loop, a.got.len == 10);
    assert_int_equal(write_inside(&a, SLICE("x")), ERR); /* misuse breaks it, it does not abort */
    end(&a);
    assert_string_equal(a.err.message, "write after shutdown: Broken pipe");
    end(&b);
    free(bytes);
}

static void close_inside(struct owner *owner)
{
    stream_close(&owner->stream);
    assert_int_equal(owner->n_close, 0);
}

static void test_owner_may_close_in_a_callback(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {.on_data = close_inside};
    open_on(&a, fds[0]);
    assert_int_equal(write(fds[1], "x", 1), 1);
    loop_turn(loop, true); /* on_close comes within the turn */
    assert_int_equal(a.n_close, 1);
    assert_false(a.has_err);
    buf_free(&a.got);
}

static int n_freed;

static void free_owner(struct stream *stream, const struct err *err UNUSED)
{
    buf_free(&owner_of(stream)->got);
    free(owner_of(stream));
    n_freed++;
}

static void test_owner_may_free_itself_in_on_close(void **state UNUSED)
{
    static const struct stream_events freeing = {on_data, on_eof, on_connect, on_drain, free_owner};
    unix_pair(fds);
    struct owner *a = xalloc(sizeof(*a));
    a->on_data = close_inside;
    stream_open(&a->stream, loop, fds[0], &freeing);
    stream_read(&a->stream, true);
    assert_int_equal(write(fds[1], "x", 1), 1);
    RUN_UNTIL(loop, n_freed == 1);
}

static void test_close_drops_kept_bytes_and_pending_drain(void **state UNUSED)
{
    unix_pair(fds);
    struct owner a = {0};
    open_on(&a, fds[0]);
    stream_cork(&a.stream, true);
    assert_int_equal(write_inside(&a, SLICE("dropped")), AGAIN);
    stream_close(&a.stream);
    assert_int_equal(stream_pending(&a.stream), 0);
    stream_cork(&a.stream, false);
    stream_read(&a.stream, true);
    stream_shutdown(&a.stream);
    end(&a);
    assert_int_equal(a.n_drain, 0);
    assert_peer_gets(SLICE("")); /* closed at once */
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

static int listen_on(struct addr *addr)
{
    int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr->sa, addr->len), 0);
    assert_int_equal(listen(fd, 8), 0);
    *addr = addr_of(fd);
    return fd;
}

static void write_first(struct owner *owner)
{
    assert_int_equal(stream_pending(&owner->stream), 5);
    assert_int_equal(stream_write(&owner->stream, SLICE(" late")), AGAIN); /* stays behind what was kept */
    stream_read(&owner->stream, true);
}

static void test_connect_sends_what_was_written_early(void **state UNUSED)
{
    struct addr addr = loopback(0);
    int listener = listen_on(&addr);
    struct owner a = {.on_connect = write_first};
    stream_connect(&a.stream, loop, &addr, &events);
    assert_int_equal(write_inside(&a, SLICE("early")), AGAIN);
    RUN_UNTIL(loop, a.n_connect == 1);
    assert_int_equal(a.n_drain, 1);
    fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_peer_gets(SLICE("early late"));
    assert_int_equal(write(fds[1], "hi", 2), 2);
    RUN_UNTIL(loop, a.got.len == 2);
    end(&a);
    close(listener);
}

static void test_shutdown_while_connecting(void **state UNUSED)
{
    struct addr addr = loopback(0);
    int listener = listen_on(&addr);
    struct owner a = {0};
    stream_connect(&a.stream, loop, &addr, &events);
    stream_shutdown(&a.stream);
    RUN_UNTIL(loop, a.n_connect == 1);
    fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_peer_gets(SLICE(""));
    end(&a);
    close(listener);
}

static void test_connect_refused_names_the_address(void **state UNUSED)
{
    struct addr addr = loopback(0);
    close(listen_on(&addr)); /* a port nobody listens on */
    struct owner a = {0};
    char where[ADDR_TEXT_MAX], expected[ADDR_TEXT_MAX + 64];
    addr_text(&addr, where);
    snprintf(expected, sizeof(expected), "connect to %s: Connection refused", where);
    a.is_inside = true;
    stream_connect(&a.stream, loop, &addr, &events);
    a.is_inside = false;
    assert_int_equal(a.n_close, 0);
    RUN_UNTIL(loop, a.n_close == 1);
    assert_true(a.has_err);
    assert_int_equal(a.err.code, ERR_UNAVAILABLE);
    assert_string_equal(a.err.message, expected);
    assert_int_equal(a.n_connect, 0);
}

static void test_connect_that_fails_at_once_closes_later(void **state UNUSED)
{
    struct addr addr;
    assert_int_equal(addr_unix("/nonexistent/x.sock", &addr, NULL), OK);
    struct owner a = {0};
    a.is_inside = true;
    stream_connect(&a.stream, loop, &addr, &events);
    a.is_inside = false;
    assert_int_equal(write_inside(&a, SLICE("x")), ERR);
    loop_turn(loop, true);
    assert_int_equal(a.n_close, 1);
    assert_string_equal(a.err.message, "connect to unix:/nonexistent/x.sock: No such file or directory");
}

static void test_close_while_connecting(void **state UNUSED)
{
    struct addr addr = loopback(0);
    int listener = listen_on(&addr);
    struct owner a = {0};
    stream_connect(&a.stream, loop, &addr, &events);
    assert_int_equal(write_inside(&a, SLICE("early")), AGAIN);
    end(&a);
    assert_false(a.has_err);
    assert_int_equal(a.n_connect, 0);
    close(listener);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_echo),
        T(test_nothing_is_read_until_asked_and_while_paused),
        T(test_two_streams_with_back_pressure_lose_nothing),
        T(test_owner_may_write_in_on_drain),
        T(test_held_bytes_go_to_their_peer_alone),
        T(test_uncork_owes_a_drain_for_what_is_left),
        T(test_cork_collects_and_uncork_sends_at_once),
        T(test_half_close_still_takes_an_answer),
        T(test_reset_closes_a_reading_stream),
        T(test_reset_closes_a_paused_stream),
        T(test_reset_after_fin_closes),
        T(test_hangup_of_a_paused_stream_keeps_the_bytes),
        T(test_write_error_breaks_the_stream),
        T(test_shutdown_comes_after_kept_bytes),
        T(test_owner_may_close_in_a_callback),
        T(test_owner_may_free_itself_in_on_close),
        T(test_close_drops_kept_bytes_and_pending_drain),
        T(test_connect_sends_what_was_written_early),
        T(test_shutdown_while_connecting),
        T(test_connect_refused_names_the_address),
        T(test_connect_that_fails_at_once_closes_later),
        T(test_close_while_connecting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
