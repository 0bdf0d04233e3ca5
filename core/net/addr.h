/* A socket address: TCP over IPv4/IPv6, or a Unix path. */
#pragma once

#include <sys/socket.h>

#include "base/err.h"
#include "base/slice.h"

struct addr {
    struct sockaddr_storage sa;
    socklen_t len;
};

/* "127.0.0.1:8080", "[::1]:8080", ":8080" (all IPv4), "unix:/run/x.sock". Numbers only, no names. */
enum status addr_parse(struct slice text, struct addr *out, struct err *err) MUST_CHECK;
enum status addr_unix(const char *path, struct addr *out, struct err *err) MUST_CHECK; /* ERR over 107 bytes */
#define ADDR_TEXT_MAX 128
void addr_text(const struct addr *addr, char out[ADDR_TEXT_MAX]); /* with port, the form addr_parse takes */
void addr_ip(const struct addr *addr, char out[ADDR_TEXT_MAX]);   /* IP alone; v4-mapped as IPv4; "unix" for Unix */
