#include "server/run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

static enum status make_dirs(const char *dir, struct err *err)
{
    char *path = xstrndup(dir, strlen(dir));
    enum status status = OK;
    for (char *p = path + 1; status == OK; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        bool is_last = *p == '\0';
        *p = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            status = err_errno(err, errno, "run.dir: cannot create %s", path);
        if (is_last)
            break;
        *p = '/';
    }
    free(path);
    return status;
}

static enum status name_holder(int fd, struct err *err)
{
    char text[200] = "";
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return err_set(err, ERR_UNAVAILABLE, "chowk already runs for this application: %s",
                   *text ? text : "a process that is just starting");
}

enum status run_dir_write(int fd, const char *address, struct err *err)
{
    char text[300];
    int len = snprintf(text, sizeof(text), "pid %d on %s\n", (int)getpid(), address);
    /* in this order: who reads meanwhile (an upgrade writes over the old one's) finds a pid */
    if (len < (int)sizeof(text) && pwrite(fd, text, (size_t)len, 0) == len && ftruncate(fd, len) == 0)
        return OK;
    return err_errno(err, errno, "run.dir: cannot write chowk.pid");
}

bool run_dir_is_held(const char *dir, int fd)
{
    struct stat held, here;
    struct buf path = {0};
    buf_printf(&path, "%s/chowk.pid", dir);
    buf_byte(&path, '\0');
    bool is_same =
        fstat(fd, &held) == 0 && stat(path.ptr, &here) == 0 && held.st_dev == here.st_dev && held.st_ino == here.st_ino;
    buf_free(&path);
    return is_same;
}

int run_dir_lock(const char *dir, const char *address, struct err *err)
{
    if (make_dirs(dir, err) != OK)
        return -1;
    struct buf path = {0};
    buf_printf(&path, "%s/chowk.pid", dir);
    buf_byte(&path, '\0');
    int fd = open(path.ptr, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        err_errno(err, errno, "run.dir: cannot open %s", path.ptr);
    buf_free(&path);
    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        name_holder(fd, err);
        close(fd);
        return -1;
    }
    if (run_dir_write(fd, address, err) != OK) {
        close(fd);
        return -1;
    }
    return fd;
}

void run_dir_unlock(int fd)
{
    if (fd < 0)
        return;
    /* Emptied, not removed: a removed file could be locked by one process while the next creates another. */
    if (ftruncate(fd, 0) != 0)
        (void)0;
    close(fd);
}
