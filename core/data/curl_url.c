#include "data/curl_url.h"

#include <stdlib.h>

#include "base/buf.h"

static enum status refuse(struct err *err, struct slice text, const char *what)
{
    size_t len = text.len < 100 ? text.len : 100;
    return err_set(err, ERR_INVALID, "\"%.*s\": %s", (int)len, text.ptr, what);
}

static const char *find_flaw(struct slice text)
{
    if (text.len == 0)
        return "not an absolute http or https URL";
    if (text.len > CURL_URL_MAX)
        return "longer than 8 KiB";
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.ptr[i] <= ' ' || text.ptr[i] == 0x7f)
            return "holds a blank or a control character: escape it";
    return NULL;
}

static char *lower_host(const char *host)
{
    size_t len = strlen(host);
    bool is_literal = len > 2 && host[0] == '[';
    char *out = is_literal ? xstrndup(host + 1, len - 2) : xstrndup(host, len);
    for (char *p = out; *p; p++)
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p + 32);
    return out;
}

/* From out->handle to the rest. */
static const char *take_apart(struct curl_url *out)
{
    char *scheme = NULL, *host = NULL, *port = NULL, *user = NULL, *zone = NULL;
    const char *flaw = NULL;
    struct buf origin = {0};
    int64_t number = 0;
    bool has_user = curl_url_get(out->handle, CURLUPART_USER, &user, 0) == CURLUE_OK;
    bool has_zone = curl_url_get(out->handle, CURLUPART_ZONEID, &zone, 0) == CURLUE_OK;
    if (curl_url_get(out->handle, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        (strcmp(scheme, "https") != 0 && strcmp(scheme, "http") != 0))
        flaw = "only http and https can be called";
    else if (has_user)
        flaw = "has credentials in it: send them in an Authorization header";
    else if (curl_url_get(out->handle, CURLUPART_HOST, &host, 0) != CURLUE_OK || !*host || strchr(host, '%') ||
             has_zone)
        flaw = "has no host that can be called";
    else if (curl_url_get(out->handle, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK ||
             !slice_to_int(slice_str(port), 1, 65535, &number))
        flaw = "has no port that can be called";
    if (!flaw) {
        out->is_secure = strcmp(scheme, "https") == 0;
        out->host = lower_host(host);
        out->port = (int)number;
        buf_printf(&origin, "%s://%s:%d", scheme, out->host, out->port);
        buf_byte(&origin, '\0');
        out->origin = origin.ptr;
    }
    curl_free(scheme), curl_free(host), curl_free(port), curl_free(user), curl_free(zone);
    return flaw;
}

static const char *set_text(struct curl_url *out, struct slice text)
{
    char *copy = xstrndup(text.ptr, text.len);
    CURLUcode code = curl_url_set(out->handle, CURLUPART_URL, copy, 0);
    free(copy);
    curl_url_set(out->handle, CURLUPART_FRAGMENT, NULL, 0);
    if (code == CURLUE_BAD_SCHEME)
        return "it must begin with http:// or https://";
    return code == CURLUE_OK ? take_apart(out) : curl_url_strerror(code);
}

enum status curl_url_parse(struct slice text, struct curl_url *out, struct err *err)
{
    const char *flaw = find_flaw(text);
    *out = (struct curl_url){0};
    if (!flaw) {
        out->handle = curl_url();
        CHECK(out->handle);
        flaw = set_text(out, text);
    }
    if (!flaw)
        return OK;
    curl_url_free(out);
    return refuse(err, text, flaw);
}

enum status curl_url_follow(const struct curl_url *from, struct slice location, struct curl_url *out, struct err *err)
{
    const char *flaw = find_flaw(location);
    *out = (struct curl_url){0};
    if (!flaw) {
        out->handle = curl_url_dup(from->handle);
        CHECK(out->handle);
        flaw = set_text(out, location);
    }
    if (!flaw && from->is_secure && !out->is_secure)
        flaw = "leads from https to http";
    if (!flaw)
        return OK;
    curl_url_free(out);
    (void)refuse(err, location, flaw);
    if (err)
        err->code = ERR_BAD_RESPONSE;
    return err_prefix(err, "redirect");
}

void curl_url_free(struct curl_url *url)
{
    curl_url_cleanup(url->handle);
    free(url->host);
    free(url->origin);
    *url = (struct curl_url){0};
}
