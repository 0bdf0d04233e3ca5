/* Subscriptions against a scripted Redis: confirmations, gaps, refusals, readers that are slow, come late or leave. */
#include "redis_peer.h"

#include "data/redis_inbox.h"

#define SUB(name) "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\n" name "\r\n"
#define UNSUB(name) "*2\r\n$11\r\nUNSUBSCRIBE\r\n$1\r\n" name "\r\n"
#define SUBBED(name) "*3\r\n$9\r\nsubscribe\r\n$1\r\n" name "\r\n:1\r\n"
#define MESSAGE(name, text) "*3\r\n$7\r\nmessage\r\n$1\r\n" name "\r\n$1\r\n" text "\r\n"

struct log {
    char text[512];
    struct redis_sub *close; /* at the next message */
};

static void on_news(void *data, const struct redis_news *news)
{
    static const char *const names[] = {"ready", "message", "down", "gap", "failed"};
    struct log *log = data;
    size_t len = strlen(log->text);
    snprintf(log->text + len, sizeof log->text - len, "%s %.*s%s%.*s|", names[news->event], SLICE_FMT(news->channel),
             news->channel.len ? " " : "", SLICE_FMT(news->payload));
    if (log->close && news->event == REDIS_SUB_MESSAGE) {
        redis_sub_close(log->close);
        log->close = NULL;
    }
}

static struct redis_sub *subscribe(struct log *log, const char *a, const char *b)
{
    struct slice channels[] = {slice_str(a), slice_str(b)};
    return redis_subscribe(
        redis, &(struct redis_sub_opts){.channels = channels, .n_channels = b ? 2 : 1, .fn = on_news, .data = log});
}

static void shares_one_connection(void **state)
{
    (void)state;
    struct log one = {0}, two = {0}, three = {0};
    struct redis_sub *first = subscribe(&one, "a", "b"), *second = subscribe(&two, "a", NULL);
    int fd = welcome();
    reads(fd, SUB("a") SUB("b"));
    says(fd, SUBBED("a"));
    assert_string_equal(one.text, "");
    assert_string_equal(two.text, "ready |");
    says(fd, SUBBED("b") MESSAGE("a", "1") MESSAGE("b", "2"));
    assert_string_equal(one.text, "ready |message a 1|message b 2|");
    assert_string_equal(two.text, "ready |message a 1|");
    struct redis_sub *third = subscribe(&three, "a", "a");
    assert_true(redis_sub_is_ready(third));
    reads(fd, "");
    redis_sub_close(first);
    reads(fd, UNSUB("b"));
    says(fd, "*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:1\r\n" MESSAGE("b", "x") MESSAGE("a", "3"));
    assert_string_equal(three.text, "message a 3|");
    redis_sub_close(second);
    redis_sub_close(third);
    assert_true(is_closed(fd)); /* nobody is left */
    close(fd);
}

static void listens_again_after_a_loss(void **state)
{
    (void)state;
    struct log one = {0};
    struct redis_sub *sub = subscribe(&one, "a", NULL);
    int fd = welcome();
    says(fd, SUBBED("a"));
    close(fd);
    turns();
    assert_string_equal(one.text, "ready |down |");
    pass(100);
    fd = welcome();
    reads(fd, SUB("a"));
    assert_false(redis_sub_is_ready(sub));
    says(fd, SUBBED("a") MESSAGE("a", "1"));
    assert_string_equal(one.text, "ready |down |gap |message a 1|");
    pass(15000);
    reads(fd, "*1\r\n$4\r\nPING\r\n");
    says(fd, "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    pass(15000);
    pass(15000); /* nothing for 30 s, with two pings out */
    assert_non_null(strstr(one.text, "message a 1|down |"));
    close(fd);
    redis_sub_close(sub);
}

static void leaves_while_messages_are_handed_out(void **state)
{
    (void)state;
    struct log one = {0}, two = {0};
    struct redis_sub *first = subscribe(&one, "a", NULL), *second = subscribe(&two, "a", NULL);
    int fd = welcome();
    says(fd, SUBBED("a"));
    one.close = second; /* the next in line */
    says(fd, MESSAGE("a", "1"));
    assert_string_equal(two.text, "ready |");
    one.close = first; /* itself, and the last */
    says(fd, MESSAGE("a", "2"));
    assert_string_equal(one.text, "ready |message a 1|message a 2|");
    close(fd);
    struct redis_sub *third = subscribe(&two, "b", NULL); /* while the connection is closing */
    fd = welcome();
    reads(fd, SUB("b"));
    redis_sub_close(third);
    close(fd);
}

static void patterns_and_refusals(void **state)
{
    (void)state;
    struct log one = {0}, two = {0};
    struct redis_sub *bad = subscribe(&one, "x", NULL);
    struct slice pattern = SLICE("a*");
    struct redis_sub *sub = redis_subscribe(
        redis,
        &(struct redis_sub_opts){.channels = &pattern, .n_channels = 1, .patterns = true, .fn = on_news, .data = &two});
    int fd = welcome();
    reads(fd, SUB("x") "*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\na*\r\n");
    says(fd, "-NOPERM no\r\n*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n");
    assert_string_equal(one.text, "failed |");
    assert_string_equal(two.text, "ready |");
    says(fd, "*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$1\r\n1\r\n");
    assert_string_equal(two.text, "ready |message ab 1|");
    redis_sub_close(bad);
    redis_sub_close(sub);
    close(fd);
}

/* ---- inboxes ---- */

struct taken {
    int n_calls;
    char text[256];
    enum err_code code;
};

static void on_taken(void *data, const struct redis_news *news, const struct err *err)
{
    struct taken *taken = data;
    taken->n_calls++;
    taken->code = err ? err->code : ERR_NONE;
    snprintf(taken->text, sizeof taken->text, "%.*s",
             news && news->event == REDIS_SUB_MESSAGE ? (int)news->payload.len : 3,
             !news                          ? "nil"
             : news->event == REDIS_SUB_GAP ? "gap"
                                            : news->payload.ptr);
}

static struct redis_inbox *open_inbox(const char *channel, size_t max_messages)
{
    struct slice name = slice_str(channel);
    return redis_inbox_open(
        redis, &(struct redis_inbox_opts){.channels = &name, .n_channels = 1, .max_messages = max_messages});
}

static struct taken next(struct redis_inbox *inbox, uint64_t deadline_ms)
{
    static struct taken taken;
    taken = (struct taken){0};
    redis_inbox_next(inbox, deadline_ms, on_taken, &taken);
    assert_int_equal(taken.n_calls, 0); /* never from inside the call */
    turns();
    if (redis_inbox_is_waited_on(inbox))
        redis_inbox_cancel(inbox);
    return taken;
}

static void inbox_keeps_order(void **state)
{
    (void)state;
    struct taken ready = {0}, later = {0};
    struct redis_inbox *inbox = open_inbox("a", 0);
    redis_inbox_wait_ready(inbox, now_ms + 1000, on_taken, &ready);
    int fd = welcome();
    assert_int_equal(ready.n_calls, 0);
    says(fd, SUBBED("a"));
    assert_int_equal(ready.n_calls, 1);
    assert_int_equal(ready.code, ERR_NONE);
    says(fd, MESSAGE("a", "1") MESSAGE("a", "2"));
    assert_string_equal(next(inbox, 0).text, "1");
    assert_string_equal(next(inbox, 0).text, "2");
    assert_int_equal(next(inbox, 0).n_calls, 0);
    redis_inbox_next(inbox, now_ms + 50, on_taken, &later);
    pass(50);
    assert_int_equal(later.n_calls, 1);
    assert_string_equal(later.text, "nil");
    redis_inbox_next(inbox, now_ms + 50, on_taken, &later);
    says(fd, MESSAGE("a", "3"));
    assert_string_equal(later.text, "3");
    redis_inbox_close(inbox);
    close(fd);
}

static void inbox_drops_the_slow(void **state)
{
    (void)state;
    struct redis_inbox *inbox = open_inbox("a", 2);
    int fd = welcome();
    says(fd, SUBBED("a") MESSAGE("a", "1") MESSAGE("a", "2"));
    says(fd, MESSAGE("a", "3"));
    assert_int_equal(next(inbox, 0).code, ERR_QUEUE_FULL);
    assert_int_equal(next(inbox, 0).code, ERR_QUEUE_FULL); /* for good */
    assert_true(is_closed(fd));
    redis_inbox_close(inbox);
    close(fd);
}

static void inbox_that_was_late_begins_with_a_gap(void **state)
{
    (void)state;
    struct taken ready = {0};
    struct redis_inbox *inbox = open_inbox("a", 0);
    int fd = accept_one();
    redis_inbox_wait_ready(inbox, now_ms + 1000, on_taken, &ready);
    close(fd);
    turns();
    assert_int_equal(ready.code, ERR_UNAVAILABLE); /* at once: the caller need not wait for what may take long */
    pass(100);
    fd = welcome();
    says(fd, SUBBED("a") MESSAGE("a", "1"));
    assert_string_equal(next(inbox, 0).text, "gap");
    assert_string_equal(next(inbox, 0).text, "1");
    redis_inbox_close(inbox);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(shares_one_connection),
        TEST(listens_again_after_a_loss),
        TEST(leaves_while_messages_are_handed_out),
        TEST(patterns_and_refusals),
        TEST(inbox_keeps_order),
        TEST(inbox_drops_the_slow),
        TEST(inbox_that_was_late_begins_with_a_gap),
    };
    return run_peer_tests(tests, ARRAY_LEN(tests));
}
