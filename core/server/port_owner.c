/* From the port to the listening sockets' inodes (/proc/net/tcp, tcp6), from an inode to the process whose descriptor
 * table holds it (/proc/<pid>/fd). Other users' processes cannot be looked into; then there is no answer. */
#include "server/port_owner.h"

#include <ctype.h>
#include <dirent.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_INODES = 64, TCP_LISTENING = 0x0a };

struct inodes {
    unsigned long ids[MAX_INODES];
    size_t len;
};

static void collect(const char *path, unsigned port, struct inodes *out)
{
    FILE *file = fopen(path, "re");
    char line[512];
    while (file && fgets(line, sizeof(line), file)) {
        unsigned local_port, state;
        unsigned long inode;
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %lu", &local_port, &state, &inode) != 3)
            continue;
        if (local_port == port && state == TCP_LISTENING && out->len < MAX_INODES)
            out->ids[out->len++] = inode;
    }
    if (file)
        fclose(file);
}

static bool is_listed(const struct inodes *inodes, const char *link)
{
    unsigned long inode;
    if (sscanf(link, "socket:[%lu]", &inode) != 1)
        return false;
    for (size_t i = 0; i < inodes->len; i++)
        if (inodes->ids[i] == inode)
            return true;
    return false;
}

static bool holds_any(const char *pid, const struct inodes *inodes)
{
    char path[300], link[64];
    snprintf(path, sizeof(path), "/proc/%s/fd", pid);
    DIR *dir = opendir(path);
    bool found = false;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
        link[n > 0 ? n : 0] = '\0';
        found = is_listed(inodes, link);
    }
    if (dir)
        closedir(dir);
    return found;
}

static void describe(const char *pid, struct buf *out)
{
    char path[300], name[64] = "";
    snprintf(path, sizeof(path), "/proc/%s/comm", pid);
    FILE *file = fopen(path, "re");
    if (file && fgets(name, sizeof(name), file))
        name[strcspn(name, "\n")] = '\0';
    if (file)
        fclose(file);
    buf_printf(out, "pid %s (%s)", pid, *name ? name : "?");
}

bool port_owner_find(const struct addr *addr, struct buf *out)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct inodes inodes = {0};
    if (addr->sa.ss_family == AF_INET) {
        memcpy(&v4, &addr->sa, sizeof(v4));
        collect("/proc/net/tcp", ntohs(v4.sin_port), &inodes);
        collect("/proc/net/tcp6", ntohs(v4.sin_port), &inodes);
    } else if (addr->sa.ss_family == AF_INET6) {
        memcpy(&v6, &addr->sa, sizeof(v6));
        collect("/proc/net/tcp6", ntohs(v6.sin6_port), &inodes);
    }
    if (inodes.len == 0)
        return false;
    DIR *proc = opendir("/proc");
    bool found = false;
    for (struct dirent *entry; proc && !found && (entry = readdir(proc));) {
        found = isdigit((unsigned char)entry->d_name[0]) && holds_any(entry->d_name, &inodes);
        if (found)
            describe(entry->d_name, out);
    }
    if (proc)
        closedir(proc);
    return found;
}
