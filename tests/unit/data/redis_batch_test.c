/* Several commands with one completion: transactions, scripts and batches against a scripted Redis. */
#include "redis_peer.h"

/* ---- transactions and scripts ---- */

static struct redis_op *multi(struct outcome *outcome, uint64_t deadline_ms)
{
    static const struct slice set[] = {{"SET", 3}, {"k", 1}, {"v", 1}}, incr[] = {{"INCR", 4}, {"n", 1}};
    struct redis_argv commands[] = {{set, 3}, {incr, 2}};
    *outcome = (struct outcome){0};
    return redis_multi(
        redis,
        &(struct redis_multi_call){
            .commands = commands, .n_commands = 2, .deadline_ms = deadline_ms, .done = on_done, .data = outcome});
}
#define MULTI                                                                                                          \
    "*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$"             \
    "4\r\nEXEC\r\n"

static void transaction_is_one_run_of_bytes(void **state)
{
    (void)state;
    struct outcome before = {0}, tx = {0}, after = {0};
    command(&before, 0, "GET a");
    multi(&tx, 0);
    command(&after, 0, "GET b");
    reads(peer, "*2\r\n$3\r\nGET\r\n$1\r\na\r\n" MULTI "*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
    says(peer, "$1\r\n1\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_int_equal(tx.n_calls, 0);
    says(peer, "*2\r\n+OK\r\n:7\r\n$1\r\n2\r\n");
    assert_int_equal(tx.n_calls, 1);
    assert_int_equal(tx.type, REDIS_ARRAY);
    assert_string_equal(after.text, "2");
}

static void transaction_tells_why_it_was_not_queued(void **state)
{
    (void)state;
    struct outcome tx = {0}, next = {0};
    multi(&tx, 0);
    command(&next, 0, "GET b");
    turns();
    says(peer, "+OK\r\n-ERR unknown command\r\n+QUEUED\r\n-EXECABORT discarded\r\n$1\r\n2\r\n");
    assert_int_equal(tx.code, ERR_REDIS);
    assert_string_equal(tx.text, "ERR unknown command");
    assert_string_equal(next.text, "2");
    multi(&tx, 0);
    turns();
    says(peer, "-NOPERM no\r\n+OK\r\n:1\r\n-ERR EXEC without MULTI\r\n");
    assert_int_equal(tx.code, ERR_OUTCOME_UNKNOWN);
}

/* All of it or nothing, also when it is forgotten before it was sent. */
static void transaction_is_dropped_as_a_whole(void **state)
{
    (void)state;
    struct outcome gone = {0}, flying = {0}, next = {0};
    redis_op_cancel(multi(&gone, 0)); /* before it was sent */
    command(&next, 0, "GET k");
    reads(peer, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    says(peer, "$1\r\nv\r\n");
    multi(&flying, now_ms + 50);
    command(&next, 0, "GET k");
    turns();
    pass(50);
    assert_int_equal(flying.code, ERR_OUTCOME_UNKNOWN);
    says(peer, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n$1\r\nw\r\n");
    assert_string_equal(next.text, "w");
    assert_int_equal(gone.n_calls, 0);
}

static struct redis_op *run_script(struct outcome *outcome)
{
    static struct redis_script script;
    struct slice key = SLICE("k"), arg = SLICE("a");
    redis_script_create(&script, SLICE("return 1"));
    *outcome = (struct outcome){0};
    return redis_script_run(
        redis, &script,
        &(struct redis_script_call){
            .keys = &key, .n_keys = 1, .args = &arg, .n_args = 1, .done = on_done, .data = outcome});
}
#define EVALSHA                                                                                                        \
    "*5\r\n$7\r\nEVALSHA\r\n$40\r\ne0e1f9fabfc9d4800c877a703b823ac0578ff8db\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\na\r\n"
#define EVAL "*5\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\na\r\n"

static void script_falls_back_to_its_text(void **state)
{
    (void)state;
    struct outcome a = {0}, other = {0};
    run_script(&a);
    command(&other, 0, "GET k");
    reads(peer, EVALSHA "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    says(peer, "-NOSCRIPT No matching script\r\n");
    assert_int_equal(a.n_calls, 0);
    says(peer, "$1\r\nv\r\n");
    assert_string_equal(other.text, "v");
    reads(peer, EVAL);
    says(peer, "-NOSCRIPT nor this\r\n"); /* no second time */
    assert_int_equal(a.code, ERR_REDIS);
    struct redis_op *op = run_script(&a);
    turns();
    redis_op_cancel(op);
    says(peer, "-NOSCRIPT No matching script\r\n"); /* nobody waits: nothing is run */
    reads(peer, EVALSHA);
    assert_int_equal(a.n_calls, 0);
}

/* ---- batches ---- */

struct batch_outcome {
    int n_calls;
    enum err_code code;
    char text[1024]; /* the values, one after the other */
};

static void render(char *out, size_t cap, const struct redis_value *value)
{
    size_t len = strlen(out);
    switch (value->type) {
    case REDIS_NIL:
        snprintf(out + len, cap - len, "nil ");
        return;
    case REDIS_INTEGER:
        snprintf(out + len, cap - len, "%d ", (int)value->integer);
        return;
    case REDIS_STRING:
    case REDIS_STATUS:
        snprintf(out + len, cap - len, "%.*s ", SLICE_FMT(value->str));
        return;
    case REDIS_ERROR:
        snprintf(out + len, cap - len, "!%.*s ", SLICE_FMT(value->str));
        return;
    case REDIS_ARRAY:
        snprintf(out + len, cap - len, "[ ");
        for (size_t i = 0; i < value->n_items; i++)
            render(out, cap, &value->items[i]);
        len = strlen(out);
        snprintf(out + len, cap - len, "] ");
        return;
    }
}

static void on_batch(void *data, const struct redis_value *values, size_t n_values, const struct err *err)
{
    struct batch_outcome *outcome = data;
    outcome->n_calls++;
    outcome->code = err ? err->code : ERR_NONE;
    for (size_t i = 0; i < n_values; i++)
        render(outcome->text, sizeof outcome->text, &values[i]);
}

/* Three commands of one word each. */
static struct redis_batch *batch(struct batch_outcome *outcome, const char *a, const char *b, const char *c)
{
    struct slice words[] = {slice_str(a), slice_str(b), slice_str(c)};
    struct redis_argv commands[] = {{&words[0], 1}, {&words[1], 1}, {&words[2], 1}};
    *outcome = (struct batch_outcome){0};
    return redis_pipeline(
        redis, &(struct redis_batch_call){.commands = commands, .n_commands = 3, .done = on_batch, .data = outcome});
}

static void batch_keeps_values_until_the_last(void **state)
{
    (void)state;
    struct batch_outcome got;
    batch(&got, "PING", "TIME", "DBSIZE");
    reads(peer, "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nTIME\r\n*1\r\n$6\r\nDBSIZE\r\n");
    says(peer, "*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n*0\r\n");
    says(peer, "-ERR no such thing\r\n");
    assert_int_equal(got.n_calls, 0);
    says(peer, ":7\r\n");
    assert_int_equal(got.n_calls, 1);
    assert_string_equal(got.text, "[ a [ 1 nil ] [ ] ] !ERR no such thing 7 ");
}

static void batch_is_refused_as_a_whole(void **state)
{
    (void)state;
    struct batch_outcome got;
    batch(&got, "PING", "MULTI", "DBSIZE");
    assert_int_equal(got.n_calls, 0);
    reads(peer, "");
    assert_int_equal(got.n_calls, 1);
    assert_int_equal(got.code, ERR_REFUSED);
}

static void batch_fails_once(void **state)
{
    (void)state;
    struct batch_outcome got;
    batch(&got, "PING", "FLUSHALL", "DBSIZE");
    turns();
    says(peer, "+PONG\r\n");
    shutdown(peer, SHUT_RDWR);
    turns();
    assert_int_equal(got.n_calls, 1);
    assert_int_equal(got.code, ERR_OUTCOME_UNKNOWN);
    assert_string_equal(got.text, "");
}

static void batch_can_be_cancelled(void **state)
{
    (void)state;
    struct batch_outcome got;
    struct outcome after = {0};
    struct redis_batch *handle = batch(&got, "PING", "TIME", "DBSIZE");
    turns();
    says(peer, "+PONG\r\n");
    redis_batch_cancel(handle);
    command(&after, 0, "GET k");
    turns();
    says(peer, ":1\r\n:2\r\n$1\r\nk\r\n");
    assert_int_equal(got.n_calls, 0);
    assert_string_equal(after.text, "k");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(transaction_is_one_run_of_bytes),
        TEST(transaction_tells_why_it_was_not_queued),
        TEST(transaction_is_dropped_as_a_whole),
        TEST(script_falls_back_to_its_text),
        TEST(batch_keeps_values_until_the_last),
        TEST(batch_is_refused_as_a_whole),
        TEST(batch_fails_once),
        TEST(batch_can_be_cancelled),
    };
    return run_peer_tests(tests, ARRAY_LEN(tests));
}
