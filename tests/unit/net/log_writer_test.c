/* Lines to a pipe that nobody reads, to one that is read in bits, and to files that are moved away. */
#include "net/net_help.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "net/log_writer.h"

enum { WAIT_MS = 20000, LINE = 100 };

static int fds[2];
static char text[1 << 20];

static void tell(struct buf *out, const struct log_writer_news *news)
{
    buf_printf(out, "dropped %llu, error %d\n", (unsigned long long)news->n_dropped,
               news->write_error ? news->write_error : news->open_error);
}

static struct log_writer *open_pipe(size_t max_bytes)
{
    struct err err;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    fcntl(fds[1], F_SETPIPE_SZ, 4096);
    return log_writer_new(&(struct log_writer_opts){.fd = fds[1], .max_bytes = max_bytes, .tell = tell}, &err);
}

static void close_pipe(void)
{
    close(fds[0]);
    close(fds[1]);
}

static size_t push(struct log_writer *writer, const char *line)
{
    return log_writer_push(writer, slice_str(line));
}

/* Reads from fds[0] until `end` has come, or for ever. */
static void read_until(const char *end)
{
    size_t len = 0;
    text[0] = '\0';
    while (!strstr(text, end)) {
        ssize_t n = read(fds[0], text + len, sizeof(text) - 1 - len);
        assert_true(n > 0);
        len += (size_t)n;
        text[len] = '\0';
    }
}

static const char *numbered(int i)
{
    static char line[LINE + 32]; /* the compiler counts more digits than there are */
    snprintf(line, sizeof(line), "%08d %0*d\n", i, LINE - 10, 0);
    return line;
}

static void test_lines_come_in_order(void **state)
{
    (void)state;
    struct log_writer *writer = open_pipe(1 << 20);
    assert_int_equal(push(writer, "one\n"), 0);
    assert_int_equal(push(writer, "two\nthree\n"), 0);
    read_until("three\n");
    assert_string_equal(text, "one\ntwo\nthree\n");
    assert_true(log_writer_drain(writer, WAIT_MS));
    log_writer_free(writer, WAIT_MS);
    close_pipe();
}

/* Until the thread is in a write that finds no room: what is in the pipe then is all that goes in. */
static void wait_until_stuck(int n_bytes)
{
    int n = 0;
    for (int ms = 0; ms < WAIT_MS && n < n_bytes; ms++) {
        assert_int_equal(ioctl(fds[0], FIONREAD, &n), 0);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(n, n_bytes);
}

/* Nobody reads: pushing goes on, what does not fit is counted; then somebody does, and is told once, in its place. */
static void test_a_stuck_pipe_drops_and_tells(void **state)
{
    enum { N = 1000, N_HELD = 8192 / LINE, N_PIPE = 4096 / LINE };
    (void)state;
    struct log_writer *writer = open_pipe(8192);
    struct buf lines = {0};
    for (int i = 0; i < N_HELD; i++)
        buf_append(&lines, numbered(i), LINE);
    assert_int_equal(log_writer_push(writer, buf_as_slice(&lines)), 0);
    wait_until_stuck(N_PIPE * LINE);
    for (int i = N_HELD; i < N; i++)
        assert_int_equal(push(writer, numbered(i)), 1);
    assert_false(log_writer_drain(writer, 1));
    char note[64];
    snprintf(note, sizeof(note), "\ndropped %d, error 0\n", N - N_HELD);
    read_until(note);
    for (int i = 0; i < N_HELD; i++) /* whole lines, none missing before the note */
        assert_memory_equal(text + (size_t)i * LINE, numbered(i), LINE);
    assert_string_equal(text + (size_t)N_HELD * LINE, note + 1);
    push(writer, "after\n");
    read_until("after\n");
    assert_string_equal(text, "after\n"); /* told once */
    buf_free(&lines);
    log_writer_free(writer, WAIT_MS);
    close_pipe();
}

/* A descriptor somebody made non-blocking takes bits, or nothing for a while: no byte is lost. */
static void test_short_writes_are_finished(void **state)
{
    (void)state;
    enum { LEN = 100000 };
    struct log_writer *writer = open_pipe(1 << 20);
    struct buf line = {0};
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    for (int i = 0; i < LEN; i++)
        buf_byte(&line, (char)('a' + i % 26));
    buf_lit(&line, "\n");
    assert_int_equal(log_writer_push(writer, buf_as_slice(&line)), 0);
    push(writer, "end\n");
    read_until("end\n");
    assert_memory_equal(text, line.ptr, line.len);
    assert_string_equal(text + line.len, "end\n");
    buf_free(&line);
    log_writer_free(writer, WAIT_MS);
    close_pipe();
}

static void test_of_many_lines_those_that_fit_are_taken(void **state)
{
    (void)state;
    struct log_writer *writer = open_pipe(10);
    assert_int_equal(push(writer, "1234\n5678\n9012\n3456\n"), 2);
    read_until("dropped 2, error 0\n");
    assert_string_equal(text, "1234\n5678\ndropped 2, error 0\n");
    log_writer_free(writer, WAIT_MS);
    close_pipe();
}

/* The end waits for the rest, but not for ever. */
static void test_free_writes_the_rest_or_gives_up(void **state)
{
    (void)state;
    struct log_writer *writer = open_pipe(1 << 20);
    push(writer, "last\n");
    log_writer_free(writer, WAIT_MS);
    assert_int_equal(read(fds[0], text, sizeof(text)), 5);
    close_pipe();
    writer = open_pipe(1 << 20);
    for (int i = 0; i < 200; i++)
        push(writer, numbered(i));
    log_writer_free(writer, 20);             /* comes back */
    while (read(fds[0], text, 4096) == 4096) /* so that its thread ends */
        continue;
    close_pipe();
}

static void read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
}

/* Moved away, reopened: what came before is in the old file, what comes after in the new one. */
static void test_reopen(void **state)
{
    (void)state;
    char dir[] = "/tmp/chowk-log-XXXXXX", path[64], old[64], moved[64], there[80];
    struct err err;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/log", dir);
    snprintf(old, sizeof(old), "%s/log.1", dir);
    snprintf(moved, sizeof(moved), "%s-moved", dir);
    snprintf(there, sizeof(there), "%s/log", moved);
    struct log_writer *writer =
        log_writer_new(&(struct log_writer_opts){.path = path, .max_bytes = 4096, .tell = tell}, &err);
    push(writer, "one\n");
    assert_true(log_writer_drain(writer, WAIT_MS));
    assert_int_equal(rename(path, old), 0);
    push(writer, "two\n");
    log_writer_reopen(writer);
    while (access(path, F_OK) != 0)
        usleep(1000);
    push(writer, "three\n");
    assert_true(log_writer_drain(writer, WAIT_MS));
    read_file(old);
    assert_string_equal(text, "one\ntwo\n");
    read_file(path);
    assert_string_equal(text, "three\n");
    assert_int_equal(rename(dir, moved), 0); /* the path leads nowhere: the old file goes on */
    log_writer_reopen(writer);
    push(writer, "four\n");
    log_writer_free(writer, WAIT_MS);
    read_file(there);
    assert_non_null(strstr(text, "four\n"));
    assert_non_null(strstr(text, "dropped 0, error 2\n")); /* ENOENT */
    unlink(there);
    snprintf(there, sizeof(there), "%s/log.1", moved);
    unlink(there);
    rmdir(moved);
}

/* A full disk: told where it can be read, and not with each try. */
static void test_a_file_that_cannot_be_written(void **state)
{
    enum { TRIES_MS = 1500 };
    (void)state;
    struct err err;
    int real = dup(STDERR_FILENO);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    dup2(fds[1], STDERR_FILENO);
    struct log_writer *writer =
        log_writer_new(&(struct log_writer_opts){.path = "/dev/full", .max_bytes = 4096, .tell = tell}, &err);
    push(writer, "lost\n");
    struct pollfd heard = {.fd = fds[0], .events = POLLIN};
    int told = poll(&heard, 1, WAIT_MS), again = 0;
    if (told == 1) {
        read_until("\n");
        again = poll(&heard, 1, TRIES_MS);
    }
    log_writer_free(writer, WAIT_MS);
    dup2(real, STDERR_FILENO);
    close(real);
    close_pipe();
    assert_int_equal(told, 1);
    assert_string_equal(text, "dropped 0, error 28\n"); /* ENOSPC */
    assert_int_equal(again, 0);
}

static void test_a_file_that_cannot_be_opened(void **state)
{
    (void)state;
    struct err err;
    struct log_writer_opts opts = {.path = "/nowhere/at/all", .max_bytes = 4096};
    assert_null(log_writer_new(&opts, &err));
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_come_in_order),
        cmocka_unit_test(test_a_stuck_pipe_drops_and_tells),
        cmocka_unit_test(test_short_writes_are_finished),
        cmocka_unit_test(test_of_many_lines_those_that_fit_are_taken),
        cmocka_unit_test(test_free_writes_the_rest_or_gives_up),
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_a_file_that_cannot_be_opened),
        cmocka_unit_test(test_a_file_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
