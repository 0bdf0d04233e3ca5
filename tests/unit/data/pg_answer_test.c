/* The reading of answers against a scripted server on a Unix socket: whatever cut they arrive in, and whatever does not
 * belong there. What is sent is looked at only as far as a script must wait for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/pg.h"

static struct loop *loop;
static struct names *names;
static struct pg *pg;
static char dir[] = "/tmp/pg_answer_test.XXXXXX";
static char path[64];
static int listener, peer;
static struct buf script;

struct box {
    int n_done;
    bool is_ok;
    struct err err;
    char json[256];
};

static void on_done(void *data, const struct pg_result *result, const struct err *err)
{
    struct box *box = data;
    box->n_done++;
    box->is_ok = !err;
    if (err) {
        box->err = *err;
        return;
    }
    struct buf json = {0};
    pg_result_json(result, &json);
    snprintf(box->json, sizeof(box->json), "%.*s", (int)json.len, json.ptr);
    buf_free(&json);
}

static void ask(struct box *box, const char *sql)
{
    *box = (struct box){0};
    struct pg_call call = {.sql = slice_str(sql), .deadline_ms = loop_now(loop) + 60000, .done = on_done, .data = box};
    pg_query(pg, &call);
}

/* ---- the server ----------------------------------------------------------------------------------------------- */

/* Appends a message whose body is given as it is. */
static void say(char type, const char *body, size_t len)
{
    uint32_t wire = htonl((uint32_t)len + 4);
    buf_byte(&script, type);
    buf_append(&script, &wire, sizeof(wire));
    buf_append(&script, body, len);
}
#define SAY(type, literal) say(type, literal, sizeof(literal) - 1)

static void send_now(const char *ptr, size_t len)
{
    assert_int_equal(send(peer, ptr, len, MSG_NOSIGNAL), (ssize_t)len);
    for (int i = 0; i < 4; i++)
        loop_turn(loop, false);
}

static void send_script(void)
{
    send_now(script.ptr, script.len);
    buf_clear(&script);
}

/* Turns the loop until something came from the client. */
static void hear(void)
{
    char got[8192];
    uint64_t guard_ms = clock_ms() + 30000;
    while (recv(peer, got, sizeof(got), MSG_DONTWAIT) <= 0) {
        assert_true(clock_ms() < guard_ms);
        loop_turn(loop, false);
    }
}

/* Takes a connection and lets it in. */
static void welcome(void)
{
    uint64_t guard_ms = clock_ms() + 30000;
    while ((peer = accept(listener, NULL, NULL)) < 0) {
        assert_true(clock_ms() < guard_ms);
        loop_turn(loop, false);
    }
    hear();
    SAY('R', "\0\0\0\0");
    SAY('S', "DateStyle\0ISO, DMY\0");
    SAY('S', "TimeZone\0UTC\0");
    SAY('K', "\0\0\0\1\0\0\0\2");
    SAY('Z', "I");
    send_script();
}

#define COLUMN(name, oid) name "\0\0\0\0\0\0\0" oid "\0\4\377\377\377\377\0\0"
#define INT4 "\0\0\0\x17"

/* The answer to an unprepared SELECT of one int4 column `n`, with these rows. */
static void say_select(const char *row)
{
    SAY('1', "");
    SAY('2', "");
    SAY('T', "\0\1" COLUMN("n", INT4));
    SAY('D', "\0\1\0\0\0\1"
             "7");
    if (row)
        say('D', row, strlen(row));
    SAY('C', "SELECT 1\0");
}

static int set_up(void **state)
{
    (void)state;
    struct err err;
    char url[128];
    log_open(STDERR_FILENO, LOG_ERROR, false, NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(path, sizeof(path), "%s/.s.PGSQL.5432", dir);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    unlink(path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 8), 0);
    loop = loop_new();
    names = names_new(loop);
    snprintf(url, sizeof(url), "postgresql:///db?host=%s&user=u", dir);
    pg = pg_new(&(struct pg_opts){.loop = loop,
                                  .names = names,
                                  .url = url,
                                  .read_connections = 1,
                                  .write_connections = 1,
                                  .tx_connections = 1,
                                  .max_result_bytes = 1000},
                &err);
    return pg ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    pg_free(pg);
    loop_turn(loop, false);
    names_free(names);
    loop_free(loop);
    close(peer);
    close(listener);
    unlink(path);
    buf_free(&script);
    return 0;
}

/* ---- what is understood ------------------------------------------------------------------------------------------ */

static void test_messages_in_any_cut(void **state)
{
    (void)state;
    for (size_t cut = 1; cut < 40; cut += 3) {
        struct box box;
        ask(&box, "SELECT 7 AS n");
        if (cut == 1)
            welcome();
        hear();
        if (cut == 1) {
            say_select(NULL);
        } else { /* prepared by the second time, and from then on without a description */
            if (cut == 4) {
                SAY('1', "");
                SAY('t', "\0\0");
                SAY('T', "\0\1" COLUMN("n", INT4));
            }
            SAY('2', "");
            SAY('D', "\0\1\0\0\0\1"
                     "7");
            SAY('C', "SELECT 1\0");
        }
        SAY('Z', "I");
        for (size_t at = 0; at < script.len; at += cut)
            send_now(script.ptr + at, script.len - at < cut ? script.len - at : cut);
        buf_clear(&script);
        assert_int_equal(box.n_done, 1);
        assert_true(box.is_ok);
        assert_string_equal(box.json, "[{\"n\":7}]");
    }
}

static void test_what_may_come_in_between(void **state)
{
    (void)state;
    struct box box;
    ask(&box, "SELECT 7 AS n");
    welcome();
    hear();
    SAY('N', "SNOTICE\0VNOTICE\0C00000\0Mwell\0\0");
    SAY('S', "application_name\0other\0");
    SAY('1', "");
    SAY('A', "\0\0\0\1news\0x\0");
    SAY('2', "");
    SAY('T', "\0\1" COLUMN("n", INT4));
    SAY('D', "\0\1\377\377\377\377");
    SAY('N', "SNOTICE\0VNOTICE\0C00000\0Magain\0\0");
    SAY('C', "SELECT 1\0");
    SAY('Z', "I");
    send_script();
    assert_true(box.is_ok);
    assert_string_equal(box.json, "[{\"n\":null}]");
}

static void test_an_error_is_its_statement_s(void **state)
{
    (void)state;
    struct box box;
    ask(&box, "SELECT 7 AS n");
    welcome();
    hear();
    SAY('1', "");
    SAY('E', "SFEHLER\0VERROR\0C22012\0Mdivision by zero\0Hdo not\0\0");
    SAY('Z', "I");
    send_script();
    assert_int_equal(box.n_done, 1);
    assert_false(box.is_ok);
    assert_string_equal(box.err.sqlstate, "22012");
    assert_string_equal(box.err.message, "division by zero");
    assert_string_equal(box.err.detail, "hint: do not");
    assert_true(pg_is_up(pg));
}

static void test_too_long_a_result_is_dropped_as_it_comes(void **state)
{
    (void)state;
    struct box box;
    ask(&box, "SELECT 7 AS n");
    welcome();
    hear();
    say_select(NULL);
    script.len -= sizeof("SELECT 1") + 5; /* its end comes later */
    send_script();
    char *huge = xalloc(3 << 20);
    uint32_t wire = htonl((3 << 20) + 4);
    send_now("D", 1);
    send_now((char *)&wire, sizeof(wire));
    for (size_t at = 0; at < 3 << 20; at += 4096)
        send_now(huge + at, 4096);
    free(huge);
    SAY('D', "\0\1\0\0\0\1"
             "8");
    SAY('C', "SELECT 3\0");
    SAY('Z', "I");
    send_script();
    assert_int_equal(box.n_done, 1);
    assert_int_equal(box.err.code, ERR_REFUSED);
    assert_non_null(strstr(box.err.message, "max_result_bytes"));
    ask(&box, "SELECT 8 AS n"); /* on the same connection */
    hear();
    say_select(NULL);
    SAY('Z', "I");
    send_script();
    assert_string_equal(box.json, "[{\"n\":7}]");
}

/* ---- what closes the connection ------------------------------------------------------------------------------------
 */

/* The server answers a write with `bytes`: nobody may be told that it succeeded, or that it surely did not. */
static void assert_lost(const char *what, const char *bytes, size_t len)
{
    struct box box;
    char sql[128];
    snprintf(sql, sizeof(sql), "UPDATE t SET n = 1 RETURNING n -- %s", what); /* a text seen twice is prepared first */
    ask(&box, sql);
    welcome();
    hear();
    send_now(bytes, len);
    for (int i = 0; i < 4; i++)
        loop_turn(loop, false);
    if (box.n_done != 1 || box.is_ok || box.err.code != ERR_OUTCOME_UNKNOWN)
        fail_msg("%s: %d, %s", what, box.n_done, box.is_ok ? "succeeded" : box.err.message);
    close(peer);
    peer = -1;
}
#define ASSERT_LOST(what, literal) assert_lost(what, literal, sizeof(literal) - 1)
#define BEGUN                                                                                                          \
    "1\0\0\0\x04"                                                                                                      \
    "2\0\0\0\x04"
#define ONE_COLUMN "T\0\0\0\x1a\0\1" COLUMN("n", INT4)

static void test_what_is_out_of_step_closes(void **state)
{
    (void)state;
    welcome(); /* the pool's first connection is for reads, and stays */
    int reader = peer;
    ASSERT_LOST("an unknown type", BEGUN "x\0\0\0\x04");
    ASSERT_LOST("a length below its own", BEGUN "C\0\0\0\3");
    ASSERT_LOST("a length beyond reason", BEGUN "C\177\377\377\377");
    ASSERT_LOST("a negative length", BEGUN "C\377\377\377\377");
    ASSERT_LOST("rows without columns", BEGUN "D\0\0\0\x0b\0\1\0\0\0\1"
                                              "7");
    ASSERT_LOST("a row with more values", BEGUN ONE_COLUMN "D\0\0\0\x10\0\2\0\0\0\1"
                                                           "7\0\0\0\1"
                                                           "8");
    ASSERT_LOST("a value over its row", BEGUN ONE_COLUMN "D\0\0\0\x0b\0\1\0\0\0\2"
                                                         "7");
    ASSERT_LOST("a value of negative length", BEGUN ONE_COLUMN "D\0\0\0\x0b\0\1\377\377\377\376"
                                                               "7");
    ASSERT_LOST("bytes behind a row", BEGUN ONE_COLUMN "D\0\0\0\x0c\0\1\0\0\0\1"
                                                       "78");
    ASSERT_LOST("a description that ends early", BEGUN "T\0\0\0\x08\0\1n\0");
    ASSERT_LOST("a tag without end", BEGUN "C\0\0\0\x05U");
    ASSERT_LOST("an error without end", BEGUN "E\0\0\0\x08VERR");
    ASSERT_LOST("a COPY", BEGUN "G\0\0\0\x07\0\0\0");
    ASSERT_LOST("another command's tag", BEGUN "C\0\0\0\012BEGIN\0");
    ASSERT_LOST("a Sync's answer too early", BEGUN "Z\0\0\0\5I");
    ASSERT_LOST("a pooler's end", BEGUN "E\0\0\0\x19SFATAL\0C08P01\0Mover\0\0");
    ASSERT_LOST("a session's end", BEGUN "E\0\0\0\x19VFATAL\0C57P01\0Mover\0\0");
    close(reader);
}

/* It was done, only its rows are not told: nobody may believe that it had no effect. */
static void test_a_write_with_too_many_rows_may_stand(void **state)
{
    (void)state;
    struct box box;
    welcome();
    int reader = peer;
    ask(&box, "UPDATE t SET n = 1 RETURNING n");
    welcome();
    hear();
    char row[1200] = "\0\1\0\0\4\252"; /* one value of the 1194 bytes that follow */
    SAY('1', "");
    SAY('2', "");
    SAY('T', "\0\1" COLUMN("n", INT4));
    say('D', row, sizeof(row));
    SAY('C', "UPDATE 1\0");
    SAY('Z', "I");
    send_script();
    assert_int_equal(box.n_done, 1);
    assert_int_equal(box.err.code, ERR_OUTCOME_UNKNOWN);
    close(reader);
}

static void test_ready_before_anything_was_asked_closes(void **state)
{
    (void)state;
    struct box box;
    ask(&box, "SELECT 7 AS n");
    welcome();
    hear();
    say_select(NULL);
    SAY('Z', "I");
    SAY('Z', "I");
    send_script();
    assert_true(box.is_ok);
    char byte;
    uint64_t guard_ms = clock_ms() + 30000;
    while (recv(peer, &byte, 1, MSG_DONTWAIT) != 0) {
        assert_true(clock_ms() < guard_ms);
        loop_turn(loop, false);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages_in_any_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_may_come_in_between, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_error_is_its_statement_s, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_long_a_result_is_dropped_as_it_comes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_out_of_step_closes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_write_with_too_many_rows_may_stand, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ready_before_anything_was_asked_closes, set_up, tear_down),
    };
    if (!mkdtemp(dir))
        return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return rc;
}
