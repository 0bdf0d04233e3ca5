/* Sequences on the real server TEST_PG_URL, in a schema of their own with the shop's function, and a wall clock that
 * can be set: shared by the seq tests that need them. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/pg.h"
#include "data/pg_admin.h"
#include "services/seq.h"

#define CONFIG                                                                                                         \
    "{\"seq.formats\":{\"order\":\"PC{fy}-{n:6}\"},"                                                                   \
    "\"seq.periods\":{\"lost\":\"none\",\"crash\":\"none\",\"wrong\":\"none\",\"many\":\"none\"}}"

/* The shop's function, and names under which it fails in ways that the real one can. `lost` takes its numbers from a
 * sequence, which no rollback undoes: as a commit whose answer never came. */
static const char SCHEMA[] =
    "CREATE TABLE sequences (name text, period text, value bigint NOT NULL, PRIMARY KEY (name, period));"
    "CREATE SEQUENCE calls; CREATE SEQUENCE lost;"
    "CREATE FUNCTION get_next_order_sequence(name text, period text, n int) RETURNS bigint LANGUAGE plpgsql AS $$ "
    "DECLARE last bigint; BEGIN "
    "IF name = 'lost' THEN last := setval('lost', nextval('lost') + n - 1);"
    "  IF nextval('calls') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END IF;"
    "  RETURN last; END IF;"
    "IF name = 'crash' THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END IF;"
    "IF name = 'wrong' THEN RETURN 0; END IF;"
    "INSERT INTO sequences AS s (name, period, value) VALUES ($1, $2, $3) "
    "ON CONFLICT ON CONSTRAINT sequences_pkey DO UPDATE SET value = s.value + $3 RETURNING s.value INTO last;"
    "RETURN last; END $$;";

/* A lease that was cancelled may still run on the server, and would count into the next test. */
static const char CLIENTS_ARE_GONE[] =
    "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    "AND application_name = 'chowk') LOOP PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); END LOOP; END $$";

static char schema[32], url[1024];
static struct pg_admin *admin;
static struct loop *loop;
static struct names *names;
static struct pg *pg;
static struct seq *seq;
static int64_t wall_ms; /* 0: the real one */

/* ---- driving ------------------------------------------------------------------------------------------------- */

static inline void turn(void)
{
    if (wall_ms) { /* only the wall clock is faked */
        clock_fake(0, 0);
        clock_fake(clock_ms(), wall_ms);
    }
    assert_true(loop_turn(loop, true));
}

struct box {
    int n_done;
    struct seq_number number;
    struct err err;
};

static inline void on_number(void *data, const struct seq_number *number, const struct err *err)
{
    struct box *box = data;
    box->n_done++;
    box->number = number ? *number : (struct seq_number){.value = -1};
    box->err = err ? *err : (struct err){.code = ERR_NONE};
}

static inline struct seq_wait *start(struct seq *from, const char *name, struct box *box, uint64_t in_ms)
{
    *box = (struct box){.n_done = 0};
    int id = seq_find(from, slice_str(name));
    switch (seq_take(from, id, &box->number, &box->err)) {
    case OK:
    case ERR:
        box->n_done = 1;
        return NULL;
    case AGAIN:
        break;
    }
    return seq_wait_start(from, id,
                          &(struct seq_call){.deadline_ms = loop_now(loop) + in_ms, .done = on_number, .data = box});
}

static inline void wait_for(const struct box *box)
{
    time_t guard = time(NULL) + 30;
    while (!box->n_done) {
        assert_true(time(NULL) < guard);
        turn();
    }
}

static inline int64_t next_of(struct seq *from, const char *name)
{
    struct box box;
    start(from, name, &box, 20000);
    wait_for(&box);
    if (box.err.code)
        fail_msg("%s: %s", name, box.err.message);
    return box.number.value;
}

static inline void sql(const char *text)
{
    struct err err = {0};
    if (pg_admin_exec(admin, text, NULL, &err) != OK)
        fail_msg("%s: %s", text, err.message);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static inline struct seq *open_seq(struct pg *on, int fd)
{
    struct err err = {0};
    struct seq *opened =
        seq_new(&(struct seq_opts){.loop = loop, .pg = on, .config_json = SLICE(CONFIG), .segment_fd = fd}, &err);
    if (!opened)
        fail_msg("%s", err.message);
    return opened;
}

static inline struct pg *open_pg(bool transaction_pooling)
{
    struct err err = {0};
    struct pg *opened = pg_new(&(struct pg_opts){.loop = loop,
                                                 .names = names,
                                                 .url = url,
                                                 .transaction_pooling = transaction_pooling,
                                                 .read_connections = 1,
                                                 .write_connections = 1,
                                                 .tx_connections = 1},
                               &err);
    if (!opened)
        fail_msg("%s", err.message);
    return opened;
}

static inline void open_world(void)
{
    loop = loop_new();
    names = names_new(loop);
    pg = open_pg(false);
}

static inline void close_world(void)
{
    pg_free(pg);
    names_free(names);
    loop_run(loop);
    loop_free(loop);
}

static inline int set_up(void **state)
{
    (void)state;
    sql("ROLLBACK"); /* of a test that failed */
    sql("TRUNCATE sequences; SELECT setval('lost', 1, false)");
    sql("SELECT setval('calls', 1, false)");
    open_world();
    seq = open_seq(pg, -1);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    seq_free(seq);
    close_world();
    sql(CLIENTS_ARE_GONE);
    wall_ms = 0;
    clock_fake(0, 0);
    return 0;
}

static inline int set_up_group(void **state)
{
    (void)state;
    struct err err = {0};
    const char *server = getenv("TEST_PG_URL");
    assert_non_null(server); /* run by tests/run.sh */
    admin = pg_admin_open(server, &err);
    assert_non_null(admin);
    snprintf(schema, sizeof schema, "seq_%d", (int)getpid());
    snprintf(url, sizeof url, "%s&options=-csearch_path%%3D%s", server, schema);
    char text[128];
    snprintf(text, sizeof text, "CREATE SCHEMA %s; SET search_path = %s", schema, schema);
    sql(text);
    sql(SCHEMA);
    return 0;
}

static inline int tear_down_group(void **state)
{
    (void)state;
    char text[64];
    snprintf(text, sizeof text, "DROP SCHEMA %s CASCADE", schema);
    sql(text);
    pg_admin_close(admin);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
