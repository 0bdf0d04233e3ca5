#include "base/shm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

static void test_round_trip(void **state)
{
    (void)state;
    struct err err;
    struct shm_map map;
    char *bytes = xalloc(100000);
    for (int i = 0; i < 100000; i++)
        bytes[i] = (char)(i * 7);
    int fd = shm_seal("test", slice_of(bytes, 100000), &err);
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(shm_open_sealed(fd, &map, &err), OK);
    close(fd); /* the mapping does not need it */
    assert_true(slice_eq(map.bytes, slice_of(bytes, 100000)));
    shm_close(&map);
    assert_int_equal(map.bytes.len, 0);
    shm_close(&map); /* twice is nothing */
    free(bytes);
}

static void test_sealed_against_everything(void **state)
{
    (void)state;
    struct err err;
    int fd = shm_seal("test", SLICE("fixed"), &err);
    assert_int_equal(pwrite(fd, "F", 1, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, 2), -1);
    assert_int_equal(ftruncate(fd, 8192), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
    close(fd);
}

static void test_empty(void **state)
{
    (void)state;
    struct err err;
    struct shm_map map;
    int fd = shm_seal("test", slice_of(NULL, 0), &err);
    assert_true(fd >= 0);
    assert_int_equal(shm_open_sealed(fd, &map, &err), OK);
    assert_int_equal(map.bytes.len, 0);
    shm_close(&map);
    close(fd);
}

static void assert_refused(int fd)
{
    struct err err = {0};
    struct shm_map map;
    assert_int_equal(shm_open_sealed(fd, &map, &err), ERR);
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(map.bytes.len, 0);
}

static void test_refuses_what_can_change(void **state)
{
    (void)state;
    int fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_refused(fd);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0); /* still writable */
    assert_refused(fd);
    close(fd);
    assert_refused(fd); /* closed */
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_refused(fd);
    close(fd);
}

static void test_name_too_long(void **state)
{
    (void)state;
    char name[400];
    struct err err = {0};
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(shm_seal(name, SLICE("x"), &err), -1);
    assert_int_equal(err.code, ERR_SYSTEM);
}

/* ---- segments ------------------------------------------------------------------------------------------------ */

struct counter {
    struct shm_lock lock;
    int n;
};

static void create_counter(void *body, const void *data UNUSED)
{
    struct counter *counter = body;
    assert_int_equal(counter->n, 0);
    shm_lock_create(&counter->lock);
    counter->n = 7;
}

static const struct shm_layout layout = {
    .name = "test", .magic = 0x7e57u, .version = 3, .size = 100000, .create = create_counter};

static struct shm_segment attach(int fd)
{
    struct shm_segment segment;
    struct err err = {0};
    if (shm_attach(fd, &layout, &segment, &err) != OK)
        fail_msg("%s", err.message);
    return segment;
}

static int create(void)
{
    struct err err = {0};
    int fd = shm_create(&layout, &err);
    if (fd < 0)
        fail_msg("%s", err.message);
    return fd;
}

static void test_segment_is_shared(void **state)
{
    (void)state;
    int fd = create();
    struct shm_segment one = attach(fd), two = attach(fd);
    close(fd);
    struct counter *a = one.body, *b = two.body;
    assert_ptr_not_equal(a, b);
    assert_int_equal((uintptr_t)a % SHM_BODY_ALIGN, 0);
    assert_int_equal(b->n, 7);
    a->n = 8;
    assert_int_equal(b->n, 8);
    shm_detach(&one);
    shm_detach(&two);
    assert_null(two.body);
    shm_detach(&two); /* twice is nothing */
}

static void test_segment_cannot_fault(void **state)
{
    (void)state;
    int fd = create();
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size >= 100000 && (size_t)st.st_blocks * 512 >= (size_t)st.st_size);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, 1 << 20), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1); /* sealed against sealing */
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
}

/* The mapping that holds `address` has the flag dd: left out of core dumps. */
static bool is_left_out_of_dumps(const void *address)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    char line[512];
    bool is_here = false, found = false;
    while (fgets(line, sizeof line, smaps)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            is_here = (uintptr_t)address >= from && (uintptr_t)address < to;
        else if (is_here && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, " dd") != NULL;
    }
    fclose(smaps);
    return found;
}

static void test_segment_is_not_dumped(void **state)
{
    (void)state;
    int fd = create();
    struct shm_segment segment = attach(fd);
    assert_true(is_left_out_of_dumps(segment.body));
    assert_false(is_left_out_of_dumps(&layout));
    shm_detach(&segment);
    close(fd);
}

static void assert_not_attached(int fd, struct shm_layout other)
{
    struct shm_segment segment;
    struct err err = {0};
    assert_int_equal(shm_attach(fd, &other, &segment, &err), ERR);
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_null(segment.body);
}

static void test_segment_of_another_layout(void **state)
{
    (void)state;
    int fd = create();
    struct shm_layout other = layout;
    other.version++;
    assert_not_attached(fd, other);
    other = layout;
    other.magic++;
    assert_not_attached(fd, other);
    other = layout;
    other.size++;
    assert_not_attached(fd, other);
    close(fd);
    assert_not_attached(fd, layout); /* closed */
    fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 100064), 0);
    assert_not_attached(fd, layout); /* may shrink */
    close(fd);
}

/* ---- locks --------------------------------------------------------------------------------------------------- */

/* A child that holds the lock, and says so through the pipe before it stops itself, or dies. */
static pid_t start_holder(struct counter *counter, bool dies)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* none is left behind by a test that fails */
        if (shm_lock(&counter->lock, 0) != SHM_HELD)
            _exit(1);
        counter->n = -1; /* half of a change */
        if (dies)
            _exit(0);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        raise(SIGSTOP);
        shm_unlock(&counter->lock);
        _exit(0);
    }
    close(ready[1]);
    if (!dies)
        assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    if (dies)
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    return pid;
}

static void test_lock_of_the_dead(void **state)
{
    (void)state;
    int fd = create();
    struct shm_segment segment = attach(fd);
    struct counter *counter = segment.body;
    for (int i = 0; i < 3; i++) { /* again and again: it never becomes unrecoverable */
        start_holder(counter, true);
        assert_int_equal(shm_lock(&counter->lock, SHM_WAIT_MAX_US), SHM_ORPHANED);
        assert_int_equal(counter->n, -1);
        counter->n = 0;
        shm_unlock(&counter->lock);
        assert_int_equal(shm_lock(&counter->lock, 0), SHM_HELD);
        shm_unlock(&counter->lock);
    }
    shm_detach(&segment);
    close(fd);
}

static void test_dies_within_the_reset(void **state)
{
    (void)state;
    int fd = create();
    struct shm_segment segment = attach(fd);
    struct counter *counter = segment.body;
    start_holder(counter, true);
    pid_t pid = fork();
    if (pid == 0)
        _exit(shm_lock(&counter->lock, 0) == SHM_ORPHANED ? 0 : 1); /* told, and dead before it could reset */
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(shm_lock(&counter->lock, 0), SHM_ORPHANED);
    shm_unlock(&counter->lock);
    shm_detach(&segment);
    close(fd);
}

static void test_lock_of_the_stopped(void **state)
{
    (void)state;
    int fd = create();
    struct shm_segment segment = attach(fd);
    struct counter *counter = segment.body;
    pid_t pid = start_holder(counter, false);
    assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid); /* it has stopped */
    assert_int_equal(shm_lock(&counter->lock, 0), SHM_BUSY);
    assert_int_equal(shm_lock(&counter->lock, UINT32_MAX), SHM_BUSY); /* and comes back: the wait is capped */
    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(shm_lock(&counter->lock, 0), SHM_HELD); /* it had unlocked */
    shm_unlock(&counter->lock);
    shm_detach(&segment);
    close(fd);
}

/* Every caller would stand still for the whole wait, one after the other, as long as the holder does. */
static void test_who_stands_still_is_not_waited_for_again_and_again(void **state)
{
    (void)state;
    enum { TRIES = 2000 };
    int fd = create();
    struct shm_segment segment = attach(fd);
    struct counter *counter = segment.body;
    pid_t pid = start_holder(counter, false);
    assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
    uint64_t began_ms = clock_ms();
    for (int i = 0; i < TRIES; i++)
        assert_int_equal(shm_lock(&counter->lock, SHM_WAIT_MAX_US), SHM_BUSY);
    assert_true(clock_ms() - began_ms < TRIES * SHM_WAIT_MAX_US / 1000 / 2);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(shm_lock(&counter->lock, 0), SHM_ORPHANED);
    shm_unlock(&counter->lock);
    pid = start_holder(counter, false); /* another one, who has it for a moment: he is waited for */
    assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
    began_ms = clock_ms();
    assert_int_equal(shm_lock(&counter->lock, SHM_WAIT_MAX_US), SHM_BUSY);
    assert_true(clock_ms() - began_ms >= SHM_WAIT_MAX_US / 1000 - 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    shm_detach(&segment);
    close(fd);
}

static void test_waits_for_a_moment(void **state)
{
    (void)state;
    enum { ROUNDS = 20000 };
    int fd = create();
    struct shm_segment segment = attach(fd);
    struct counter *counter = segment.body;
    counter->n = 0;
    pid_t pids[3];
    for (int i = 0; i < 3; i++)
        if ((pids[i] = fork()) == 0) {
            for (int n = 0; n < ROUNDS;) {
                if (shm_lock(&counter->lock, SHM_WAIT_MAX_US) != SHM_HELD)
                    continue;
                counter->n++;
                shm_unlock(&counter->lock);
                n++;
            }
            _exit(0);
        }
    for (int i = 0; i < 3; i++)
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
    assert_int_equal(counter->n, 3 * ROUNDS);
    shm_detach(&segment);
    close(fd);
}

static void test_an_offered_segment_is_taken_if_it_fits(void **state)
{
    (void)state;
    struct err err = {0};
    struct shm_layout older = {.name = "chowk-offered", .magic = 7, .version = 1, .size = 100};
    struct shm_layout newer = {.name = "chowk-offered", .magic = 7, .version = 2, .size = 100};
    int first = shm_create(&older, &err);
    shm_offer(first);
    int second = shm_create(&newer, &err);
    assert_int_not_equal(second, first);
    assert_int_equal(shm_create(&older, &err), first);
    int third = shm_create(&older, &err);
    assert_int_not_equal(third, first);
    shm_offer(second);
    shm_offer_end();
    assert_int_equal(fcntl(second, F_GETFD), -1);
    close(first);
    close(third);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_sealed_against_everything),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_refuses_what_can_change),
        cmocka_unit_test(test_name_too_long),
        cmocka_unit_test(test_segment_is_shared),
        cmocka_unit_test(test_segment_cannot_fault),
        cmocka_unit_test(test_segment_is_not_dumped),
        cmocka_unit_test(test_segment_of_another_layout),
        cmocka_unit_test(test_lock_of_the_dead),
        cmocka_unit_test(test_dies_within_the_reset),
        cmocka_unit_test(test_lock_of_the_stopped),
        cmocka_unit_test(test_who_stands_still_is_not_waited_for_again_and_again),
        cmocka_unit_test(test_waits_for_a_moment),
        cmocka_unit_test(test_an_offered_segment_is_taken_if_it_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
