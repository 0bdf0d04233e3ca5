#include "http/request.h"

struct slice http_request_header(const struct http_request *req, struct slice name)
{
    CHECK_OBJ(req, HTTP_REQUEST_MAGIC);
    for (size_t i = 0; i < req->n_headers; i++)
        if (slice_ieq(req->headers[i].name, name))
            return req->headers[i].value;
    return slice_of(NULL, 0);
}

struct http_request *http_request_of(void *owner)
{
    const unsigned *magic = owner;
    return magic && *magic == HTTP_REQUEST_MAGIC ? owner : NULL;
}
