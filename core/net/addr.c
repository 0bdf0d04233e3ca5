/* Socket addresses from and to text. */
#include "net/addr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/un.h>

#define FORMS "expected \"ip:port\", \"[ipv6]:port\", \":port\" or \"unix:/path\""

static enum status refuse(struct slice text, struct err *err)
{
    return err_set(err, ERR_INVALID, "%s, got \"%.*s\"", FORMS, SLICE_FMT(text));
}

/* By memcpy: the compiler may assume that a sockaddr_in is never read as a sockaddr_storage. */
static void set(struct addr *out, const void *sa, size_t len)
{
    memcpy(&out->sa, sa, len);
    out->len = (socklen_t)len;
}

static enum status set_unix(struct slice path, struct addr *out, struct err *err)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    size_t max = sizeof(sun.sun_path) - 1;
    if (path.len == 0 || path.len > max || memchr(path.ptr, 0, path.len))
        return err_set(err, ERR_INVALID, "a Unix socket path has 1 to %zu bytes, got %zu: \"%.*s\"", max, path.len,
                       SLICE_FMT(path));
    memcpy(sun.sun_path, path.ptr, path.len);
    set(out, &sun, offsetof(struct sockaddr_un, sun_path) + path.len + 1);
    return OK;
}

enum status addr_unix(const char *path, struct addr *out, struct err *err)
{
    *out = (struct addr){0};
    return set_unix(slice_str(path), out, err);
}

static bool set_v4(const char *host, int64_t port, struct addr *out)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (*host && inet_pton(AF_INET, host, &sin.sin_addr) != 1) /* no host: INADDR_ANY is all zero */
        return false;
    set(out, &sin, sizeof(sin));
    return true;
}

static bool set_v6(const char *host, int64_t port, struct addr *out)
{
    struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET6, host, &sin6.sin6_addr) != 1)
        return false;
    set(out, &sin6, sizeof(sin6));
    return true;
}

enum status addr_parse(struct slice text, struct addr *out, struct err *err)
{
    *out = (struct addr){0};
    if (slice_has_prefix(text, SLICE("unix:")))
        return set_unix(slice_of(text.ptr + 5, text.len - 5), out, err);
    const char *colon = text.len ? memrchr(text.ptr, ':', text.len) : NULL;
    if (!colon)
        return refuse(text, err);
    struct slice host = slice_of(text.ptr, (size_t)(colon - text.ptr));
    int64_t port;
    if (!slice_to_int(slice_of(colon + 1, text.len - host.len - 1), 0, 65535, &port))
        return refuse(text, err);
    bool is_v6 = host.len >= 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
    if (is_v6)
        host = slice_of(host.ptr + 1, host.len - 2);
    char name[INET6_ADDRSTRLEN];
    if (host.len >= sizeof(name) || memchr(host.ptr, 0, host.len))
        return refuse(text, err);
    memcpy(name, host.ptr, host.len);
    name[host.len] = 0;
    return (is_v6 ? set_v6(name, port, out) : set_v4(name, port, out)) ? OK : refuse(text, err);
}

/* Writes the IP, returns the port. A v4-mapped address is the IPv4 peer it stands for. */
static uint16_t ip_text(const struct addr *addr, char out[INET6_ADDRSTRLEN], bool *is_v6)
{
    if (addr->sa.ss_family == AF_INET) {
        const struct sockaddr_in *sin = (const struct sockaddr_in *)&addr->sa;
        *is_v6 = false;
        CHECK(inet_ntop(AF_INET, &sin->sin_addr, out, INET6_ADDRSTRLEN));
        return ntohs(sin->sin_port);
    }
    const struct sockaddr_in6 *sin6 = (const struct sockaddr_in6 *)&addr->sa;
    *is_v6 = !IN6_IS_ADDR_V4MAPPED(&sin6->sin6_addr);
    if (*is_v6)
        CHECK(inet_ntop(AF_INET6, &sin6->sin6_addr, out, INET6_ADDRSTRLEN));
    else
        CHECK(inet_ntop(AF_INET, &sin6->sin6_addr.s6_addr[12], out, INET6_ADDRSTRLEN));
    return ntohs(sin6->sin6_port);
}

static bool is_ip(const struct addr *addr)
{
    return addr->sa.ss_family == AF_INET || addr->sa.ss_family == AF_INET6;
}

void addr_text(const struct addr *addr, char out[ADDR_TEXT_MAX])
{
    if (is_ip(addr)) {
        char ip[INET6_ADDRSTRLEN];
        bool is_v6;
        unsigned port = ip_text(addr, ip, &is_v6);
        snprintf(out, ADDR_TEXT_MAX, is_v6 ? "[%s]:%u" : "%s:%u", ip, port);
        return;
    }
    const struct sockaddr_un *sun = (const struct sockaddr_un *)&addr->sa;
    size_t head = offsetof(struct sockaddr_un, sun_path), len = addr->len > head ? addr->len - head : 0;
    if (len > sizeof(sun->sun_path))
        len = sizeof(sun->sun_path);
    snprintf(out, ADDR_TEXT_MAX, "unix:%.*s", (int)strnlen(sun->sun_path, len), sun->sun_path);
}

void addr_ip(const struct addr *addr, char out[ADDR_TEXT_MAX])
{
    char ip[INET6_ADDRSTRLEN] = "unix";
    bool is_v6;
    if (is_ip(addr))
        (void)ip_text(addr, ip, &is_v6);
    snprintf(out, ADDR_TEXT_MAX, "%s", ip);
}
