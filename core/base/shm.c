/* Sealed memfds. The seals are what makes a reader safe: nobody, not even the writer, can change or truncate
 * the bytes under its mapping any more. A private read-only mapping shares the page cache all the same, and
 * unlike a shared one is allowed on a write-sealed file by every kernel. */
#include "base/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
