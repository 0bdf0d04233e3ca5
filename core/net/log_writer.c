/* Two buffers: the one that is being filled, under the mutex, and the thread's own, which is being written. The thread
 * swaps them, so it holds the mutex for a few instructions, however long its write takes. After a write it naps for a
 * moment: a busy server wakes it 200 times a second, not once a request. */
#include "net/log_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/thread.h"

#define LOG_WRITER_MAGIC 0x106a3101u

enum { NAP_MS = 5, RETRY_MS = 1000, COMPLAIN_MS = 60000, LOOK_MS = 1, KEEP_CAP = 64 * 1024 };

struct log_writer {
    unsigned magic;
    char *path; /* owned; NULL: the descriptor is borrowed */
    int fd;     /* the thread's, once it runs */
    bool is_regular, has_thread;
    size_t max_bytes;
    void (*tell)(struct buf *out, const struct log_writer_news *news);
    pthread_t thread;
    struct buf writing;   /* the thread's */
    size_t n_done;        /* of it */
    uint64_t complain_ms; /* until then it has told of a write that failed */

    /* Monotonic, of bytes: equal when all is written. A signal handler may read them. */
    _Atomic uint64_t pushed, written;

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t has_work, must_hurry;
    struct buf filling;
    size_t n_writing; /* writing.len, for who fills */
    uint64_t n_dropped;
    bool is_waiting, wants_reopen, is_stopped;
    bool has_ended, is_orphan; /* the thread's end; its owner gave up waiting for it, and the thread frees all */
};

static void destroy(struct log_writer *writer)
{
    if (writer->path)
        close(writer->fd);
    pthread_cond_destroy(&writer->has_work);
    pthread_cond_destroy(&writer->must_hurry);
    pthread_mutex_destroy(&writer->mutex);
    buf_free(&writer->filling);
    buf_free(&writer->writing);
    free(writer->path);
    writer->magic = 0;
    free(writer);
}

/* ---- on the thread ------------------------------------------------------------------------------------------- */

static struct timespec in_ms(unsigned ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000)
        at.tv_sec++, at.tv_nsec -= 1000000000;
    return at;
}

/* Until then, or until a stop. True: a stop has begun. */
static bool nap(struct log_writer *writer, unsigned ms)
{
    struct timespec until = in_ms(ms);
    pthread_mutex_lock(&writer->mutex);
    writer->n_writing = writer->writing.len - writer->n_done; /* what is written is room again, now */
    while (!writer->is_stopped && pthread_cond_timedwait(&writer->must_hurry, &writer->mutex, &until) == 0)
        continue;
    bool is_stopped = writer->is_stopped;
    pthread_mutex_unlock(&writer->mutex);
    return is_stopped;
}

/* As many whole lines as one write may take; all of them where writes are not mixed, or one that is longer. */
static size_t next_piece(const struct log_writer *writer)
{
    const char *ptr = writer->writing.ptr + writer->n_done;
    size_t len = writer->writing.len - writer->n_done;
    if (writer->is_regular || len <= PIPE_BUF)
        return len;
    const char *end = memrchr(ptr, '\n', PIPE_BUF);
    if (!end)
        end = memchr(ptr, '\n', len);
    return (size_t)(end + 1 - ptr);
}

/* On standard error, unless that is what cannot be written, or nobody reads it. */
static void complain(struct log_writer *writer, int error)
{
    struct pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT};
    struct buf text = {0};
    if (!writer->path || !writer->tell || clock_ms() < writer->complain_ms || poll(&fd, 1, 0) != 1)
        return;
    writer->complain_ms = clock_ms() + COMPLAIN_MS;
    writer->tell(&text, &(struct log_writer_news){.write_error = error, .path = writer->path});
    (void)!write(STDERR_FILENO, text.ptr, text.len);
    buf_free(&text);
}

/* The descriptor may be a non-blocking one that others made so: then poll waits. */
static bool write_some(struct log_writer *writer)
{
    ssize_t n = write(writer->fd, writer->writing.ptr + writer->n_done, next_piece(writer));
    if (n > 0) {
        writer->n_done += (size_t)n;
        atomic_fetch_add(&writer->written, (uint64_t)n);
        return true;
    }
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0 && errno == EAGAIN && poll(&(struct pollfd){.fd = writer->fd, .events = POLLOUT}, 1, RETRY_MS) >= 0)
        return true;
    if (n < 0)
        complain(writer, errno);
    return !nap(writer, RETRY_MS);
}

/* False: it cannot be written, and a stop has begun. */
static bool write_all(struct log_writer *writer)
{
    writer->n_done = 0;
    while (writer->n_done < writer->writing.len)
        if (!write_some(writer))
            return false;
    return true;
}

static void look_at_fd(struct log_writer *writer)
{
    struct stat st;
    writer->is_regular = fstat(writer->fd, &st) == 0 && S_ISREG(st.st_mode);
}

static int open_path(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
}

/* Behind what is being written. It is not counted in what waits: there is one such text at a time. */
static void tell(struct log_writer *writer, struct log_writer_news news)
{
    size_t len = writer->writing.len;
    if (!writer->tell)
        return;
    writer->tell(&writer->writing, &news);
    atomic_fetch_add(&writer->pushed, writer->writing.len - len);
}

static void reopen(struct log_writer *writer)
{
    int fd = open_path(writer->path);
    if (fd < 0) {
        buf_clear(&writer->writing);
        tell(writer, (struct log_writer_news){.open_error = errno});
        (void)write_all(writer);
        return;
    }
    close(writer->fd);
    writer->fd = fd;
    look_at_fd(writer);
}

/* Waits for lines, and takes them. False: there are none, and will be none. */
static bool take(struct log_writer *writer, bool *wants_reopen)
{
    buf_clear(&writer->writing);
    if (writer->writing.cap > KEEP_CAP)
        buf_free(&writer->writing);
    pthread_mutex_lock(&writer->mutex);
    writer->n_writing = 0;
    writer->is_waiting = true;
    while (writer->filling.len == 0 && writer->n_dropped == 0 && !writer->wants_reopen && !writer->is_stopped)
        pthread_cond_wait(&writer->has_work, &writer->mutex);
    writer->is_waiting = false;
    struct buf filled = writer->filling;
    writer->filling = writer->writing;
    writer->writing = filled;
    if (writer->n_dropped > 0)
        tell(writer, (struct log_writer_news){.n_dropped = writer->n_dropped});
    writer->n_dropped = 0;
    writer->n_writing = writer->writing.len;
    *wants_reopen = writer->wants_reopen;
    writer->wants_reopen = false;
    bool has_ended = writer->is_stopped && writer->writing.len == 0;
    pthread_mutex_unlock(&writer->mutex);
    return !has_ended;
}

static void *run_thread(void *data)
{
    struct log_writer *writer = data;
    bool wants_reopen;
    while (take(writer, &wants_reopen)) {
        if (!write_all(writer))
            break;
        if (wants_reopen)
            reopen(writer);
        (void)nap(writer, NAP_MS);
    }
    pthread_mutex_lock(&writer->mutex);
    writer->has_ended = true;
    bool is_orphan = writer->is_orphan;
    pthread_mutex_unlock(&writer->mutex);
    if (is_orphan)
        destroy(writer);
    return NULL;
}

/* ---- for who pushes ------------------------------------------------------------------------------------------ */

struct log_writer *log_writer_new(const struct log_writer_opts *opts, struct err *err)
{
    int fd = opts->path ? open_path(opts->path) : opts->fd;
    if (fd < 0) {
        (void)err_errno(err, errno, "cannot open %s", opts->path);
        return NULL;
    }
    struct log_writer *writer = xalloc(sizeof(*writer));
    writer->magic = LOG_WRITER_MAGIC;
    writer->path = opts->path ? xstrndup(opts->path, strlen(opts->path)) : NULL;
    writer->fd = fd;
    writer->max_bytes = opts->max_bytes;
    writer->tell = opts->tell;
    look_at_fd(writer);
    pthread_condattr_t attr;
    CHECK(pthread_condattr_init(&attr) == 0 && pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_mutex_init(&writer->mutex, NULL) == 0);
    CHECK(pthread_cond_init(&writer->has_work, &attr) == 0 && pthread_cond_init(&writer->must_hurry, &attr) == 0);
    pthread_condattr_destroy(&attr);
    return writer;
}

static void start_thread(struct log_writer *writer)
{
    CHECK(thread_start(&writer->thread, "log", run_thread, writer) == 0);
    writer->has_thread = true;
}

static size_t count_lines(struct slice lines)
{
    size_t n = 0;
    for (const char *p = lines.ptr, *end = p + lines.len; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
        n++;
    return n;
}

/* Whole lines that fit into `room`. */
static size_t fitting(struct slice lines, size_t room)
{
    if (lines.len <= room)
        return lines.len;
    const char *end = memrchr(lines.ptr, '\n', room);
    return end ? (size_t)(end + 1 - lines.ptr) : 0;
}

size_t log_writer_push(struct log_writer *writer, struct slice lines)
{
    CHECK_OBJ(writer, LOG_WRITER_MAGIC);
    pthread_mutex_lock(&writer->mutex);
    size_t used = writer->filling.len + writer->n_writing;
    size_t len = fitting(lines, used < writer->max_bytes ? writer->max_bytes - used : 0);
    if (writer->n_dropped > 0) /* then nothing passes before the line that says so */
        len = 0;
    buf_append(&writer->filling, lines.ptr, len);
    size_t n_dropped = count_lines(slice_of(lines.ptr + len, lines.len - len));
    writer->n_dropped += n_dropped;
    atomic_fetch_add(&writer->pushed, len);
    if (writer->is_waiting)
        pthread_cond_signal(&writer->has_work);
    pthread_mutex_unlock(&writer->mutex);
    if (!writer->has_thread)
        start_thread(writer);
    return n_dropped;
}

void log_writer_reopen(struct log_writer *writer)
{
    CHECK_OBJ(writer, LOG_WRITER_MAGIC);
    if (!writer->path)
        return;
    pthread_mutex_lock(&writer->mutex);
    writer->wants_reopen = true;
    pthread_cond_signal(&writer->has_work);
    pthread_mutex_unlock(&writer->mutex);
    if (!writer->has_thread)
        start_thread(writer);
}

bool log_writer_drain(struct log_writer *writer, uint32_t max_ms)
{
    uint64_t goal = atomic_load(&writer->pushed);
    for (uint32_t ms = 0; atomic_load(&writer->written) < goal; ms += LOOK_MS) {
        if (ms >= max_ms)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000}, NULL);
    }
    return true;
}

/* It may be stuck in a write for ever: then all of it is left to the thread. */
static bool end_thread(struct log_writer *writer, uint32_t max_ms)
{
    pthread_t thread = writer->thread;
    pthread_mutex_lock(&writer->mutex);
    writer->is_stopped = true;
    pthread_cond_signal(&writer->has_work);
    pthread_cond_signal(&writer->must_hurry);
    pthread_mutex_unlock(&writer->mutex);
    struct timespec until = in_ms(max_ms);
    if (!writer->has_thread || pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) == 0)
        return true;
    pthread_mutex_lock(&writer->mutex);
    bool is_orphan = writer->is_orphan = !writer->has_ended;
    pthread_mutex_unlock(&writer->mutex);
    if (!is_orphan)
        return pthread_join(thread, NULL) == 0;
    pthread_detach(thread);
    return false;
}

void log_writer_free(struct log_writer *writer, uint32_t max_ms)
{
    if (!writer)
        return;
    CHECK_OBJ(writer, LOG_WRITER_MAGIC);
    if (end_thread(writer, max_ms))
        destroy(writer);
}
