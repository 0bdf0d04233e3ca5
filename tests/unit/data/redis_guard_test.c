/* T1's sentence on the shared Redis connection: every command that would poison it is refused, with advice; its
 * harmless relatives pass; and the table knows what only reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "data/redis_guard.h"

/* Words are separated by one space. */
static enum redis_effect guard(const char *line, const char **advice)
{
    struct slice argv[16];
    size_t argc = 0;
    *advice = NULL;
    for (const char *at = line; *at; at += argv[argc++].len) {
        at += *at == ' ';
        argv[argc] = slice_of(at, strcspn(at, " "));
    }
    return redis_guard(argv, argc, advice);
}

static void check_all(const char *const *lines, size_t n, enum redis_effect expected)
{
    const char *advice;
    for (size_t i = 0; i < n; i++)
        if (guard(lines[i], &advice) != expected)
            fail_msg("%s: expected effect %d", lines[i], (int)expected);
}

static void refuses_what_poisons(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "SELECT 1",
        "WATCH k",
        "UNWATCH",
        "MULTI",
        "EXEC",
        "DISCARD",
        "SUBSCRIBE c",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "MONITOR",
        "QUIT",
        "RESET",
        "HELLO 3",
        "AUTH p",
        "CLIENT REPLY OFF",
        "CLIENT",
        "CLIENT TRACKING ON",
        "WAIT 1 0",
        "WAITAOF 1 0 0",
        "SYNC",
        "PSYNC ? -1",
        "REPLCONF x",
        "SHUTDOWN",
        "DEBUG SLEEP 5",
        "SAVE",
        "READONLY",
        "ASKING",
        "SCRIPT DEBUG YES",
    };
    const char *advice;
    check_all(lines, ARRAY_LEN(lines), REDIS_REFUSED);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        guard(lines[i], &advice);
        assert_non_null(advice);
        assert_true(strlen(advice) > 20);
    }
}

static void ignores_case(void **state)
{
    (void)state;
    static const char *const lines[] = {"multi", "Select 0", "client reply skip"};
    check_all(lines, ARRAY_LEN(lines), REDIS_REFUSED);
}

static void knows_what_blocks(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        struct redis_blocking how;
    } rows[] = {
        {"BLPOP l 0", {2, false, false, true}},
        {"bRpOp l m 0", {3, false, false, true}},
        {"BLMOVE a b LEFT RIGHT 1.5", {5, false, false, true}},
        {"BRPOPLPUSH a b 1", {3, false, false, true}},
        {"BLMPOP 0 1 l LEFT", {1, false, false, true}},
        {"BZPOPMIN z 0", {2, false, false, true}},
        {"BZPOPMAX z 0", {2, false, false, true}},
        {"BZMPOP 0 1 z MIN", {1, false, false, true}},
        {"BLPOP", {0, false, false, true}},
        {"xread block 10 streams s 0", {2, true, true, true}},
        {"XREAD COUNT 5 BLOCK 0 STREAMS s $", {4, true, true, false}},
        {"XREADGROUP GROUP g c BLOCK 0 STREAMS s >", {5, true, false, true}},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct slice argv[16];
        size_t argc = 0;
        const char *advice = NULL;
        for (const char *at = rows[i].line; *at; at += argv[argc++].len) {
            at += *at == ' ';
            argv[argc] = slice_of(at, strcspn(at, " "));
        }
        assert_int_equal(redis_guard(argv, argc, &advice), REDIS_BLOCKS);
        struct redis_blocking how = redis_guard_blocking(argv, argc);
        if (how.timeout != rows[i].how.timeout || how.in_ms != rows[i].how.in_ms || how.reads != rows[i].how.reads ||
            how.resumes != rows[i].how.resumes)
            fail_msg("%s", rows[i].line);
    }
}

static void lets_relatives_pass(void **state)
{
    (void)state;
    static const char *const reads[] = {"CLIENT ID", "client list", "XREAD COUNT 1 STREAMS block 0", "get k",
                                        "HGETALL h"};
    static const char *const writes[] = {
        "SET k v",
        "LPOP l",
        "LMOVE a b LEFT RIGHT",
        "EVAL return 0",
        "SCRIPT LOAD x",
        "PUBLISH c m",
        "UNKNOWN",
        "MULTIX",
        "SELEC",
        "INCR k",
        "GETDEL k",
        "GETEX k",
        "SORT k",
        "BITFIELD k",
        "A-NAME-LONGER-THAN-ANY-COMMAND-OF-REDIS",
        "XREADGROUP GROUP block c STREAMS s >",
    };
    check_all(reads, ARRAY_LEN(reads), REDIS_READS);
    check_all(writes, ARRAY_LEN(writes), REDIS_WRITES);
}

/* bsearch finds each of these only if the table is sorted around it. */
static void finds_first_and_last(void **state)
{
    (void)state;
    static const char *const lines[] = {"BITCOUNT k", "EVAL_RO x", "GEORADIUS_RO k", "MGET a", "TTL k", "ZUNION 1 z"};
    check_all(lines, ARRAY_LEN(lines), REDIS_READS);
    static const char *const refused[] = {"ASKING", "EXEC", "WATCH k"};
    check_all(refused, ARRAY_LEN(refused), REDIS_REFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_poisons), cmocka_unit_test(ignores_case),
        cmocka_unit_test(knows_what_blocks),    cmocka_unit_test(lets_relatives_pass),
        cmocka_unit_test(finds_first_and_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
