#include "data/redis_url.h"

#include <ctype.h>

#define HELP                                                                                                           \
    "redis.url: expected redis://[user:password@]host[:port][/db], rediss://… (TLS), "                               \
    "redis+sentinel://host:port,host:port/name[/db] or unix:///path[?db=0]"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes into a fixed field; false if it does not fit, is malformed or holds a NUL. */
static bool decode(struct slice in, char *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        int c = (unsigned char)in.ptr[i];
        if (c == '%') {
            if (i + 2 >= in.len)
                return false;
            int hi = hex_digit(in.ptr[i + 1]), lo = hex_digit(in.ptr[i + 2]);
            if (hi < 0 || lo < 0)
                return false;
            c = hi * 16 + lo;
            i += 2;
        }
        if (c == 0 || n + 1 >= cap)
            return false;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return true;
}

/* Cuts `s` at the first (or last) `c`: returns what is before, leaves what is after. False: not there. */
static bool cut(struct slice *s, char c, bool last, struct slice *before)
{
    const char *at = s->len == 0 ? NULL : last ? memrchr(s->ptr, c, s->len) : memchr(s->ptr, c, s->len);
    if (!at)
        return false;
    *before = slice_of(s->ptr, (size_t)(at - s->ptr));
    *s = slice_of(at + 1, s->len - before->len - 1);
    return true;
}

/* ---- parts ---------------------------------------------------------------------------------------------------- */

static enum status parse_db(struct slice text, struct redis_url *out, struct err *err)
{
    int64_t db = 0;
    if (text.len > 0 && !slice_to_int(text, 0, 1000000, &db))
        return err_set(err, ERR_INVALID, "redis.url: the database must be a number, as in redis://host/0");
    out->db = (int)db;
    return OK;
}

static enum status parse_userinfo(struct slice info, struct redis_url *out, struct err *err)
{
    struct slice user;
    if (!cut(&info, ':', false, &user))
        return err_set(err, ERR_INVALID,
                       "redis.url: a user needs a password: redis://user:password@host, "
                       "or redis://:password@host for the password alone");
    if (!decode(user, out->login.user, sizeof out->login.user) ||
        !decode(info, out->login.password, sizeof out->login.password))
        return err_set(err, ERR_INVALID, "redis.url: user or password is too long or badly percent-encoded");
    if (out->login.user[0] && !out->login.password[0])
        return err_set(err, ERR_INVALID, "redis.url: the password after the user is empty");
    return OK;
}

/* "host", "host:6379", "[::1]:6379", "" (this machine) */
static enum status parse_host(struct slice text, int64_t port_number, struct redis_host *out, struct err *err)
{
    struct slice host = text, port = {0};
    if (text.len > 0 && text.ptr[0] == '[') {
        struct slice rest = slice_of(text.ptr + 1, text.len - 1);
        if (!cut(&rest, ']', false, &host) || (rest.len > 0 && rest.ptr[0] != ':'))
            return err_set(err, ERR_INVALID, HELP);
        port = rest.len > 0 ? slice_of(rest.ptr + 1, rest.len - 1) : rest;
    } else if (cut(&text, ':', false, &host)) {
        port = text;
    }
    if (port.len > 0 && !slice_to_int(port, 1, 65535, &port_number))
        return err_set(err, ERR_INVALID, "redis.url: the port must be 1..65535");
    out->port = (int)port_number;
    if (!decode(host.len > 0 ? host : SLICE("127.0.0.1"), out->host, sizeof out->host))
        return err_set(err, ERR_INVALID, "redis.url: the host is too long or badly percent-encoded");
    return OK;
}

/* ---- after '?' ------------------------------------------------------------------------------------------------ */

static enum status parse_text(struct slice value, char *out, size_t cap, const char *name, struct err *err)
{
    if (value.len > 0 && decode(value, out, cap))
        return OK;
    return err_set(err, ERR_INVALID, "redis.url: %s= is empty, too long or badly percent-encoded", name);
}

static enum status parse_switch(struct slice value, bool *out, struct err *err)
{
    *out = slice_eq(value, SLICE("on"));
    if (*out || slice_eq(value, SLICE("off")))
        return OK;
    return err_set(err, ERR_INVALID, "redis.url: sentinel_tls= must be on or off");
}

static enum status parse_parameter(struct slice name, struct slice value, struct redis_url *out, struct err *err)
{
    struct redis_login *login = &out->sentinel_login;
    if (slice_eq(name, SLICE("db")))
        return parse_db(value, out, err);
    if (slice_has_prefix(name, SLICE("sentinel_")) && out->n_sentinels == 0)
        return err_set(err, ERR_INVALID, "redis.url: sentinel_… goes with redis+sentinel:// only");
    if (slice_eq(name, SLICE("ca")))
        return parse_text(value, out->ca, sizeof out->ca, "ca", err);
    if (slice_eq(name, SLICE("sentinel_user")))
        return parse_text(value, login->user, sizeof login->user, "sentinel_user", err);
    if (slice_eq(name, SLICE("sentinel_password")))
        return parse_text(value, login->password, sizeof login->password, "sentinel_password", err);
    if (slice_eq(name, SLICE("sentinel_tls")))
        return parse_switch(value, &out->sentinel_tls, err);
    return err_set(err, ERR_INVALID,
                   "redis.url: unknown parameter after '?'; known are db, ca, sentinel_user, sentinel_password and "
                   "sentinel_tls");
}

static enum status parse_query(struct slice query, struct redis_url *out, struct err *err)
{
    while (query.len > 0) {
        struct slice pair, name;
        if (!cut(&query, '&', false, &pair)) {
            pair = query;
            query.len = 0;
        }
        if (!cut(&pair, '=', false, &name))
            return err_set(err, ERR_INVALID, "redis.url: expected name=value after '?'");
        if (parse_parameter(name, pair, out, err) != OK)
            return ERR;
    }
    if (out->ca[0] && !out->tls && !out->sentinel_tls)
        return err_set(err, ERR_INVALID, "redis.url: ca= goes with rediss:// only");
    if (out->sentinel_login.user[0] && !out->sentinel_login.password[0])
        return err_set(err, ERR_INVALID, "redis.url: sentinel_user= needs sentinel_password=");
    return OK;
}

/* ---- forms ---------------------------------------------------------------------------------------------------- */

static enum status parse_unix(struct slice rest, struct redis_url *out, struct err *err)
{
    struct slice path = rest, query = rest, info;
    if (!cut(&query, '?', false, &path))
        query.len = 0;
    if (path.len > 0 && path.ptr[0] != '/' && cut(&path, '@', true, &info) && parse_userinfo(info, out, err) != OK)
        return ERR;
    if (path.len < 2 || path.ptr[0] != '/')
        return err_set(err, ERR_INVALID, "redis.url: expected an absolute path: unix:///run/redis/redis.sock");
    if (!decode(path, out->path, sizeof out->path))
        return err_set(err, ERR_INVALID, "redis.url: the socket path is longer than %zu bytes or badly encoded",
                       sizeof out->path - 1);
    return parse_query(query, out, err);
}

/* What the TCP forms have in common: cuts query and userinfo off. */
static enum status parse_ends(struct slice *rest, struct slice *query, struct redis_url *out, struct err *err)
{
    struct slice info, before;
    *query = *rest;
    if (cut(query, '?', false, &before))
        *rest = before;
    else
        query->len = 0;
    return cut(rest, '@', true, &info) ? parse_userinfo(info, out, err) : OK;
}

static enum status parse_tcp(struct slice rest, struct redis_url *out, struct err *err)
{
    struct slice query;
    if (parse_ends(&rest, &query, out, err) != OK)
        return ERR;
    struct slice host = rest, db = rest;
    if (cut(&db, '/', false, &host) && db.len > 0 && parse_db(db, out, err) != OK)
        return ERR;
    return parse_host(host, 6379, &out->at, err) == OK ? parse_query(query, out, err) : ERR;
}

static enum status parse_sentinels(struct slice hosts, struct redis_url *out, struct err *err)
{
    while (hosts.len > 0) {
        struct slice one;
        if (!cut(&hosts, ',', false, &one)) {
            one = hosts;
            hosts.len = 0;
        }
        if (out->n_sentinels == REDIS_URL_MAX_SENTINELS)
            return err_set(err, ERR_INVALID, "redis.url: at most %d sentinels", REDIS_URL_MAX_SENTINELS);
        if (parse_host(one, 26379, &out->sentinels[out->n_sentinels++], err) != OK)
            return ERR;
    }
    return OK;
}

static enum status parse_sentinel(struct slice rest, struct redis_url *out, struct err *err)
{
    struct slice query, hosts, name;
    out->sentinel_tls = out->tls;
    if (parse_ends(&rest, &query, out, err) != OK)
        return ERR;
    if (!cut(&rest, '/', false, &hosts))
        hosts = slice_of(rest.ptr, 0);
    if (!cut(&rest, '/', false, &name)) {
        name = rest;
        rest.len = 0;
    }
    if (hosts.len == 0 || name.len == 0 || !decode(name, out->primary, sizeof out->primary))
        return err_set(err, ERR_INVALID,
                       "redis.url: Sentinel needs hosts and the primary's name: "
                       "redis+sentinel://host:26379,host:26379/name/0");
    if (parse_db(rest, out, err) != OK || parse_sentinels(hosts, out, err) != OK)
        return ERR;
    return parse_query(query, out, err);
}

enum status redis_url_parse(struct slice text, struct redis_url *out, struct err *err)
{
    static const struct {
        struct slice prefix;
        bool tls;
        enum status (*parse)(struct slice rest, struct redis_url *out, struct err *err);
    } forms[] = {
        {{"redis://", 8}, false, parse_tcp},
        {{"rediss://", 9}, true, parse_tcp},
        {{"unix://", 7}, false, parse_unix},
        {{"redis+sentinel://", 17}, false, parse_sentinel},
        {{"rediss+sentinel://", 18}, true, parse_sentinel},
    };
    *out = (struct redis_url){0};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct slice prefix = forms[i].prefix;
        if (!slice_has_prefix(text, prefix))
            continue;
        out->tls = forms[i].tls;
        return forms[i].parse(slice_of(text.ptr + prefix.len, text.len - prefix.len), out, err);
    }
    return err_set(err, ERR_INVALID, HELP);
}
