#include "server/listen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/listener.h"
#include "server/port_owner.h"

enum { BACKLOG = 4096 }; /* the kernel caps it at net.core.somaxconn */

static bool is_unix(const struct addr *addr)
{
    return addr->sa.ss_family == AF_UNIX;
}

static unsigned port_of(const struct addr *addr)
{
    struct sockaddr_in v4; /* the port is at the same place in both families */
    memcpy(&v4, &addr->sa, sizeof(v4));
    return is_unix(addr) ? 0 : ntohs(v4.sin_port);
}

static enum status name_owner(const struct addr *addr, struct err *err)
{
    char text[ADDR_TEXT_MAX];
    struct buf owner = {0};
    addr_text(addr, text);
    if (port_owner_find(addr, &owner))
        err_set(err, ERR_UNAVAILABLE, "listen: %s is served already by %.*s", text, (int)owner.len, owner.ptr);
    else
        err_prefix(err, "listen");
    buf_free(&owner);
    return ERR;
}

static enum status take_real_port(struct listen_set *set, struct err *err)
{
    set->addr.len = sizeof(set->addr.sa);
    /* The generic socket address is the one type every family's may be read through. */
    struct sockaddr *sa = (struct sockaddr *)&set->addr.sa;
    if (getsockname(set->fds[0], sa, &set->addr.len) == 0)
        return OK;
    return err_errno(err, errno, "getsockname");
}

static enum status bind_one(struct listen_set *set, unsigned i, struct err *err)
{
    if (i > 0 && is_unix(&set->addr)) {
        set->fds[i] = set->fds[0];
        return OK;
    }
    set->fds[i] = listener_bind(&set->addr, BACKLOG, !is_unix(&set->addr), err);
    if (set->fds[i] < 0)
        return err_prefix(err, "listen");
    return i == 0 && !is_unix(&set->addr) ? take_real_port(set, err) : OK;
}

enum status listen_open(struct listen_set *set, const char *address, unsigned n_workers, struct err *err)
{
    *set = (struct listen_set){0};
    if (addr_parse(slice_str(address), &set->addr, err) != OK)
        return err_prefix(err, "listen");
    bool is_chosen = is_unix(&set->addr) || port_of(&set->addr) != 0;
    if (is_chosen && listener_probe(&set->addr, err) != OK)
        return name_owner(&set->addr, err);
    set->fds = xalloc(n_workers * sizeof(int));
    for (unsigned i = 0; i < n_workers; i++) {
        if (bind_one(set, i, err) != OK) {
            listen_close(set);
            return ERR;
        }
        set->n_workers = i + 1;
    }
    return OK;
}

void listen_close(struct listen_set *set)
{
    for (unsigned i = 0; i < set->n_workers; i++)
        if (i == 0 || set->fds[i] != set->fds[0])
            close(set->fds[i]);
    if (set->n_workers > 0 && is_unix(&set->addr)) {
        struct sockaddr_un un;
        memcpy(&un, &set->addr.sa, sizeof(un));
        unlink(un.sun_path);
    }
    free(set->fds);
    *set = (struct listen_set){0};
}

void listen_url(const struct listen_set *set, char *out, size_t size)
{
    char text[ADDR_TEXT_MAX];
    addr_text(&set->addr, text);
    if (is_unix(&set->addr))
        snprintf(out, size, "%s", text);
    else if (strncmp(text, "0.0.0.0:", 8) == 0 || strncmp(text, "[::]:", 5) == 0)
        snprintf(out, size, "http://127.0.0.1:%u", port_of(&set->addr));
    else
        snprintf(out, size, "http://%s", text);
}
