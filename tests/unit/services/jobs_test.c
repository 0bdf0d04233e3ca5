/* The queue against a real server, TEST_PG_URL, without Lua: what a run's end writes, leases, rescue, hand-back,
 * reaping, and how often workers are told. */
#include "services/jobs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "data/pg.h"
#include "data/pg_admin.h"
#include "data/pg_listen.h"

static char schema[32], url[1024];
static struct pg_admin *admin;
static struct loop *loop;
static struct names *names;
static struct pg *pg;
static struct jobs *jobs;
static struct job_kinds *kinds;

/* ---- driving ------------------------------------------------------------------------------------------------- */

static void sql(const char *text)
{
    struct err err = {0};
    int position;
    if (pg_admin_exec(admin, text, &position, &err) != OK)
        fail_msg("%s: %s", text, err.message);
}

/* The first value of the first row as text; "" if there is none. Borrowed until the next call. */
static const char *value(const char *text)
{
    static char out[4096];
    struct err err = {0};
    struct arena arena;
    struct slice *values;
    size_t n;
    arena_create(&arena);
    if (pg_admin_column(admin, text, NULL, 0, &arena, &values, &n, &err) != OK)
        fail_msg("%s: %s", text, err.message);
    snprintf(out, sizeof(out), "%.*s", n && values[0].ptr ? (int)values[0].len : 0, n ? values[0].ptr : "");
    arena_destroy(&arena);
    return out;
}

static void until(const char *text, const char *wanted)
{
    time_t guard = time(NULL) + 30;
    while (strcmp(value(text), wanted) != 0) {
        if (time(NULL) > guard)
            fail_msg("%s: is %s, not %s", text, value(text), wanted);
        loop_turn(loop, false);
    }
}

/* What the runner is to do with the jobs that it is given, and what it saw. */
static struct {
    struct job *jobs[64]; /* those that run on */
    int n_runs, n_held, n_stops, n_drained;
    bool holds; /* does not end them */
    enum err_code why;
    struct job_end end;
    char args[256], kinds[256];
} seen;

static void on_stop(void *data, enum err_code why)
{
    struct job *job = data;
    seen.n_stops++;
    seen.why = why;
    if (why != ERR_CANCELLED)
        return;
    job_end(job, &(struct job_end){.outcome = JOB_RETURNED});
    seen.n_held--;
}

static void run_job(void *data, struct job *job)
{
    (void)data;
    const struct job_info *info = job_info(job);
    seen.n_runs++;
    snprintf(seen.args, sizeof(seen.args), "%.*s", SLICE_FMT(info->args));
    snprintf(seen.kinds + strlen(seen.kinds), sizeof(seen.kinds) - strlen(seen.kinds), "%s ", info->kind->name);
    if (!seen.holds) {
        job_end(job, &seen.end);
        return;
    }
    job_on_stop(job, on_stop, job);
    seen.jobs[seen.n_held++] = job;
}

static void held(int n)
{
    time_t guard = time(NULL) + 30;
    while (seen.n_held != n) {
        assert_true(time(NULL) < guard);
        loop_turn(loop, true);
    }
}

static void add_kind(const char *name, unsigned concurrency)
{
    struct err err = {0};
    struct job_kind kind = {
        .queue = "default", .concurrency = concurrency, .timeout_ms = 1000, .backoff = {.n_steps = 1, .steps_ms = {5}}};
    snprintf(kind.name, sizeof(kind.name), "%s", name);
    assert_int_equal(job_kinds_add(kinds, &kind, &err), OK);
}

static void work(uint32_t lease_ms)
{
    jobs_work(jobs, &(struct jobs_work_opts){
                        .max_running = 8, .lease_ms = lease_ms, .keep_ms = 3600000, .keep_dead_ms = 7200000});
    jobs_set_generation(jobs, &(struct job_generation){.kinds = kinds, .run = run_job});
}

static int set_up(void **state)
{
    (void)state;
    struct err err = {0};
    memset(&seen, 0, sizeof(seen));
    sql("TRUNCATE jobs, cron_runs RESTART IDENTITY");
    loop = loop_new();
    names = names_new(loop);
    pg = pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = url}, &err);
    assert_non_null(pg);
    jobs = jobs_new(&(struct jobs_opts){.loop = loop, .pg = pg});
    kinds = job_kinds_new();
    add_kind("work", 0);
    add_kind("capped", 2);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < seen.n_held; i++) /* as vm_free does */
        job_end(seen.jobs[i], &(struct job_end){.outcome = JOB_RETURNED});
    jobs_free(jobs);
    job_kinds_unref(kinds);
    pg_free(pg);
    names_free(names);
    loop_run(loop);
    loop_free(loop);
    return 0;
}

static char *read_text(const char *path, const char *from)
{
    FILE *file = fopen(path, "re");
    assert_non_null(file); /* run from the root of the tree */
    char *text = xalloc(65536);
    text[fread(text, 1, 65535, file)] = '\0';
    fclose(file);
    const char *start = from ? strstr(text, from) : text;
    assert_non_null(start);
    memmove(text, start, strlen(start) + 1);
    return text;
}

static int set_up_group(void **state)
{
    (void)state;
    struct err err = {0};
    const char *server = getenv("TEST_PG_URL");
    assert_non_null(server); /* run by tests/run.sh */
    admin = pg_admin_open(server, &err);
    assert_non_null(admin);
    snprintf(schema, sizeof(schema), "jobs_%d", (int)getpid());
    snprintf(url, sizeof(url), "%s&options=-csearch_path%%3D%s", server, schema);
    char text[128];
    snprintf(text, sizeof(text), "CREATE SCHEMA %s; SET search_path = %s", schema, schema);
    sql(text);
    char *machinery = read_text("migrations/0005_machinery.sql", "CREATE TYPE job_state");
    char *more = read_text("migrations/0007_jobs.sql", NULL);
    sql(machinery);
    sql(more);
    free(machinery);
    free(more);
    return 0;
}

static int tear_down_group(void **state)
{
    (void)state;
    char text[64];
    snprintf(text, sizeof(text), "DROP SCHEMA %s CASCADE", schema);
    sql(text);
    pg_admin_close(admin);
    return 0;
}

/* ---- how a run ends ------------------------------------------------------------------------------------------ */

static void test_done(void **state)
{
    (void)state;
    sql("INSERT INTO jobs (kind, args) VALUES ('work', '{\"a\": [1, \"x\"]}')");
    work(30000);
    until("SELECT state FROM jobs", "completed");
    assert_string_equal(seen.args, "{\"a\": [1, \"x\"]}");
    assert_string_equal(value("SELECT attempt || ' ' || (finalized_at IS NOT NULL) || ' ' || (lease_until IS NULL) "
                              "FROM jobs"),
                        "1 true true");
}

static void test_failures_are_kept_the_last_ten(void **state)
{
    (void)state;
    seen.end = (struct job_end){.outcome = JOB_FAILED, .error = SLICE("it \0is\xff broken")};
    sql("INSERT INTO jobs (kind, max_attempts) VALUES ('work', 13)");
    work(30000);
    until("SELECT state FROM jobs", "discarded");
    assert_int_equal(seen.n_runs, 13);
    assert_string_equal(value("SELECT jsonb_array_length(errors) || ' ' || (errors->0->>'attempt') || ' ' || "
                              "(errors->9->>'attempt') || ' ' || (errors->9->>'error') FROM jobs"),
                        "10 4 13 it  is? broken");
}

static void test_what_is_hopeless_is_discarded(void **state)
{
    (void)state;
    seen.end = (struct job_end){.outcome = JOB_DISCARDED, .error = SLICE("no")};
    sql("INSERT INTO jobs (kind) VALUES ('work')");
    work(30000);
    until("SELECT state FROM jobs", "discarded");
    assert_int_equal(seen.n_runs, 1);
}

static void test_parked_is_no_failure(void **state)
{
    (void)state;
    seen.end = (struct job_end){.outcome = JOB_AGAIN, .again_ms = 3600000};
    sql("INSERT INTO jobs (kind) VALUES ('work')");
    work(30000);
    until("SELECT state FROM jobs", "scheduled");
    assert_string_equal(value("SELECT attempt || ' ' || parked || ' ' || errors || ' ' || "
                              "(run_at > now() + interval '59 minutes') FROM jobs"),
                        "1 1 [] true");
}

static void test_what_others_define_is_left_to_them(void **state)
{
    (void)state;
    sql("INSERT INTO jobs (kind, queue) VALUES ('unknown', 'default'), ('work', 'elsewhere'), ('work', 'default')");
    work(30000);
    until("SELECT string_agg(state::text, ' ' ORDER BY id) FROM jobs", "available available completed");
}

static void test_only_the_queues_of_this_machine(void **state)
{
    (void)state;
    struct err err = {0};
    struct job_kind kind = {.name = "mail", .queue = "mail", .timeout_ms = 1000};
    char name[] = "mail", *queues[] = {name};
    assert_int_equal(job_kinds_add(kinds, &kind, &err), OK);
    sql("INSERT INTO jobs (kind, queue) VALUES ('work', 'default'), ('mail', 'mail')");
    jobs_work(jobs, &(struct jobs_work_opts){.max_running = 8, .lease_ms = 30000, .queues = queues, .n_queues = 1});
    jobs_set_generation(jobs, &(struct job_generation){.kinds = kinds, .run = run_job});
    until("SELECT string_agg(state::text, ' ' ORDER BY id) FROM jobs", "available completed");
}

/* ---- leases -------------------------------------------------------------------------------------------------- */

static void test_leases_are_renewed(void **state)
{
    (void)state;
    seen.holds = true;
    sql("INSERT INTO jobs (kind) VALUES ('work')");
    work(300);
    held(1);
    const char *lease = value("SELECT extract(epoch FROM lease_until) FROM jobs");
    char first[64], text[128];
    snprintf(first, sizeof(first), "%s", lease);
    snprintf(text, sizeof(text), "SELECT extract(epoch FROM lease_until) > %s + 0.4 FROM jobs", first);
    until(text, "t");
    assert_int_equal(seen.n_stops, 0);
}

static void test_a_lost_lease_stops_the_run(void **state)
{
    (void)state;
    seen.holds = true;
    sql("INSERT INTO jobs (kind) VALUES ('work')");
    work(300);
    held(1);
    sql("UPDATE jobs SET attempted_by = 'another', attempt = attempt + 1, lease_until = now() + interval '1 hour'");
    time_t guard = time(NULL) + 30;
    while (!seen.n_stops && time(NULL) < guard)
        loop_turn(loop, true);
    assert_int_equal(seen.why, ERR_LEASE_LOST);
    job_end(seen.jobs[--seen.n_held], &(struct job_end){.outcome = JOB_DONE}); /* says nothing any more */
    assert_int_equal(jobs_running(jobs), 0);
    assert_string_equal(value("SELECT state || ' ' || attempted_by FROM jobs"), "running another");
}

static void test_ends_are_fenced(void **state)
{
    (void)state;
    seen.holds = true;
    sql("INSERT INTO jobs (kind) VALUES ('work')");
    work(30000);
    held(1);
    sql("UPDATE jobs SET attempt = attempt + 1"); /* as if it had been taken again, by the very same process */
    job_end(seen.jobs[--seen.n_held], &(struct job_end){.outcome = JOB_DONE});
    while (jobs_running(jobs))
        loop_turn(loop, true);
    assert_string_equal(value("SELECT state FROM jobs"), "running");
}

static void test_dead_processes_are_noticed(void **state)
{
    (void)state;
    sql("INSERT INTO jobs (kind, state, attempt, attempted_by, lease_until, max_attempts) VALUES "
        "('work', 'running', 1, 'dead', now() - interval '1 second', 2), "
        "('work', 'running', 2, 'dead', now() - interval '1 second', 2), "
        "('work', 'running', 1, 'alive', now() + interval '1 hour', 2)");
    work(600);
    until("SELECT string_agg(state::text, ' ' ORDER BY id) FROM jobs", "completed discarded running");
    assert_int_equal(seen.n_runs, 1);
    assert_string_equal(value("SELECT errors->-1->>'error' FROM jobs WHERE id = 2"),
                        "lease lost: dead died or fell silent");
}

static void on_drained(void *data)
{
    (void)data;
    seen.n_drained++;
}

static void test_drained(void **state)
{
    (void)state;
    seen.holds = true;
    sql("INSERT INTO jobs (kind) SELECT 'work' FROM generate_series(1, 2)");
    work(30000);
    held(2);
    jobs_drain(jobs, on_drained, NULL);
    sql("INSERT INTO jobs (kind) VALUES ('work')");
    job_end(seen.jobs[--seen.n_held], &(struct job_end){.outcome = JOB_DONE});
    until("SELECT count(*) FROM jobs WHERE state = 'completed'", "1");
    assert_int_equal(seen.n_drained, 0);
    jobs_cut(jobs);
    while (!seen.n_drained)
        loop_turn(loop, true);
    assert_int_equal(seen.why, ERR_CANCELLED);
    assert_int_equal(seen.n_runs, 2); /* nothing new was taken */
    assert_string_equal(value("SELECT string_agg(state || ':' || attempt - parked, ' ' ORDER BY state, id) FROM jobs"),
                        "available:0 available:0 completed:1");
}

/* ---- taking -------------------------------------------------------------------------------------------------- */

static void test_caps_and_priorities(void **state)
{
    (void)state;
    seen.holds = true;
    sql("INSERT INTO jobs (kind, priority) VALUES ('capped', 3), ('capped', 1), ('capped', 2), ('work', 4), ('work', "
        "1)");
    work(30000);
    held(4);
    assert_string_equal(value("SELECT string_agg(kind || priority, ' ' ORDER BY kind, priority) FROM jobs "
                              "WHERE state = 'running'"),
                        "capped1 capped2 work1 work4");
    for (int i = 0; i < 4; i++)
        if (job_info(seen.jobs[i])->priority == 2) {
            struct job *job = seen.jobs[i];
            seen.jobs[i] = seen.jobs[--seen.n_held];
            job_end(job, &(struct job_end){.outcome = JOB_DONE});
            break;
        }
    held(4); /* there is room for the third */
    assert_string_equal(value("SELECT count(*) FROM jobs WHERE state = 'running' AND kind = 'capped'"), "2");
}

static void test_a_new_generation(void **state)
{
    (void)state;
    seen.holds = true;
    sql("INSERT INTO jobs (kind) VALUES ('work'), ('new')");
    work(30000);
    held(1);
    struct job_kinds *before = kinds;
    kinds = job_kinds_new();
    add_kind("new", 0);
    jobs_set_generation(jobs, &(struct job_generation){.kinds = kinds, .run = run_job});
    job_kinds_unref(before);
    held(2);
    assert_string_equal(seen.kinds, "work new ");
    job_end(seen.jobs[0], &(struct job_end){.outcome = JOB_DONE}); /* its declaration is gone */
    seen.jobs[0] = seen.jobs[--seen.n_held];
    until("SELECT state FROM jobs WHERE id = 1", "completed");
    jobs_set_generation(jobs, &(struct job_generation){.kinds = NULL});
    sql("INSERT INTO jobs (kind) VALUES ('new')");
    jobs_notify(jobs, SLICE("default"));
    for (int i = 0; i < 50; i++)
        loop_turn(loop, false);
    assert_int_equal(seen.n_runs, 2);
}

/* ---- tending ------------------------------------------------------------------------------------------------- */

static struct pg_sub *sub;

static void on_told(void *data)
{
    struct pg_event event;
    (void)data;
    while (sub && pg_sub_take(sub, &event))
        seen.n_runs += event.has_payload;
}

static void wait_told(int n)
{
    time_t guard = time(NULL) + 30;
    while (seen.n_runs < n) {
        assert_true(time(NULL) < guard);
        loop_turn(loop, true);
    }
}

static void test_many_are_told_of_at_once(void **state)
{
    (void)state;
    struct err err = {0};
    sub = pg_sub_new(pg, &(struct pg_sub_opts){.channel = SLICE(JOBS_CHANNEL), .on_event = on_told}, &err);
    assert_non_null(sub);
    while (!pg_sub_is_ready(sub))
        loop_turn(loop, true);
    for (int i = 0; i < 1000; i++)
        jobs_notify(jobs, SLICE("one"));
    jobs_notify(jobs, SLICE("other"));
    wait_told(3); /* the first at once, the rest together, and the other queue's */
    uint64_t since_ms = loop_now(loop);
    jobs_notify(jobs, SLICE("one")); /* a pause later it is again told at once */
    wait_told(4);
    assert_in_range(loop_now(loop) - since_ms, 0, 1000);
    assert_int_equal(seen.n_runs, 4);
    pg_sub_free(sub);
    sub = NULL;
}

static void test_what_is_over_goes(void **state)
{
    (void)state;
    sql("INSERT INTO jobs (kind, state, finalized_at) SELECT 'work', 'completed', now() - interval '61 minutes' "
        "FROM generate_series(1, 2500)");
    sql("INSERT INTO jobs (kind, state, finalized_at) VALUES ('work', 'completed', now() - interval '59 minutes'), "
        "('work', 'discarded', now() - interval '119 minutes'), ('work', 'discarded', now() - interval '121 minutes'), "
        "('work', 'cancelled', now() - interval '61 minutes')");
    sql("INSERT INTO cron_runs VALUES ('a', now() - interval '9 days'), ('a', now() - interval '8 days'), "
        "('a', now() - interval '1 day'), ('b', now() - interval '30 days')");
    work(30000);
    jobs_reap_now(jobs);
    until("SELECT string_agg(state::text, ' ' ORDER BY id) FROM jobs", "completed discarded");
    until("SELECT string_agg(name, ' ' ORDER BY name) FROM cron_runs", "a b");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_done),
        TEST(test_failures_are_kept_the_last_ten),
        TEST(test_what_is_hopeless_is_discarded),
        TEST(test_parked_is_no_failure),
        TEST(test_what_others_define_is_left_to_them),
        TEST(test_only_the_queues_of_this_machine),
        TEST(test_leases_are_renewed),
        TEST(test_a_lost_lease_stops_the_run),
        TEST(test_ends_are_fenced),
        TEST(test_dead_processes_are_noticed),
        TEST(test_drained),
        TEST(test_caps_and_priorities),
        TEST(test_a_new_generation),
        TEST(test_many_are_told_of_at_once),
        TEST(test_what_is_over_goes),
    };
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
