#include "base/shm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_sealed_against_everything),
        cmocka_unit_test(test_empty),         cmocka_unit_test(test_refuses_what_can_change),
        cmocka_unit_test(test_name_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
