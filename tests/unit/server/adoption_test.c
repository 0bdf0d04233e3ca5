/* Who accepts from which listener, whatever happens to whom in which order. */
#include "server/adoption.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { WORKERS = 3, LISTENERS = 5 };

struct rig {
    struct adoption *adoption;
    bool serves[WORKERS], accepts[WORKERS][LISTENERS] /* what a process has been told */;
    bool is_deaf; /* messages are dropped */
    int n_adopted, n_released;
};

static bool serves(void *data, unsigned worker)
{
    return ((struct rig *)data)->serves[worker];
}

static enum status adopt(void *data, unsigned worker, unsigned listener)
{
    struct rig *rig = data;
    if (rig->is_deaf)
        return AGAIN;
    assert_true(rig->serves[worker]);
    assert_false(rig->accepts[worker][listener]); /* once is enough */
    rig->accepts[worker][listener] = true;
    rig->n_adopted++;
    return OK;
}

static void release(void *data, unsigned worker, unsigned listener)
{
    struct rig *rig = data;
    assert_true(rig->accepts[worker][listener]);
    rig->accepts[worker][listener] = false;
    rig->n_released++;
}

static void born(struct rig *rig, unsigned worker)
{
    memset(rig->accepts[worker], 0, sizeof(rig->accepts[worker]));
    rig->accepts[worker][worker] = true;
    rig->serves[worker] = true;
}

static void dies(struct rig *rig, unsigned worker)
{
    memset(rig->accepts[worker], 0, sizeof(rig->accepts[worker]));
    rig->serves[worker] = false;
    adoption_forget(rig->adoption, worker);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    rig->adoption = adoption_new(&(struct adoption_opts){.n_workers = WORKERS,
                                                         .n_listeners = LISTENERS,
                                                         .serves = serves,
                                                         .adopt = adopt,
                                                         .release = release,
                                                         .data = rig});
    for (unsigned i = 0; i < WORKERS; i++)
        born(rig, i);
    adoption_look(rig->adoption);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    adoption_free(rig->adoption);
    free(rig);
    return 0;
}

/* One accepts from each; in a quiet state no two do, but a worker that stands still with its own. */
static void check_served(struct rig *rig)
{
    adoption_look(rig->adoption);
    for (unsigned l = 0; l < LISTENERS; l++) {
        unsigned n = 0;
        for (unsigned w = 0; w < WORKERS; w++)
            n += rig->serves[w] && rig->accepts[w][l];
        assert_int_equal(n, 1);
    }
}

static void test_the_owners_have_them(void **state)
{
    struct rig *rig = *state;
    check_served(rig);
    assert_int_equal(rig->n_adopted, LISTENERS - WORKERS); /* the extra ones: nobody is born with them */
    assert_true(rig->accepts[0][3] && rig->accepts[1][4]);
    for (int i = 0; i < 100; i++)
        adoption_look(rig->adoption);
    assert_int_equal(rig->n_adopted, LISTENERS - WORKERS); /* and nothing more is said */
}

static void test_the_adopter_dies_too(void **state)
{
    struct rig *rig = *state;
    dies(rig, 0);
    check_served(rig);
    assert_int_equal(adoption_holder(rig->adoption, 0), 1);
    dies(rig, 1);
    check_served(rig);
    assert_int_equal(adoption_holder(rig->adoption, 0), 2);
    assert_int_equal(adoption_holder(rig->adoption, 1), 2);
    born(rig, 1);
    check_served(rig);
    assert_int_equal(adoption_holder(rig->adoption, 0), 2); /* who has it keeps it: the owner is what it waits for */
    assert_int_equal(adoption_holder(rig->adoption, 1), 1);
    born(rig, 0);
    check_served(rig);
    assert_int_equal(adoption_holder(rig->adoption, 0), 0);
}

static void test_nobody_serves_for_a_while(void **state)
{
    struct rig *rig = *state;
    for (unsigned i = 0; i < WORKERS; i++)
        dies(rig, i);
    adoption_look(rig->adoption);
    born(rig, 2);
    check_served(rig);
}

static void test_who_stands_still_gets_it_back(void **state)
{
    struct rig *rig = *state;
    rig->serves[1] = false; /* it has its listeners still */
    adoption_look(rig->adoption);
    assert_int_equal(adoption_holder(rig->adoption, 1), 2);
    assert_true(rig->accepts[2][1] && rig->accepts[2][4]);
    rig->serves[1] = true;
    check_served(rig);
    assert_int_equal(adoption_holder(rig->adoption, 1), 1);
    assert_false(rig->accepts[2][1] || rig->accepts[2][4]);
}

static void test_a_lost_message_is_sent_again(void **state)
{
    struct rig *rig = *state;
    rig->is_deaf = true;
    dies(rig, 0);
    adoption_look(rig->adoption);
    rig->is_deaf = false;
    check_served(rig);
}

static void test_any_history_ends_well(void **state)
{
    struct rig *rig = *state;
    unsigned seed = 1;
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1103515245u + 12345u;
        unsigned worker = seed >> 16, what = worker / WORKERS % 4;
        worker %= WORKERS;
        rig->is_deaf = what == 3 && i % 2;
        if (what == 0)
            dies(rig, worker);
        else if (what == 1 && !rig->serves[worker] && !rig->accepts[worker][worker])
            born(rig, worker);
        else if (what == 2 && rig->accepts[worker][worker])
            rig->serves[worker] = !rig->serves[worker];
        adoption_look(rig->adoption);
    }
    rig->is_deaf = false;
    for (unsigned i = 0; i < WORKERS; i++) {
        dies(rig, i);
        born(rig, i);
    }
    check_served(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_owners_have_them, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_adopter_dies_too, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_serves_for_a_while, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_stands_still_gets_it_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_lost_message_is_sent_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any_history_ends_well, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
