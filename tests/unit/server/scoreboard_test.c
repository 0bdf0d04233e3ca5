/* The scoreboard between two mappings of one segment, as a master and a worker have it. */
#include "server/scoreboard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "base/clock.h"
#include "base/shm.h"

struct rig {
    struct scoreboard *master, *worker;
};

static void open_rig(struct rig *rig)
{
    struct err err = {0};
    int fd = scoreboard_segment_create(2, &err);
    assert_true(fd >= 0);
    rig->master = scoreboard_attach(fd, &err);
    rig->worker = scoreboard_attach(fd, &err);
    assert_non_null(rig->master);
    assert_non_null(rig->worker);
    close(fd);
}

static void close_rig(struct rig *rig)
{
    scoreboard_detach(rig->master);
    scoreboard_detach(rig->worker);
}

static void test_a_slot_is_seen_by_others(void **state)
{
    (void)state;
    struct rig rig;
    struct scoreboard_view view;
    static const char route[RUNNING_ROUTE] = "GET /cart", id[RUNNING_ID] = "abc";
    open_rig(&rig);
    assert_int_equal(rig.worker->n_slots, 2 + SCOREBOARD_EXTRA);
    assert_false(scoreboard_read(rig.master, 1, &view));
    clock_fake(5000, 1700000000000);
    scoreboard_take(&rig.master->slots[1], 7);
    clock_fake(0, 0);
    struct scoreboard_slot *slot = &rig.worker->slots[1];
    atomic_store(&slot->state, SCOREBOARD_SERVING);
    atomic_store(&slot->in_flight, 3);
    assert_int_equal(running_enter(&slot->running, (struct running_label){route, id}, 4, 1234), 1234);
    assert_true(scoreboard_read(rig.master, 1, &view));
    assert_int_equal(view.worker, 7);
    assert_int_equal(view.state, SCOREBOARD_SERVING);
    assert_int_equal(view.beat_ms, 5000);
    assert_int_equal(view.started_wall_ms, 1700000000000);
    assert_int_equal(view.in_flight, 3);
    assert_string_equal(view.running.route, "GET /cart");
    assert_string_equal(view.running.id, "abc");
    assert_int_equal(view.running.generation, 4);
    assert_int_equal(view.running.since_ms, 1234);
    running_leave(&slot->running, 1300);
    assert_true(scoreboard_read(rig.master, 1, &view));
    assert_int_equal(view.running.since_ms, 0);
    assert_string_equal(view.running.route, "GET /cart"); /* what ran last */
    close_rig(&rig);
}

/* A process that died in the middle of a write leaves an odd sequence: readers give up, the next process starts anew.
 */
static void test_a_half_written_label_is_not_shown(void **state)
{
    (void)state;
    struct rig rig;
    struct scoreboard_view view;
    struct running_view running;
    open_rig(&rig);
    struct scoreboard_slot *slot = &rig.worker->slots[0];
    scoreboard_take(slot, 0);
    memcpy(slot->running.route, "half", 5);
    atomic_store(&slot->running.sequence, 7);
    assert_int_equal(running_read(&slot->running, &running), AGAIN);
    assert_true(scoreboard_read(rig.master, 0, &view));
    assert_string_equal(view.running.route, "");
    scoreboard_take(slot, 0);
    assert_int_equal(running_read(&slot->running, &running), OK);
    close_rig(&rig);
}

static void test_totals_outlive_a_process(void **state)
{
    (void)state;
    struct rig rig;
    struct scoreboard_totals totals;
    open_rig(&rig);
    for (int life = 0; life < 2; life++) {
        struct scoreboard_slot *slot = &rig.worker->slots[0];
        scoreboard_take(&rig.master->slots[0], 0);
        slot->running.n_out_of_memory++;
        slot->requests = 9;
        slot->report.stage = WHERE_WHOLE;
        scoreboard_release(&rig.master->slots[0]);
    }
    scoreboard_take(&rig.master->slots[0], 0);
    assert_int_equal(rig.worker->slots[0].requests, 0);
    assert_int_equal(rig.worker->slots[0].report.stage, WHERE_NONE);
    rig.worker->slots[3].running.n_slow_turns = 5;
    rig.master->n_stalls = 1;
    scoreboard_sum(rig.master, &totals);
    assert_int_equal(totals.out_of_memory, 2);
    assert_int_equal(totals.slow_turns, 5);
    assert_int_equal(totals.stalls, 1);
    close_rig(&rig);
}

static void test_another_segment_is_refused(void **state)
{
    (void)state;
    struct err err = {0};
    int fd = shm_create(&(struct shm_layout){.name = "other", .magic = 1, .version = 1, .size = 1 << 16}, &err);
    assert_true(fd >= 0);
    assert_null(scoreboard_attach(fd, &err));
    close(fd);
    assert_null(scoreboard_attach(STDIN_FILENO, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slot_is_seen_by_others),
        cmocka_unit_test(test_a_half_written_label_is_not_shown),
        cmocka_unit_test(test_totals_outlive_a_process),
        cmocka_unit_test(test_another_segment_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
