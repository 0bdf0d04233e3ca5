/* chowk's side of SMTP against a scripted server on loopback: every byte, and what is made of every answer. */
#include "data/mail.h"

#include "../net/net_help.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/names.h"

static struct loop *loop;
static struct names *names;
static struct mail *mail;
static int listener, peer;

struct outcome {
    int n_calls;
    struct err err;
};

static void on_done(void *data, const struct err *err)
{
    struct outcome *outcome = data;
    outcome->n_calls++;
    outcome->err = err ? *err : (struct err){0};
}

static void open_mail(const char *user, bool is_clear)
{
    char url[96];
    struct addr at = addr_of(listener);
    snprintf(url, sizeof url, "smtp://%s127.0.0.1:%d", user, ntohs(((struct sockaddr_in *)&at.sa)->sin_port));
    mail = mail_new(&(struct mail_opts){.loop = loop, .names = names, .url = url, .is_clear = is_clear}, NULL);
    assert_non_null(mail);
}

static struct mail_op *send_to(struct outcome *outcome, const char *to, const char *text)
{
    struct slice list[] = {slice_str(to), SLICE("second@example.test")};
    *outcome = (struct outcome){0};
    return mail_send(mail, &(struct mail_message){.from = SLICE("shop@example.test"),
                                                  .to = list,
                                                  .n_to = strcmp(to, "two@example.test") == 0 ? 2 : 1,
                                                  .text = slice_str(text),
                                                  .timeout_ms = 5000,
                                                  .done = on_done,
                                                  .data = outcome});
}

static void accept_peer(void)
{
    peer = -1;
    RUN_UNTIL(loop, (peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

/* The next line, or lines up to `end`. */
static void hears(const char *expected)
{
    char got[4096] = "";
    size_t len = 0, want = strlen(expected);
    struct guard guard = {0};
    timer_arm(loop, &guard.timer, loop_now(loop) + 10000, on_guard);
    while (len < want && !guard.has_fired) {
        loop_turn(loop, false);
        ssize_t n = recv(peer, got + len, want - len, MSG_DONTWAIT);
        len += n > 0 ? (size_t)n : 0;
        if (n == 0)
            break;
    }
    timer_stop(loop, &guard.timer);
    got[len] = '\0';
    assert_string_equal(got, expected);
}

static void hears_line(const char *start)
{
    char got[512] = "";
    hears(start);
    for (size_t len = 0; len == 0 || got[len - 1] != '\n';) {
        loop_turn(loop, false);
        ssize_t n = recv(peer, got + len, 1, MSG_DONTWAIT);
        assert_true(n != 0 && len < sizeof got - 1);
        len += n > 0 ? 1 : 0;
    }
}

static void says(const char *text)
{
    assert_int_equal(send(peer, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void hears_end(void)
{
    char rest[64];
    ssize_t n = -1;
    RUN_UNTIL(loop, (n = recv(peer, rest, sizeof rest, MSG_DONTWAIT)) >= 0);
    assert_int_equal(n, 0);
    close(peer);
    peer = -1;
}

static void welcome(void)
{
    accept_peer();
    says("220 mx.test\r\n");
    hears_line("EHLO ");
    says("250-mx.test\r\n250 AUTH PLAIN LOGIN\r\n");
}

static void envelope(const char *to)
{
    char line[128];
    hears("MAIL FROM:<shop@example.test>\r\n");
    says("250 ok\r\n");
    snprintf(line, sizeof line, "RCPT TO:<%s>\r\n", to);
    hears(line);
}

#define ENDS(outcome, expected)                                                                                        \
    do {                                                                                                               \
        RUN_UNTIL(loop, (outcome).n_calls == 1);                                                                       \
        assert_int_equal((outcome).err.code, expected);                                                                \
    } while (0)

static int setup(void **state UNUSED)
{
    struct addr any = loopback(0);
    loop = loop_new();
    names = names_new(loop);
    peer = -1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return bind(listener, (struct sockaddr *)&any.sa, any.len) == 0 && listen(listener, 8) == 0 ? 0 : -1;
}

static int teardown(void **state UNUSED)
{
    mail_free(mail);
    mail = NULL;
    names_free(names);
    loop_run(loop);
    loop_free(loop);
    close(listener);
    if (peer >= 0)
        close(peer);
    return 0;
}

static void test_two_messages_on_one_connection(void **state UNUSED)
{
    struct outcome first, second;
    open_mail("", true);
    send_to(&first, "two@example.test", "A: b\r\n\r\n.\r\n..x\r\nend\r\n");
    welcome();
    envelope("two@example.test");
    says("250 ok\r\n");
    hears("RCPT TO:<second@example.test>\r\n");
    says("25");
    loop_turn(loop, false);
    says("0 ok\r\n");
    hears("DATA\r\n");
    says("354 go on\r\n");
    hears("A: b\r\n\r\n..\r\n...x\r\nend\r\n.\r\n");
    says("250 taken\r\n");
    ENDS(first, ERR_NONE);
    send_to(&second, "b@example.test", "x\r\n");
    envelope("b@example.test");
    says("250 ok\r\n");
    hears("DATA\r\n");
    says("354 go on\r\n");
    hears("x\r\n.\r\n");
    says("250 taken\r\n");
    ENDS(second, ERR_NONE);
    mail_free(mail);
    mail = NULL;
    hears("QUIT\r\n");
    hears_end();
}

static void test_a_refusal_leaves_the_connection(void **state UNUSED)
{
    struct outcome refused, later, good;
    open_mail("", true);
    send_to(&refused, "a@example.test", "x\r\n");
    welcome();
    envelope("a@example.test");
    says("550 5.1.1 unknown\r\n");
    hears("RSET\r\n");
    says("250 ok\r\n");
    ENDS(refused, ERR_MAIL_REFUSED);
    assert_non_null(strstr(refused.err.message, "a@example.test: 550 5.1.1 unknown"));
    send_to(&later, "b@example.test", "x\r\n");
    envelope("b@example.test");
    says("250 ok\r\n");
    hears("DATA\r\n");
    says("354 go on\r\n");
    hears("x\r\n.\r\n");
    says("452 full\r\n");
    hears("RSET\r\n");
    says("250 ok\r\n");
    ENDS(later, ERR_UNAVAILABLE);
    struct mail_op *op = send_to(&good, "c@example.test", "x\r\n");
    envelope("c@example.test");
    mail_cancel(op);
    hears_end();
    assert_int_equal(good.n_calls, 0);
}

static void test_nothing_in_clear_follows_starttls(void **state UNUSED)
{
    struct outcome outcome;
    open_mail("u:p@", false);
    send_to(&outcome, "a@example.test", "x\r\n");
    accept_peer();
    says("220 mx.test\r\n");
    hears_line("EHLO ");
    says("250-mx.test\r\n250 STARTTLS\r\n");
    hears("STARTTLS\r\n");
    says("220 go\r\n250 injected\r\n");
    hears_end();
    ENDS(outcome, ERR_UNAVAILABLE);
    assert_non_null(strstr(outcome.err.message, "out of turn"));
}

static void test_no_starttls_no_mail(void **state UNUSED)
{
    struct outcome outcome;
    open_mail("u:p@", false);
    send_to(&outcome, "a@example.test", "x\r\n");
    welcome();
    hears_end();
    ENDS(outcome, ERR_UNAVAILABLE);
    assert_non_null(strstr(outcome.err.message, "STARTTLS"));
}

static void test_logins(void **state UNUSED)
{
    struct outcome outcome;
    open_mail("us%40er:pass@", true);
    struct mail_op *op = send_to(&outcome, "a@example.test", "x\r\n");
    welcome();
    hears("AUTH PLAIN AHVzQGVyAHBhc3M=\r\n");
    mail_cancel(op);
    hears_end();
    send_to(&outcome, "a@example.test", "x\r\n");
    accept_peer();
    says("220 mx.test\r\n");
    hears_line("EHLO ");
    says("250-mx.test\r\n250 AUTH LOGIN\r\n");
    hears("AUTH LOGIN\r\n");
    says("334 VXNlcm5hbWU6\r\n");
    hears("dXNAZXI=\r\n");
    says("334 UGFzc3dvcmQ6\r\n");
    hears("cGFzcw==\r\n");
    says("535 5.7.8 no\r\n");
    hears_end();
    ENDS(outcome, ERR_UNAVAILABLE);
    assert_non_null(strstr(outcome.err.message, "the login was refused: 535"));
}

/* A kept connection that dies before the text went out costs nothing, one that dies after it is not tried again. */
static void test_what_may_be_sent_again(void **state UNUSED)
{
    struct outcome outcome;
    open_mail("", true);
    send_to(&outcome, "a@example.test", "x\r\n");
    welcome();
    envelope("a@example.test");
    says("550 no\r\n");
    hears("RSET\r\n");
    says("250 ok\r\n");
    ENDS(outcome, ERR_MAIL_REFUSED);
    send_to(&outcome, "b@example.test", "x\r\n");
    envelope("b@example.test");
    says("421 closing\r\n");
    hears_end();
    welcome(); /* another connection */
    envelope("b@example.test");
    says("250 ok\r\n");
    hears("DATA\r\n");
    says("354 go on\r\n");
    hears("x\r\n.\r\n");
    close(peer);
    peer = -1;
    ENDS(outcome, ERR_OUTCOME_UNKNOWN);
    struct mail_stats stats;
    mail_stats(mail, &stats);
    assert_int_equal(stats.failed, 2);
    assert_int_equal(stats.active + stats.waiting, 0);
    for (int i = 0; i < 8; i++)
        loop_turn(loop, false);
    assert_int_equal(accept4(listener, NULL, NULL, SOCK_NONBLOCK), -1);
}

static void test_addresses(void **state UNUSED)
{
    static const char *const good[] = {"a@b", "first.last+tag@sub.example.test", "o'brien@example.test"};
    static const char *const bad[] = {"",
                                      "@b.test",
                                      "a@",
                                      "ab",
                                      "a@b@c",
                                      "a b@c.test",
                                      "<a@b.test",
                                      "a@b.test>",
                                      "a,b@c.test",
                                      "a@b.test\r\nX",
                                      "\xC3\xBC@b.test",
                                      "a\"b@c.test",
                                      "a@b;c"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_null(mail_address_flaw(slice_str(good[i])));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_non_null(mail_address_flaw(slice_str(bad[i])));
    assert_non_null(mail_address_flaw(slice_of("a@b\0c", 5)));
}

static void test_urls(void **state UNUSED)
{
    static const char *const bad[] = {"http://x/", "smtp://", "mx.test", "smtp://mx:99999", "smtp://mx:0"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = {0};
        assert_null(mail_new(&(struct mail_opts){.loop = loop, .names = names, .url = bad[i]}, &err));
        assert_int_equal(err.code, ERR_INVALID);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_two_messages_on_one_connection),
        T(test_a_refusal_leaves_the_connection),
        T(test_nothing_in_clear_follows_starttls),
        T(test_no_starttls_no_mail),
        T(test_logins),
        T(test_what_may_be_sent_again),
        T(test_addresses),
        T(test_urls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
