#include "server/process_stats.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

static bool read_file(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* Kernels since 6.2 say it in the directory's size; others have it counted. */
static uint64_t count_fds(pid_t pid)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    if (stat(path, &st) == 0 && st.st_size > 0)
        return (uint64_t)st.st_size;
    DIR *dir = opendir(path);
    if (!dir)
        return 0;
    uint64_t n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* Ticks are counted from the boot; so is this clock, but for the time asleep, which CLOCK_BOOTTIME has too. */
static int64_t wall_of_ticks(uint64_t ticks)
{
    struct timespec since_boot;
    if (clock_gettime(CLOCK_BOOTTIME, &since_boot) != 0)
        return 0;
    int64_t boot_ms = clock_wall_ms() - (since_boot.tv_sec * 1000 + since_boot.tv_nsec / 1000000);
    return boot_ms + (int64_t)(ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

bool process_stats_read(pid_t pid, struct process_stats *out)
{
    enum { UTIME = 14, STIME = 15, THREADS = 20, START = 22, VSIZE = 23, RSS = 24 }; /* proc(5), counted from 1 */
    char path[64], text[1024];
    *out = (struct process_stats){0};
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (!read_file(path, text, sizeof(text)))
        return false;
    char *at = strrchr(text, ')'); /* the name before it may hold anything */
    uint64_t fields[RSS + 1] = {0};
    for (int i = 3; at && i <= RSS && (at = strchr(at, ' ')); i++)
        fields[i] = strtoull(++at, NULL, 10);
    uint64_t tick_us = 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
    out->cpu_us = (fields[UTIME] + fields[STIME]) * tick_us;
    out->resident_bytes = fields[RSS] * (uint64_t)sysconf(_SC_PAGESIZE);
    out->virtual_bytes = fields[VSIZE];
    out->threads = fields[THREADS];
    out->started_wall_ms = wall_of_ticks(fields[START]);
    out->open_fds = count_fds(pid);
    return true;
}

uint64_t process_stats_waited_us(pid_t pid)
{
    char path[64], text[128];
    unsigned long long waited_ns = 0;
    snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
    bool is_read = read_file(path, text, sizeof(text)) && sscanf(text, "%*u %llu", &waited_ns) == 1;
    return is_read ? waited_ns / 1000 : 0;
}

uint64_t process_stats_own_bytes(void)
{
    char text[128];
    unsigned long long resident = 0, shared = 0;
    if (!read_file("/proc/self/statm", text, sizeof(text)) || sscanf(text, "%*u %llu %llu", &resident, &shared) != 2)
        return 0;
    return (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
}
