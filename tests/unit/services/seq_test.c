/* Sequences against a real server, TEST_PG_URL: leasing, waiting, rollover, unknown outcomes, other workers, death. */
#include "services/seq.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/pg.h"
#include "data/pg_admin.h"
#include "services/seq_store.h"

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

static void turn(void)
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

static void on_number(void *data, const struct seq_number *number, const struct err *err)
{
    struct box *box = data;
    box->n_done++;
    box->number = number ? *number : (struct seq_number){.value = -1};
    box->err = err ? *err : (struct err){.code = ERR_NONE};
}

static struct seq_wait *start(struct seq *from, const char *name, struct box *box, uint64_t in_ms)
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

static void wait_for(const struct box *box)
{
    time_t guard = time(NULL) + 30;
    while (!box->n_done) {
        assert_true(time(NULL) < guard);
        turn();
    }
}

static int64_t next_of(struct seq *from, const char *name)
{
    struct box box;
    start(from, name, &box, 20000);
    wait_for(&box);
    if (box.err.code)
        fail_msg("%s: %s", name, box.err.message);
    return box.number.value;
}

static struct err fails_as(const char *name)
{
    struct box box;
    start(seq, name, &box, 20000);
    wait_for(&box);
    assert_int_not_equal(box.err.code, ERR_NONE);
    return box.err;
}

static uint64_t leases(const struct seq *from)
{
    struct seq_stats stats;
    seq_stats(from, &stats);
    return stats.n_leases;
}

static void wait_for_leases(const struct seq *from, uint64_t n)
{
    time_t guard = time(NULL) + 30;
    while (leases(from) < n) {
        assert_true(time(NULL) < guard);
        turn();
    }
}

static void sql(const char *text)
{
    struct err err = {0};
    if (pg_admin_exec(admin, text, NULL, &err) != OK)
        fail_msg("%s: %s", text, err.message);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static struct seq *open_seq(struct pg *on, int fd)
{
    struct err err = {0};
    struct seq *opened =
        seq_new(&(struct seq_opts){.loop = loop, .pg = on, .config_json = SLICE(CONFIG), .segment_fd = fd}, &err);
    if (!opened)
        fail_msg("%s", err.message);
    return opened;
}

static struct pg *open_pg(bool transaction_pooling)
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

static void open_world(void)
{
    loop = loop_new();
    names = names_new(loop);
    pg = open_pg(false);
}

static void close_world(void)
{
    pg_free(pg);
    names_free(names);
    loop_run(loop);
    loop_free(loop);
}

static int set_up(void **state)
{
    (void)state;
    sql("ROLLBACK"); /* of a test that failed */
    sql("TRUNCATE sequences; SELECT setval('lost', 1, false)");
    sql("SELECT setval('calls', 1, false)");
    open_world();
    seq = open_seq(pg, -1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    seq_free(seq);
    close_world();
    sql(CLIENTS_ARE_GONE);
    wall_ms = 0;
    clock_fake(0, 0);
    return 0;
}

static int set_up_group(void **state)
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

static int tear_down_group(void **state)
{
    (void)state;
    char text[64];
    snprintf(text, sizeof text, "DROP SCHEMA %s CASCADE", schema);
    sql(text);
    pg_admin_close(admin);
    return 0;
}

/* ---- one worker ---------------------------------------------------------------------------------------------- */

static void test_counts_from_one(void **state)
{
    (void)state;
    struct box box;
    assert_non_null(start(seq, "order", &box, 20000)); /* nothing is leased yet: it waits */
    assert_int_equal(box.n_done, 0);
    wait_for(&box);
    assert_int_equal(box.number.value, 1);
    assert_string_equal(box.number.def->name, "order");
    for (int64_t n = 2; n <= 300; n++)
        assert_int_equal(next_of(seq, "order"), n);
    assert_int_equal(next_of(seq, "many"), 1); /* another sequence counts by itself */
}

static void test_next_one_is_fetched_ahead(void **state)
{
    (void)state;
    struct seq_number number;
    struct err err = {0};
    next_of(seq, "order");
    wait_for_leases(seq, 2);
    assert_int_equal(seq_take(seq, seq_find(seq, SLICE("order")), &number, &err), OK);
    assert_int_equal(number.value, 2);
}

static void test_burst_takes_few_leases(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct box *boxes = xalloc(N * sizeof *boxes);
    uint8_t seen[N + 1] = {0};
    for (int i = 0; i < N; i++)
        start(seq, "order", &boxes[i], 20000);
    for (int i = 0; i < N; i++) {
        wait_for(&boxes[i]);
        assert_int_equal(boxes[i].err.code, ERR_NONE);
        assert_in_range(boxes[i].number.value, 1, N); /* all of a burst, without a gap */
        assert_int_equal(seen[boxes[i].number.value]++, 0);
        assert_int_equal(boxes[i].number.value, i + 1); /* first come, first served */
    }
    assert_true(leases(seq) <= 8);
    free(boxes);
}

static void test_fails_without_database(void **state)
{
    (void)state;
    struct seq *none = open_seq(NULL, -1);
    struct box box;
    assert_null(start(none, "order", &box, 20000));
    assert_int_equal(box.err.code, ERR_UNAVAILABLE);
    assert_int_equal(seq_find(none, SLICE("nothing")), -1);
    seq_free(none);
}

static void test_fails_when_nobody_listens(void **state)
{
    (void)state;
    struct err err = {0};
    struct box boxes[3];
    struct pg *dead =
        pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = "postgresql://127.0.0.1:1/none"}, &err);
    struct seq *on_dead = open_seq(dead, -1);
    for (int i = 0; i < 3; i++)
        start(on_dead, "order", &boxes[i], 20000);
    for (int i = 0; i < 3; i++) {
        wait_for(&boxes[i]);
        assert_int_equal(boxes[i].err.code, ERR_UNAVAILABLE);
        assert_non_null(strstr(boxes[i].err.message, "sequence order: "));
    }
    seq_free(on_dead);
    pg_free(dead);
}

static void test_refuses_what_is_no_block(void **state)
{
    (void)state;
    struct err err = fails_as("wrong");
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "get_next_order_sequence must return"));
}

static void test_passes_on_what_postgres_says(void **state)
{
    (void)state;
    sql("ALTER TABLE sequences RENAME TO away");
    struct err err = fails_as("order");
    assert_int_equal(err.code, ERR_PG);
    assert_string_equal(err.sqlstate, "42P01");
    sql("ALTER TABLE away RENAME TO sequences");
    assert_int_equal(next_of(seq, "order"), 1); /* and heals */
}

static void test_bad_format_stops_the_start(void **state)
{
    (void)state;
    struct err err = {0};
    struct seq_opts opts = {
        .loop = loop, .pg = pg, .config_json = SLICE("{\"seq.formats\":{\"o\":\"{n:1}\"}}"), .segment_fd = -1};
    assert_null(seq_new(&opts, &err));
    assert_int_equal(err.code, ERR_INVALID);
}

/* ---- waiting ------------------------------------------------------------------------------------------------- */

/* Takes what is in memory; returns the last of it. */
static int64_t use_up(const char *name)
{
    struct seq_number number = {.value = 0};
    struct err err = {0};
    while (seq_take(seq, seq_find(seq, slice_str(name)), &number, &err) == OK)
        continue;
    return number.value;
}

static void test_row_locked_by_another(void **state)
{
    (void)state;
    struct box box, late;
    next_of(seq, "order");
    wait_for_leases(seq, 2); /* the one in advance: nothing is under way */
    sql("BEGIN; SELECT * FROM sequences FOR UPDATE");
    int64_t last = use_up("order");
    assert_non_null(start(seq, "order", &box, 20000));
    assert_non_null(start(seq, "order", &late, 60));
    wait_for(&late); /* over the 20 ms after which the shared connection gives up on a lock */
    assert_int_equal(late.err.code, ERR_DEADLINE);
    assert_int_equal(box.n_done, 0);
    sql("COMMIT");
    wait_for(&box);
    assert_int_equal(box.err.code, ERR_NONE);
    assert_true(box.number.value > last);
}

static void test_cancelled_never_completes(void **state)
{
    (void)state;
    struct box gone, next;
    struct seq_wait *wait = start(seq, "order", &gone, 20000);
    assert_non_null(wait);
    start(seq, "order", &next, 20000);
    seq_wait_cancel(wait);
    wait_for(&next);
    assert_true(loop_turn(loop, false));
    assert_int_equal(gone.n_done, 0);
    assert_int_equal(next.number.value, 1); /* the number goes to who is still there */
}

static void test_closing_completes_all(void **state)
{
    (void)state;
    struct box boxes[2];
    struct seq *closing = open_seq(pg, -1);
    start(closing, "order", &boxes[0], 20000);
    start(closing, "many", &boxes[1], 20000);
    seq_free(closing);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(boxes[i].n_done, 1);
        assert_int_equal(boxes[i].err.code, ERR_CANCELLED);
    }
}

static void ignore_result(void *data, const struct pg_result *result, const struct err *err)
{
    (void)result;
    (void)err;
    ++*(int *)data;
}

/* T5: every connection for transactions is taken by one that waits for a number. */
static void take_all_and_wait(struct pg *on, int n_tx)
{
    struct seq *here = open_seq(on, -1);
    struct pg_tx *txs[8];
    int n_begun = 0;
    for (int i = 0; i < n_tx; i++) {
        txs[i] = pg_tx_begin(on, &(struct pg_tx_opts){.deadline_ms = loop_now(loop) + 20000});
        pg_tx_query(txs[i], &(struct pg_call){.sql = SLICE("SELECT 1"),
                                              .deadline_ms = loop_now(loop) + 20000,
                                              .done = ignore_result,
                                              .data = &n_begun});
    }
    time_t guard = time(NULL) + 30;
    while (n_begun < n_tx) {
        assert_true(time(NULL) < guard);
        turn();
    }
    assert_true(next_of(here, "order") > 0);
    for (int i = 0; i < n_tx; i++)
        pg_tx_rollback(txs[i]);
    assert_true(next_of(here, "order") > 1); /* and no rollback gave a number back */
    seq_free(here);
}

static void test_transactions_hold_all_connections(void **state)
{
    (void)state;
    take_all_and_wait(pg, 1);
    struct pg *pooled = open_pg(true);
    take_all_and_wait(pooled, 2);
    pg_free(pooled);
}

/* ---- outcomes ------------------------------------------------------------------------------------------------ */

static void test_unknown_outcome_is_discarded(void **state)
{
    (void)state;
    struct seq_stats stats;
    assert_int_equal(next_of(seq, "lost"), 2); /* 1 was given out by the server, but its answer was lost */
    seq_stats(seq, &stats);
    assert_int_equal(stats.n_dropped, 1);
    assert_int_equal(next_of(seq, "lost"), 3);
}

static void test_outcome_unknown_for_ever(void **state)
{
    (void)state;
    struct err err = fails_as("crash"); /* ends, and says what happened */
    assert_int_equal(err.code, ERR_OUTCOME_UNKNOWN);
    assert_true(next_of(seq, "order") > 0);
}

/* ---- midnight ------------------------------------------------------------------------------------------------ */

static int64_t kolkata(int year, int month, int day)
{
    struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
    return (int64_t)timegm(&tm) * 1000 - 19800000;
}

static void set_wall(int64_t ms)
{
    wall_ms = ms;
    clock_fake(0, 0);
    clock_fake(clock_ms(), wall_ms);
}

static void assert_text(const struct box *box, const char *text)
{
    char out[SEQ_NUMBER_MAX + 1];
    struct err err = {0};
    assert_int_equal(seq_format_write(box->number.def, box->number.period, box->number.value, out, &err), OK);
    assert_string_equal(out, text);
}

static void test_march_ends_at_midnight(void **state)
{
    (void)state;
    struct box box;
    set_wall(kolkata(2027, 4, 1) - 1);
    start(seq, "order", &box, 20000);
    wait_for(&box);
    assert_text(&box, "PC2627-000001");
    wait_for_leases(seq, 2); /* March's next one is in memory */
    set_wall(kolkata(2027, 4, 1));
    start(seq, "order", &box, 20000);
    wait_for(&box);
    assert_text(&box, "PC2728-000001");
    struct seq_stats stats;
    seq_stats(seq, &stats);
    assert_true(stats.n_dropped >= 1);
}

static void test_lease_under_way_at_midnight(void **state)
{
    (void)state;
    struct box box;
    set_wall(kolkata(2027, 4, 1) - 1);
    start(seq, "order", &box, 20000); /* asks for one of March */
    set_wall(kolkata(2027, 4, 1));
    wait_for(&box);
    assert_text(&box, "PC2728-000001");
}

/* ---- several workers ----------------------------------------------------------------------------------------- */

static int new_segment(void)
{
    struct err err = {0};
    int fd = seq_segment_create(&err);
    assert_true(fd >= 0);
    return fd;
}

static struct seq_answer claim(struct seq_store *store, struct seq_key *key)
{
    struct seq_answer answer;
    struct seq_ask ask = {.now_ms = clock_ms(), .n_wanted = 1, .n_waiting = 1, .may_claim = true, .may_prefetch = true};
    seq_store_take(store, key, &ask, &answer);
    return answer;
}

static void test_workers_share(void **state)
{
    (void)state;
    int fd = new_segment();
    struct seq *one = open_seq(pg, fd), *two = open_seq(pg, fd);
    int64_t last = 0;
    for (int i = 0; i < 200; i++) {
        int64_t n = next_of(i % 2 ? one : two, "order");
        assert_true(n > last);
        last = n;
    }
    assert_true(last < 300); /* one block after the other, whoever takes */
    seq_free(one);
    seq_free(two);
    close(fd);
}

/* A number met again: the database is moved past it, and nobody on this machine gives out what was leased before. */
static void test_skips_what_is_taken(void **state)
{
    (void)state;
    int fd = new_segment();
    struct seq *one = open_seq(pg, fd), *two = open_seq(pg, fd);
    struct seq_number number = {.value = 0};
    char text[SEQ_NUMBER_MAX + 1];
    struct err err = {0};
    for (int64_t n = 1; n <= 100; n++)
        assert_int_equal(next_of(n % 2 ? one : two, "order"), n);
    int id = seq_find(one, SLICE("order"));
    number.period = seq_period_at(SEQ_FY, clock_wall_ms());
    assert_int_equal(seq_format_write(seq_def(one, id), number.period, 500, text, &err), OK);
    assert_true(seq_read(one, id, slice_str(text), &number));
    assert_int_equal(number.value, 500);
    assert_false(seq_read(one, id, SLICE("PC9900-000500"), &number)); /* an old year's needs no skip */
    assert_true(seq_read(one, id, slice_str(text), &number));
    sql("UPDATE sequences SET value = 500 WHERE name = 'order'");
    seq_skip(one, id, &number);
    assert_int_equal(next_of(two, "order"), 501);
    assert_int_equal(next_of(one, "order"), 502);
    seq_free(one);
    seq_free(two);
    close(fd);
}

static void test_waits_for_anothers_lease(void **state)
{
    (void)state;
    struct err err = {0};
    int fd = new_segment();
    struct seq_store other;
    struct seq_key key = {.name = "many"};
    struct seq *mine = open_seq(pg, fd);
    assert_int_equal(seq_store_open(&other, fd, &err), OK);
    assert_int_equal(claim(&other, &key).n_lease, 1);
    struct box box;
    start(mine, "many", &box, 20000);
    seq_store_put(&other, &key, clock_ms(), (struct seq_range){7000, 7001}, 0); /* its lease arrives */
    wait_for(&box);
    assert_int_equal(box.number.value, 7000);
    seq_free(mine);
    seq_store_close(&other);
    close(fd);
}

static void test_other_claims_and_never_delivers(void **state)
{
    (void)state;
    struct err err = {0};
    int fd = new_segment();
    struct seq_store other;
    struct seq_key key = {.name = "many"};
    struct seq *mine = open_seq(pg, fd);
    assert_int_equal(seq_store_open(&other, fd, &err), OK);
    assert_int_equal(claim(&other, &key).n_lease, 1);
    uint64_t start_ms = clock_ms();
    assert_int_equal(next_of(mine, "many"), 1);
    assert_in_range(clock_ms() - start_ms, 15, 900); /* not at once, and not when the claim expires */
    seq_free(mine);
    seq_store_close(&other);
    close(fd);
}

/* A worker that stopped, or is dumping core, in the middle of a change: everybody else goes on. */
static void test_lock_held_by_the_stopped(void **state)
{
    (void)state;
    int fd = new_segment();
    struct shm_segment segment;
    struct err err = {0};
    assert_int_equal(shm_attach(fd, &seq_layout, &segment, &err), OK);
    pid_t pid = fork();
    if (pid == 0) {
        size_t stride = seq_layout.size / (2 * SEQ_MAX);
        for (size_t i = 0; i < 2 * SEQ_MAX; i++)
            if (shm_lock((struct shm_lock *)(void *)((char *)segment.body + i * stride), 0) != SHM_HELD)
                _exit(1);
        raise(SIGSTOP);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    struct seq *mine = open_seq(pg, fd);
    for (int64_t n = 1; n <= 20; n++) /* leases of its own, exactly what waits */
        assert_int_equal(next_of(mine, "many"), n);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    for (int64_t n = 21; n <= 40; n++)
        assert_int_equal(next_of(mine, "many"), n);
    seq_free(mine);
    shm_detach(&segment);
    close(fd);
}

enum { N_WORKERS = 4, N_EACH = 50000, N_SEEN = 400000 };

/* Takes N_EACH numbers, sixteen at a time, as a worker under load does. */
NORETURN static void run_worker(int fd, uint8_t *seen)
{
    enum { AT_ONCE = 16 };
    struct box boxes[AT_ONCE];
    open_world();
    seq = open_seq(pg, fd);
    for (int n = 0; n < N_EACH; n += AT_ONCE) {
        for (int i = 0; i < AT_ONCE; i++)
            start(seq, "many", &boxes[i], 20000);
        for (int i = 0; i < AT_ONCE; i++) {
            while (!boxes[i].n_done)
                loop_turn(loop, true);
            int64_t value = boxes[i].number.value;
            if (boxes[i].err.code || value < 1 || value >= N_SEEN ||
                __atomic_fetch_add(&seen[value], 1, __ATOMIC_SEQ_CST) > 0)
                _exit(1);
        }
    }
    _exit(0);
}

static void test_unique_over_processes(void **state)
{
    (void)state;
    uint8_t *seen = mmap(NULL, N_SEEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(seen, MAP_FAILED);
    int fd = new_segment(), status, n_seen = 0;
    pid_t pids[N_WORKERS + 1];
    for (int i = 0; i <= N_WORKERS; i++)
        if ((pids[i] = fork()) == 0)
            run_worker(i == N_WORKERS ? new_segment() : fd, seen); /* the last one: another machine */
    for (int i = 0; i <= N_WORKERS; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    for (int i = 0; i < N_SEEN; i++)
        n_seen += seen[i];
    assert_int_equal(n_seen, (N_WORKERS + 1) * N_EACH);
    munmap(seen, N_SEEN);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_counts_from_one),
        TEST(test_next_one_is_fetched_ahead),
        TEST(test_burst_takes_few_leases),
        TEST(test_fails_without_database),
        TEST(test_fails_when_nobody_listens),
        TEST(test_refuses_what_is_no_block),
        TEST(test_passes_on_what_postgres_says),
        TEST(test_bad_format_stops_the_start),
        TEST(test_row_locked_by_another),
        TEST(test_cancelled_never_completes),
        TEST(test_closing_completes_all),
        TEST(test_transactions_hold_all_connections),
        TEST(test_unknown_outcome_is_discarded),
        TEST(test_outcome_unknown_for_ever),
        TEST(test_march_ends_at_midnight),
        TEST(test_lease_under_way_at_midnight),
        TEST(test_workers_share),
        TEST(test_skips_what_is_taken),
        TEST(test_waits_for_anothers_lease),
        TEST(test_other_claims_and_never_delivers),
        TEST(test_lock_held_by_the_stopped),
        TEST(test_unique_over_processes),
    };
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
