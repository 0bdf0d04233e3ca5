/* Which proxies are believed, from http.trusted_proxies and its neighbours. */
#pragma once

#include "http/client_ip.h"
#include "server/config.h"

enum status config_trust(const struct config *config, struct http_trust *out, struct err *err) MUST_CHECK;
