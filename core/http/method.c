#include "http/method.h"

static const char *const names[HTTP_N_METHODS] = {
    [HTTP_GET] = "GET",     [HTTP_HEAD] = "HEAD",     [HTTP_POST] = "POST",       [HTTP_PUT] = "PUT",
    [HTTP_PATCH] = "PATCH", [HTTP_DELETE] = "DELETE", [HTTP_OPTIONS] = "OPTIONS",
};

const char *http_method_name(enum http_method method)
{
    CHECK((unsigned)method < HTTP_N_METHODS);
    return names[method];
}

bool http_method_parse(struct slice name, enum http_method *out)
{
    for (unsigned m = 0; m < HTTP_N_METHODS; m++) {
        if (slice_eq(name, slice_str(names[m]))) {
            *out = (enum http_method)m;
            return true;
        }
    }
    return false;
}
