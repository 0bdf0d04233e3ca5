/* pg over a loop, and a table of a hundred rows, on the real server TEST_PG_URL: shared by the pg_live_* tests. They
 * wait for completions, never for a time; a test that hangs fails by its guard. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/clock.h"
#include "data/pg.h"
#include "data/pg_admin.h"

static struct loop *loop;
static struct names *names;
static struct pg *pg;
static struct pg_admin *admin;

/* ---- one call and what came of it ------------------------------------------------------------------------ */

struct box {
    int n_done;
    bool is_ok;
    struct err err;
    char json[4096];
    int64_t affected;
};

static inline void take(struct box *box, const struct pg_result *result, const struct err *err)
{
    box->n_done++;
    box->is_ok = !err;
    if (err)
        box->err = *err;
    if (!result)
        return;
    struct buf buf = {0};
    pg_result_json(result, &buf);
    snprintf(box->json, sizeof(box->json), "%.*s", (int)buf.len, buf.ptr);
    box->affected = pg_result_affected(result);
    buf_free(&buf);
}

static inline void on_done(void *data, const struct pg_result *result, const struct err *err)
{
    take(data, result, err);
}

static inline void on_commit(void *data, const struct err *err)
{
    take(data, NULL, err);
}

static inline struct pg_call call_of(struct box *box, const char *sql)
{
    *box = (struct box){0};
    return (struct pg_call){.sql = slice_str(sql), .deadline_ms = loop_now(loop) + 20000, .done = on_done, .data = box};
}

static inline struct pg_op *start(struct box *box, const char *sql)
{
    struct pg_call call = call_of(box, sql);
    return pg_query(pg, &call);
}

static inline void wait_for(const struct box *box)
{
    uint64_t guard_ms = clock_ms() + 30000;
    while (!box->n_done) {
        assert_true(clock_ms() < guard_ms);
        assert_true(loop_turn(loop, true));
    }
}

static inline struct box run(const char *sql)
{
    struct box box;
    start(&box, sql);
    wait_for(&box);
    return box;
}

static inline void assert_json(const char *sql, const char *json)
{
    struct box box = run(sql);
    if (!box.is_ok)
        fail_msg("%s: %s", sql, box.err.message);
    assert_string_equal(box.json, json);
}

static inline struct box tx_run(struct pg_tx *tx, const char *sql)
{
    struct box box;
    struct pg_call call = call_of(&box, sql);
    pg_tx_query(tx, &call);
    wait_for(&box);
    return box;
}

static inline struct box tx_commit(struct pg_tx *tx)
{
    struct box box = {0};
    pg_tx_commit(tx, on_commit, &box);
    wait_for(&box);
    return box;
}

static inline struct pg_tx *tx_begin(void)
{
    return pg_tx_begin(pg, &(struct pg_tx_opts){.deadline_ms = loop_now(loop) + 20000});
}

/* ---- the server, past pg --------------------------------------------------------------------------------------- */

static inline void ddl(const char *sql)
{
    struct err err;
    if (pg_admin_exec(admin, sql, NULL, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
}

static inline void admin_scalar(const char *sql, char *out, size_t size)
{
    struct arena arena;
    struct slice *values;
    size_t n;
    struct err err;
    arena_create(&arena);
    if (pg_admin_column(admin, sql, NULL, 0, &arena, &values, &n, &err) != OK || n == 0)
        fail_msg("%s gave nothing", sql);
    snprintf(out, size, "%.*s", SLICE_FMT(values[0]));
    arena_destroy(&arena);
}

#define KILL_OTHERS                                                                                                    \
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'chowk' "                  \
    "AND datname = current_database() AND pid <> pg_backend_pid()"

/* ---- each test's beginning and end ----------------------------------------------------------------------------- */

static inline int set_up(void **state)
{
    (void)state;
    struct err err;
    const char *url = getenv("TEST_PG_URL");
    if (!url) {
        print_error("TEST_PG_URL is not set: this test needs a PostgreSQL\n");
        return -1;
    }
    admin = pg_admin_open(url, &err);
    if (!admin) {
        print_error("%s\n", err.message);
        return -1;
    }
    loop = loop_new();
    names = names_new(loop);
    pg = pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = url, .max_result_bytes = 4 << 20}, &err);
    ddl("DROP TABLE IF EXISTS pgt_child, pgt; CREATE TABLE pgt (id int PRIMARY KEY, v text);"
        "INSERT INTO pgt SELECT i, 'v' || i FROM generate_series(1, 100) i");
    return pg ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    pg_free(pg);
    names_free(names);
    loop_free(loop);
    ddl("DROP TABLE IF EXISTS pgt_child, pgt");
    pg_admin_close(admin);
    return 0;
}

#define LIVE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
