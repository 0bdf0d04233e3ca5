/* Whose request it is when proxies stand in between. The socket's peer is always known; what X-Forwarded-For or
 * Forwarded (RFC 7239) say is believed only as far as the addresses that said it are trusted, read from the right
 * (the nearest) to the left. The first address that is not trusted is the client; nobody can be made to believe
 * more by sending the header himself. */
#pragma once

#include "base/err.h"
#include "http/request.h"

enum { HTTP_TRUST_MAX = 64 };

struct http_trust { /* zeroed: nobody; the peer is the client */
    struct http_network {
        unsigned char prefix[16]; /* IPv4 as ::ffff:a.b.c.d */
        uint8_t bits;
    } networks[HTTP_TRUST_MAX];
    size_t n_networks;
    uint32_t n_hops;    /* so many nearest addresses are trusted, whoever they are */
    bool reads_rfc7239; /* Forwarded instead of X-Forwarded-For; never both, as a proxy writes only one of them */
};

/* Adds one item: a number of hops, "10.0.0.0/8", "2001:db8::/32", an address, or "loopback", "linklocal",
 * "uniquelocal". Peers on a Unix socket count as loopback. ERR: err says what is wrong with it. */
enum status http_trust_add(struct http_trust *trust, struct slice item, struct err *err) MUST_CHECK;
bool http_trust_has(const struct http_trust *trust, const char *ip); /* the peer itself is trusted */
/* The client's address as text into `ip`, which holds the peer's and stays as it is when nothing better is known. */
void http_client_ip(const struct http_trust *trust, const struct http_request *req, char ip[ADDR_TEXT_MAX]);
