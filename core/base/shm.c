/* Sealed memfds. The seals are what makes a reader safe: nobody, not even the writer, can change or truncate
 * the bytes under its mapping any more. A private read-only mapping shares the page cache all the same, and
 * unlike a shared one is allowed on a write-sealed file by every kernel.
 *
 * Writable segments. Size and place are fixed for life, so a mapping can never fault; the header in front of the body
 * says what is inside. Their locks are robust: the kernel tells the next one when a holder died. They are never waited
 * for long, because who waits here is an event loop, and a holder may be stopped, or dump core for seconds (T11). */
#include "base/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SEALS_NEEDED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static enum status write_all(int fd, struct slice bytes)
{
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ERR;
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return OK;
}

int shm_seal(const char *name, struct slice bytes, struct err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        err_errno(err, errno, "memfd %s", name);
        return -1;
    }
    if (write_all(fd, bytes) != OK || fcntl(fd, F_ADD_SEALS, SEALS_NEEDED | F_SEAL_SEAL) != 0) {
        err_errno(err, errno, "memfd %s: cannot write and seal %zu bytes", name, bytes.len);
        close(fd);
        return -1;
    }
    return fd;
}

enum status shm_open_sealed(int fd, struct shm_map *map, struct err *err)
{
    *map = (struct shm_map){0};
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &st) != 0)
        return err_errno(err, errno, "fd %d is not a memfd", fd);
    if ((seals & SEALS_NEEDED) != SEALS_NEEDED)
        return err_set(err, ERR_SYSTEM, "memfd %d is not sealed", fd);
    if (st.st_size == 0)
        return OK;
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return err_errno(err, errno, "cannot map %jd bytes of memfd %d", (intmax_t)st.st_size, fd);
    map->bytes = slice_of(bytes, (size_t)st.st_size);
    return OK;
}

void shm_close(struct shm_map *map)
{
    union {
        const char *mapped;
        void *unmap;
    } bytes = {.mapped = map->bytes.ptr};
    if (map->bytes.len > 0)
        CHECK(munmap(bytes.unmap, map->bytes.len) == 0);
    *map = (struct shm_map){0};
}

/* ---- segments ------------------------------------------------------------------------------------------------ */

enum {
    SPINS = 200,  /* about ten microseconds: a holder that runs is done by then */
    LATE_MAX = 4, /* waits in vain, then its holder does not run at all */
};

struct header {
    uint32_t magic, version;
    uint64_t size; /* of the body */
    char rest[SHM_BODY_ALIGN - 16];
};

static enum status map_segment(int fd, size_t size, struct shm_segment *segment, struct err *err)
{
    size_t len = sizeof(struct header) + size;
    void *start = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED)
        return err_errno(err, errno, "cannot map %zu bytes of memfd %d", len, fd);
    madvise(start, len, MADV_DONTDUMP); /* a core dump would hold the locks while it writes them out */
    segment->body = (char *)start + sizeof(struct header);
    segment->mapped_len = len;
    return OK;
}

static struct header *header_of(const struct shm_segment *segment)
{
    return (struct header *)segment->body - 1;
}

static enum status fill_segment(int fd, const struct shm_layout *layout, struct err *err)
{
    struct shm_segment segment = {0};
    size_t len = sizeof(struct header) + layout->size;
    int errnum = ftruncate(fd, (off_t)len) == 0 ? posix_fallocate(fd, 0, (off_t)len) : errno;
    if (errnum)
        return err_errno(err, errnum, "memfd %s: cannot allocate %zu bytes", layout->name, len);
    if (map_segment(fd, layout->size, &segment, err) != OK)
        return ERR;
    *header_of(&segment) = (struct header){.magic = layout->magic, .version = layout->version, .size = layout->size};
    if (layout->create)
        layout->create(segment.body, layout->data);
    shm_detach(&segment);
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return err_errno(err, errno, "memfd %s: cannot seal", layout->name);
    return OK;
}

static int take_offered(const struct shm_layout *layout);

int shm_create(const struct shm_layout *layout, struct err *err)
{
    int offered = take_offered(layout);
    if (offered >= 0)
        return offered;
    int fd = memfd_create(layout->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        err_errno(err, errno, "memfd %s", layout->name);
        return -1;
    }
    if (fill_segment(fd, layout, err) == OK)
        return fd;
    close(fd);
    return -1;
}

size_t shm_size(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || (size_t)st.st_size <= sizeof(struct header))
        return 0;
    return (size_t)st.st_size - sizeof(struct header);
}

enum status shm_attach(int fd, const struct shm_layout *layout, struct shm_segment *segment, struct err *err)
{
    *segment = (struct shm_segment){0};
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &st) != 0)
        return err_errno(err, errno, "fd %d is not a memfd", fd);
    int needed = F_SEAL_SHRINK | F_SEAL_GROW;
    if ((seals & needed) != needed || (size_t)st.st_size != sizeof(struct header) + layout->size)
        return err_set(err, ERR_SYSTEM, "memfd %d is no segment of %s", fd, layout->name);
    if (map_segment(fd, layout->size, segment, err) != OK)
        return ERR;
    const struct header *header = header_of(segment);
    if (header->magic == layout->magic && header->version == layout->version && header->size == layout->size)
        return OK;
    err_set(err, ERR_SYSTEM, "memfd %d has another layout than version %u of %s", fd, layout->version, layout->name);
    shm_detach(segment);
    return ERR;
}

void shm_detach(struct shm_segment *segment)
{
    if (segment->body)
        CHECK(munmap(header_of(segment), segment->mapped_len) == 0);
    *segment = (struct shm_segment){0};
}

/* ---- inherited ones ------------------------------------------------------------------------------------------ */

static struct {
    int fds[32];
    size_t len;
} offered;

void shm_offer(int fd)
{
    if (offered.len == ARRAY_LEN(offered.fds))
        close(fd);
    else
        offered.fds[offered.len++] = fd;
}

void shm_offer_end(void)
{
    while (offered.len > 0)
        close(offered.fds[--offered.len]);
}

static int take_offered(const struct shm_layout *layout)
{
    for (size_t i = 0; i < offered.len; i++) {
        struct shm_segment segment;
        int fd = offered.fds[i];
        if (shm_attach(fd, layout, &segment, NULL) != OK)
            continue;
        shm_detach(&segment);
        offered.fds[i] = offered.fds[--offered.len];
        return fd;
    }
    return -1;
}

/* ---- locks --------------------------------------------------------------------------------------------------- */

void shm_lock_create(struct shm_lock *lock)
{
    pthread_mutexattr_t attr;
    CHECK(pthread_mutexattr_init(&attr) == 0);
    CHECK(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&lock->mutex, &attr) == 0);
    pthread_mutexattr_destroy(&attr);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int wait_for_lock(struct shm_lock *lock, uint32_t wait_us)
{
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    until.tv_nsec += (long)(wait_us < SHM_WAIT_MAX_US ? wait_us : SHM_WAIT_MAX_US) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    return pthread_mutex_clocklock(&lock->mutex, CLOCK_MONOTONIC, &until);
}

enum shm_held shm_lock(struct shm_lock *lock, uint32_t wait_us)
{
    int rc = pthread_mutex_trylock(&lock->mutex);
    for (int i = 0; rc == EBUSY && i < SPINS; i++) {
        relax();
        rc = pthread_mutex_trylock(&lock->mutex);
    }
    if (rc == EBUSY && wait_us > 0 && atomic_load_explicit(&lock->n_late, memory_order_relaxed) < LATE_MAX) {
        rc = wait_for_lock(lock, wait_us);
        if (rc == ETIMEDOUT)
            atomic_fetch_add_explicit(&lock->n_late, 1, memory_order_relaxed);
    }
    if (rc != 0 && rc != EOWNERDEAD)
        return SHM_BUSY;
    if (atomic_load_explicit(&lock->n_late, memory_order_relaxed) > 0)
        atomic_store_explicit(&lock->n_late, 0, memory_order_relaxed);
    if (rc == 0)
        return SHM_HELD;
    /* At once, not after the reset: should we die before its end, the next one is told again. */
    CHECK(pthread_mutex_consistent(&lock->mutex) == 0);
    return SHM_ORPHANED;
}

void shm_unlock(struct shm_lock *lock)
{
    CHECK(pthread_mutex_unlock(&lock->mutex) == 0);
}
