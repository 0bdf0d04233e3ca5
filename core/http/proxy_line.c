#include "http/proxy_line.h"

#include <arpa/inet.h>
#include <string.h>

enum { V1_MAX = 107, V2_HEAD = 16, V2_LOCAL = 0x20, V2_PROXY = 0x21, V2_TCP4 = 0x11, V2_TCP6 = 0x21 };

static const struct slice v2_signature = {"\r\n\r\n\0\r\nQUIT\n", 12};

static bool starts(struct slice in, struct slice prefix) /* as far as it goes */
{
    size_t n = in.len < prefix.len ? in.len : prefix.len;
    return memcmp(in.ptr, prefix.ptr, n) == 0;
}

static void set_v4(struct addr *addr, const void *ip, uint16_t port_be)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = port_be};
    memcpy(&sa.sin_addr, ip, 4);
    memcpy(&addr->sa, &sa, sizeof sa);
    addr->len = sizeof sa;
}

static void set_v6(struct addr *addr, const void *ip, uint16_t port_be)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_port = port_be};
    memcpy(&sa.sin6_addr, ip, 16);
    memcpy(&addr->sa, &sa, sizeof sa);
    addr->len = sizeof sa;
}

static struct slice next_word(struct slice *line)
{
    const char *space = memchr(line->ptr, ' ', line->len);
    size_t n = space ? (size_t)(space - line->ptr) : line->len, used = space ? n + 1 : n;
    struct slice word = slice_of(line->ptr, n);
    *line = slice_of(line->ptr + used, line->len - used);
    return word;
}

/* "TCP4 source destination source-port destination-port" */
static enum status read_v1_fields(struct slice line, bool *has_client, struct addr *client)
{
    char ip[INET6_ADDRSTRLEN];
    unsigned char bytes[16];
    int64_t port, ignored;
    struct slice family = next_word(&line);
    if (slice_eq(family, SLICE("UNKNOWN")))
        return OK;
    bool is_v4 = slice_eq(family, SLICE("TCP4"));
    struct slice source = next_word(&line), destination = next_word(&line), source_port = next_word(&line);
    if ((!is_v4 && !slice_eq(family, SLICE("TCP6"))) || source.len == 0 || source.len >= sizeof ip ||
        destination.len == 0 || !slice_to_int(source_port, 0, 65535, &port) || !slice_to_int(line, 0, 65535, &ignored))
        return ERR;
    memcpy(ip, source.ptr, source.len);
    ip[source.len] = '\0';
    if (inet_pton(is_v4 ? AF_INET : AF_INET6, ip, bytes) != 1)
        return ERR;
    (is_v4 ? set_v4 : set_v6)(client, bytes, htons((uint16_t)port));
    *has_client = true;
    return OK;
}

static enum status read_v1(struct slice in, size_t *len, bool *has_client, struct addr *client)
{
    const char *end = memchr(in.ptr, '\n', in.len < V1_MAX ? in.len : V1_MAX);
    if (!end)
        return in.len < V1_MAX ? AGAIN : ERR;
    *len = (size_t)(end - in.ptr) + 1;
    if (*len < 8 || end[-1] != '\r')
        return ERR;
    return read_v1_fields(slice_of(in.ptr + 6, *len - 8), has_client, client);
}

static enum status read_v2(struct slice in, size_t *len, bool *has_client, struct addr *client)
{
    if (in.len < V2_HEAD)
        return AGAIN;
    const unsigned char *head = (const unsigned char *)in.ptr, *body = head + V2_HEAD;
    size_t n = (size_t)head[14] << 8 | head[15];
    uint16_t port;
    *len = V2_HEAD + n;
    if (*len > PROXY_MAX || (head[12] != V2_LOCAL && head[12] != V2_PROXY))
        return ERR;
    if (in.len < *len)
        return AGAIN;
    if (head[12] == V2_LOCAL)
        return OK;
    if (head[13] == V2_TCP4 && n >= 12) {
        memcpy(&port, body + 8, sizeof port);
        set_v4(client, body, port);
    } else if (head[13] == V2_TCP6 && n >= 36) {
        memcpy(&port, body + 32, sizeof port);
        set_v6(client, body, port);
    } else {
        return OK; /* another family: the balancer's address has to do */
    }
    *has_client = true;
    return OK;
}

enum status proxy_line_read(struct slice in, size_t *len, bool *has_client, struct addr *client)
{
    *has_client = false;
    *len = 0;
    if (in.len == 0)
        return AGAIN;
    if (starts(in, v2_signature))
        return in.len < v2_signature.len ? AGAIN : read_v2(in, len, has_client, client);
    if (starts(in, SLICE("PROXY ")))
        return in.len < 6 ? AGAIN : read_v1(in, len, has_client, client);
    return ERR;
}
