/* HTTP methods chowk serves. Anything else is 501. */
#pragma once

#include "base/slice.h"

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_PUT, HTTP_PATCH, HTTP_DELETE, HTTP_OPTIONS, HTTP_N_METHODS };

const char *http_method_name(enum http_method method);
bool http_method_parse(struct slice name, enum http_method *out) MUST_CHECK; /* case-sensitive, RFC 9110 9.1 */
