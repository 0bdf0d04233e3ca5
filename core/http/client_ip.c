#include "http/client_ip.h"

#include <arpa/inet.h>
#include <stdio.h>

struct name {
    const char *name, *networks[4];
};

static const struct name names[] = {
    {"loopback", {"127.0.0.0/8", "::1/128", NULL}},
    {"linklocal", {"169.254.0.0/16", "fe80::/10", NULL}},
    {"uniquelocal", {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"}},
};

/* ---- addresses ------------------------------------------------------------------------------------------------ */

static const unsigned char v4_prefix[12] = {[10] = 0xff, [11] = 0xff};

/* "unix" is a peer on this machine. *is_v4 may be NULL. */
static bool parse_ip(struct slice text, unsigned char out[16], bool *is_v4)
{
    char ip[INET6_ADDRSTRLEN];
    bool is_short = false;
    if (slice_eq(text, SLICE("unix")))
        text = SLICE("127.0.0.1");
    if (text.len == 0 || text.len >= sizeof ip)
        return false;
    memcpy(ip, text.ptr, text.len);
    ip[text.len] = '\0';
    if (inet_pton(AF_INET, ip, out + 12) == 1) {
        memcpy(out, v4_prefix, sizeof v4_prefix);
        is_short = true;
    } else if (inet_pton(AF_INET6, ip, out) != 1) {
        return false;
    }
    if (is_v4)
        *is_v4 = is_short;
    return true;
}

static void write_ip(const unsigned char ip[16], char out[ADDR_TEXT_MAX])
{
    if (memcmp(ip, v4_prefix, sizeof v4_prefix) == 0)
        (void)inet_ntop(AF_INET, ip + 12, out, ADDR_TEXT_MAX);
    else
        (void)inet_ntop(AF_INET6, ip, out, ADDR_TEXT_MAX);
}

/* ---- who is trusted ------------------------------------------------------------------------------------------- */

static bool is_in(const struct http_network *network, const unsigned char ip[16])
{
    unsigned whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(network->prefix, ip, whole) != 0)
        return false;
    return rest == 0 || ((network->prefix[whole] ^ ip[whole]) >> (8 - rest)) == 0;
}

static bool is_trusted(const struct http_trust *trust, const unsigned char ip[16], uint32_t hop)
{
    if (hop < trust->n_hops)
        return true;
    for (size_t i = 0; i < trust->n_networks; i++)
        if (is_in(&trust->networks[i], ip))
            return true;
    return false;
}

static enum status add_network(struct http_trust *trust, struct slice item, struct err *err)
{
    struct http_network *network = &trust->networks[trust->n_networks];
    const char *slash = memchr(item.ptr, '/', item.len);
    struct slice ip = slash ? slice_of(item.ptr, (size_t)(slash - item.ptr)) : item;
    bool is_v4;
    int64_t bits = 0;
    if (trust->n_networks == HTTP_TRUST_MAX)
        return err_set(err, ERR_INVALID, "more than %d networks", HTTP_TRUST_MAX);
    bool is_good = parse_ip(ip, network->prefix, &is_v4);
    int64_t max = is_good && is_v4 ? 32 : 128;
    if (slash)
        is_good = is_good && slice_to_int(slice_of(slash + 1, item.len - ip.len - 1), 0, max, &bits);
    if (!is_good)
        return err_set(err, ERR_INVALID,
                       "expected a number of hops, an address, a network such as \"10.0.0.0/8\", or loopback, "
                       "linklocal, uniquelocal; got \"%.*s\"",
                       SLICE_FMT(item));
    network->bits = (uint8_t)((slash ? bits : max) + (is_v4 ? 96 : 0));
    trust->n_networks++;
    return OK;
}

enum status http_trust_add(struct http_trust *trust, struct slice item, struct err *err)
{
    int64_t hops;
    if (slice_to_int(item, 1, 32, &hops)) {
        trust->n_hops = (uint32_t)hops;
        return OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!slice_eq(item, slice_str(names[i].name)))
            continue;
        for (size_t j = 0; j < ARRAY_LEN(names[i].networks) && names[i].networks[j]; j++)
            if (add_network(trust, slice_str(names[i].networks[j]), err) != OK)
                return ERR;
        return OK;
    }
    return add_network(trust, item, err);
}

bool http_trust_has(const struct http_trust *trust, const char *ip)
{
    unsigned char bytes[16];
    return parse_ip(slice_str(ip), bytes, NULL) && is_trusted(trust, bytes, 0);
}

/* ---- what they say -------------------------------------------------------------------------------------------- */

/* The last element of a comma-separated list, which is cut off. Commas in quotes are none. */
static struct slice pop_element(struct slice *list)
{
    bool is_quoted = false;
    size_t at = list->len;
    while (at > 0 && (is_quoted || list->ptr[at - 1] != ',')) {
        if (list->ptr[at - 1] == '"')
            is_quoted = !is_quoted;
        at--;
    }
    struct slice element = slice_trim(slice_of(list->ptr + at, list->len - at));
    list->len = at > 0 ? at - 1 : 0;
    return element;
}

/* The value of for= in one element of Forwarded; empty: none. */
static struct slice forwarded_for(struct slice element)
{
    while (element.len > 0) {
        const char *end = memchr(element.ptr, ';', element.len);
        struct slice pair = slice_trim(slice_of(element.ptr, end ? (size_t)(end - element.ptr) : element.len));
        if (pair.len > 4 && slice_ieq(slice_of(pair.ptr, 4), SLICE("for=")))
            return slice_of(pair.ptr + 4, pair.len - 4);
        size_t used = end ? (size_t)(end - element.ptr) + 1 : element.len;
        element = slice_of(element.ptr + used, element.len - used);
    }
    return element;
}

/* Without quotes, brackets and port: "[2001:db8::1]:4711", "10.0.0.1:80", 2001:db8::1. */
static struct slice bare_ip(struct slice text)
{
    if (text.len >= 2 && text.ptr[0] == '"' && text.ptr[text.len - 1] == '"')
        text = slice_of(text.ptr + 1, text.len - 2);
    if (text.len > 0 && text.ptr[0] == '[') {
        const char *end = memchr(text.ptr, ']', text.len);
        return end ? slice_of(text.ptr + 1, (size_t)(end - text.ptr) - 1) : SLICE("");
    }
    const char *colon = memchr(text.ptr, ':', text.len);
    bool has_port = colon && !memchr(colon + 1, ':', text.len - (size_t)(colon + 1 - text.ptr));
    return has_port ? slice_of(text.ptr, (size_t)(colon - text.ptr)) : text;
}

struct walk {
    const struct http_request *req;
    struct slice name, list; /* the header's name; what is left of the field at hand */
    size_t n_fields_left;
};

/* The next address to the left. Repeated fields are one list. */
static bool next_left(struct walk *walk, struct slice *element)
{
    while (walk->list.len == 0) {
        if (walk->n_fields_left == 0)
            return false;
        const struct http_header *header = &walk->req->headers[--walk->n_fields_left];
        if (slice_ieq(header->name, walk->name))
            walk->list = header->value;
    }
    *element = pop_element(&walk->list);
    return true;
}

void http_client_ip(const struct http_trust *trust, const struct http_request *req, char ip[ADDR_TEXT_MAX])
{
    unsigned char client[16], next[16];
    struct walk walk = {.req = req,
                        .name = trust->reads_rfc7239 ? SLICE("forwarded") : SLICE("x-forwarded-for"),
                        .n_fields_left = req->n_headers};
    struct slice element;
    bool has_moved = false;
    if ((trust->n_hops == 0 && trust->n_networks == 0) || !parse_ip(slice_str(ip), client, NULL))
        return;
    for (uint32_t hop = 0; is_trusted(trust, client, hop) && next_left(&walk, &element); hop++) {
        if (trust->reads_rfc7239)
            element = forwarded_for(element);
        if (!parse_ip(bare_ip(element), next, NULL))
            break; /* "unknown", or garbage: the last good address it is */
        memcpy(client, next, sizeof client);
        has_moved = true;
    }
    if (has_moved)
        write_ip(client, ip);
}
