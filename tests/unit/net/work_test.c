/* Jobs beside the loop: order, that `done` comes on the loop, and the way down. */
#include "net/net_help.h"

#include <pthread.h>

#include "net/work.h"

struct step {
    struct work_job job;
    int id;
    bool ran_elsewhere, is_done;
};

static pthread_t loop_thread;
static int order[8];
static size_t n_done;

static void run(struct work_job *job)
{
    struct step *step = container_of(job, struct step, job);
    step->ran_elsewhere = !pthread_equal(pthread_self(), loop_thread);
}

static void on_done(struct work_job *job)
{
    struct step *step = container_of(job, struct step, job);
    assert_true(pthread_equal(pthread_self(), loop_thread));
    step->is_done = true;
    order[n_done++] = step->id;
}

static int setup(void **state)
{
    (void)state;
    loop_thread = pthread_self();
    n_done = 0;
    return 0;
}

static void test_runs_one_after_the_other(void **state)
{
    struct loop *loop = loop_new();
    struct work *work = work_new(loop, "test");
    struct step steps[3] = {{.id = 1}, {.id = 2}, {.id = 3}};
    (void)state;
    assert_true(work_is_idle(work));
    for (size_t i = 0; i < 3; i++)
        work_push(work, &steps[i].job, run, on_done);
    assert_false(work_is_idle(work));
    loop_run(loop); /* jobs keep it alive, an idle thread does not */
    assert_int_equal(n_done, 3);
    for (int i = 0; i < 3; i++)
        assert_true(order[i] == i + 1 && steps[i].ran_elsewhere);
    work_push(work, &steps[0].job, run, on_done);
    RUN_UNTIL(loop, n_done == 4);
    work_free(work);
    loop_run(loop);
    loop_free(loop);
}

static void test_free_waits_for_what_was_given(void **state)
{
    struct loop *loop = loop_new();
    struct work *work = work_new(loop, "test");
    struct step steps[4] = {{.id = 1}, {.id = 2}, {.id = 3}, {.id = 4}};
    (void)state;
    for (size_t i = 0; i < 4; i++)
        work_push(work, &steps[i].job, run, on_done);
    work_free(work);
    for (size_t i = 0; i < 4; i++)
        assert_true(steps[i].is_done);
    loop_run(loop);
    loop_free(loop);
}

static void test_no_thread_without_a_job(void **state)
{
    struct loop *loop = loop_new();
    (void)state;
    work_free(work_new(loop, "test"));
    work_free(NULL);
    loop_run(loop);
    loop_free(loop);
}

static struct work *chain_work;

static void push_next(struct work_job *job)
{
    struct step *step = container_of(job, struct step, job);
    on_done(job);
    if (step->id < 3) {
        step->id++;
        work_push(chain_work, job, run, push_next);
    }
}

static void test_done_may_give_the_same_job_again(void **state)
{
    struct loop *loop = loop_new();
    struct step step = {.id = 1};
    (void)state;
    chain_work = work_new(loop, "test");
    work_push(chain_work, &step.job, run, push_next);
    loop_run(loop);
    assert_int_equal(n_done, 3);
    work_free(chain_work);
    loop_run(loop);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_runs_one_after_the_other, setup),
        cmocka_unit_test_setup(test_free_waits_for_what_was_given, setup),
        cmocka_unit_test_setup(test_no_thread_without_a_job, setup),
        cmocka_unit_test_setup(test_done_may_give_the_same_job_again, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
