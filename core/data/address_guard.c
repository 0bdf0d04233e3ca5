/* One table of what is refused, one list of what the operator allows. Both hold blocks of 128 bits: an IPv4 address is
 * looked at as ::ffff:a.b.c.d, so that there is one comparison for both families and no way around it by writing an
 * address differently. */
#include "data/address_guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

#define GUARD_MAGIC 0x9aa2d001u
#define V4_BITS 96 /* in front of a mapped IPv4 address */

struct block {
    unsigned char bytes[16];
    int n_bits;
};

struct address_guard {
    unsigned magic;
    size_t n_blocks;
    struct block blocks[];
};

/* The first that matches names the address. */
static const struct {
    const char *cidr, *what;
} refused[] = {
    {"0.0.0.0/8", "an address of this host"},
    {"127.0.0.0/8", "a loopback address"},
    {"169.254.0.0/16", "a link-local address"},
    {"168.63.129.16/32", "a cloud's metadata address"}, /* Azure's, though it looks public */
    {"10.0.0.0/8", "a private address"},
    {"172.16.0.0/12", "a private address"},
    {"192.168.0.0/16", "a private address"},
    {"100.64.0.0/10", "a shared (carrier NAT) address"},
    {"192.0.0.0/24", "a reserved address"},
    {"192.88.99.0/24", "a reserved address"},
    {"192.0.2.0/24", "a documentation address"},
    {"198.51.100.0/24", "a documentation address"},
    {"203.0.113.0/24", "a documentation address"},
    {"198.18.0.0/15", "a benchmarking address"},
    {"224.0.0.0/4", "a multicast address"},
    {"240.0.0.0/4", "a reserved address"},
    {"::/128", "an address of this host"},
    {"::1/128", "a loopback address"},
    {"fe80::/10", "a link-local address"},
    {"fec0::/10", "a private address"},
    {"fc00::/7", "a private address"},
    {"ff00::/8", "a multicast address"},
    {"2001::/23", "a reserved address"}, /* Teredo, ORCHID: they carry other addresses */
    {"2002::/16", "a reserved address"}, /* 6to4 */
    {"2001:db8::/32", "a documentation address"},
    {"3fff::/20", "a documentation address"},
};

static void map_v4(const void *v4, unsigned char out[16])
{
    memset(out, 0, 10);
    out[10] = out[11] = 0xff;
    memcpy(out + 12, v4, 4);
}

static bool is_v4(const unsigned char bytes[16])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(bytes, mapped, sizeof mapped) == 0;
}

static bool parse_block(const char *text, struct block *out)
{
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    struct in_addr v4;
    int64_t bits = 0;
    if (len >= sizeof address)
        return false;
    memcpy(address, text, len);
    address[len] = '\0';
    bool is_four = inet_pton(AF_INET, address, &v4) == 1;
    if (is_four)
        map_v4(&v4, out->bytes);
    else if (inet_pton(AF_INET6, address, out->bytes) != 1)
        return false;
    int max = is_four ? 32 : 128;
    bits = max;
    if (slash && !slice_to_int(slice_str(slash + 1), 0, max, &bits))
        return false;
    out->n_bits = (int)bits + (is_four ? V4_BITS : 0);
    return true;
}

static bool holds(const struct block *block, const unsigned char bytes[16])
{
    int whole = block->n_bits / 8, rest = block->n_bits % 8;
    if (memcmp(block->bytes, bytes, (size_t)whole) != 0)
        return false;
    return rest == 0 || ((block->bytes[whole] ^ bytes[whole]) & (0xff << (8 - rest)) & 0xff) == 0;
}

struct address_guard *address_guard_new(const char *const *allowed, size_t n_allowed, struct err *err)
{
    struct address_guard *guard = xalloc(sizeof *guard + n_allowed * sizeof guard->blocks[0]);
    guard->magic = GUARD_MAGIC;
    for (size_t i = 0; i < n_allowed; i++) {
        const char *text = strcmp(allowed[i], "all") == 0 ? "::/0" : allowed[i];
        if (!parse_block(text, &guard->blocks[guard->n_blocks++])) {
            free(guard);
            (void)err_set(err, ERR_INVALID,
                          "expected a block of addresses such as \"10.0.0.0/8\", or \"all\", got \"%s\"", allowed[i]);
            return NULL;
        }
    }
    return guard;
}

void address_guard_free(struct address_guard *guard)
{
    free(guard);
}

static bool is_allowed(const struct address_guard *guard, const unsigned char bytes[16])
{
    for (size_t i = 0; i < guard->n_blocks; i++)
        if (holds(&guard->blocks[i], bytes))
            return true;
    return false;
}

static const char *refusal(const unsigned char bytes[16])
{
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct block block;
        CHECK(parse_block(refused[i].cidr, &block));
        if (holds(&block, bytes))
            return refused[i].what;
    }
    bool is_global = is_v4(bytes) || (bytes[0] & 0xe0) == 0x20; /* 2000::/3 is all that was ever given out */
    return is_global ? NULL : "a reserved address";
}

/* NAT64's well-known prefix, RFC 6052: a gateway connects to the IPv4 address in the last four bytes. */
static bool take_nat64(unsigned char bytes[16])
{
    static const unsigned char prefix[12] = {0x00, 0x64, 0xff, 0x9b};
    if (memcmp(bytes, prefix, sizeof prefix) != 0)
        return false;
    unsigned char v4[4];
    memcpy(v4, bytes + 12, sizeof v4);
    map_v4(v4, bytes);
    return true;
}

const char *address_guard_refuses(const struct address_guard *guard, const struct sockaddr *sa)
{
    unsigned char bytes[16];
    CHECK_OBJ(guard, GUARD_MAGIC);
    if (sa->sa_family == AF_INET)
        map_v4(&((const struct sockaddr_in *)(const void *)sa)->sin_addr, bytes);
    else if (sa->sa_family == AF_INET6)
        memcpy(bytes, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, sizeof bytes);
    else
        return "not an Internet address";
    if (is_allowed(guard, bytes))
        return NULL;
    return take_nat64(bytes) && is_allowed(guard, bytes) ? NULL : refusal(bytes);
}
