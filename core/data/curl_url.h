/* URLs of calls out, parsed by the parser that will also connect: two parsers that read one URL differently are how
 * guards are got around. */
#pragma once

#include <curl/curl.h>

#include "base/err.h"
#include "base/slice.h"

#define CURL_URL_MAX 8192

struct curl_url {
    CURLU *handle;
    char *host;   /* lower-case, as it goes to the resolver: an IPv6 literal without brackets */
    char *origin; /* "https://api.example.com:443": what connections, limits and the breaker go by */
    int port;
    bool is_secure;
};

/* Absolute, http or https, no credentials (they end in logs: send an Authorization header), no control characters or
 * blanks. ERR_INVALID names what is wrong. */
enum status curl_url_parse(struct slice text, struct curl_url *out, struct err *err) MUST_CHECK;
/* The target of a redirect, absolute or relative to `from`. ERR_BAD_RESPONSE; https does not lead to http. */
enum status curl_url_follow(const struct curl_url *from, struct slice location, struct curl_url *out,
                            struct err *err) MUST_CHECK;
void curl_url_free(struct curl_url *url); /* tolerates a zeroed one */
