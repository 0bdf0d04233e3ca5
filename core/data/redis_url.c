#include "data/redis_url.h"

#include <ctype.h>

#define HELP "redis.url: expected redis://[user:password@]host[:port][/db] or unix:///path[?db=0]"

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

static enum status parse_db(struct slice text, struct redis_url *out, struct err *err)
{
    int64_t db = 0;
    if (text.len > 0 && !slice_to_int(text, 0, 1000000, &db))
        return err_set(err, ERR_INVALID, "redis.url: the database must be a number, as in redis://host/0");
    out->db = (int)db;
    return OK;
}

/* Only `db` is known after the '?'. */
static enum status parse_query(struct slice query, struct redis_url *out, struct err *err)
{
    if (query.len == 0)
        return OK;
    if (!slice_has_prefix(query, SLICE("db=")))
        return err_set(err, ERR_INVALID, "redis.url: unknown parameter after '?'; only db=<number> is known");
    return parse_db(slice_of(query.ptr + 3, query.len - 3), out, err);
}

static enum status parse_userinfo(struct slice info, struct redis_url *out, struct err *err)
{
    struct slice user;
    if (!cut(&info, ':', false, &user))
        return err_set(err, ERR_INVALID,
                       "redis.url: a user needs a password: redis://user:password@host, "
                       "or redis://:password@host for the password alone");
    if (!decode(user, out->user, sizeof out->user) || !decode(info, out->password, sizeof out->password))
        return err_set(err, ERR_INVALID, "redis.url: user or password is too long or badly percent-encoded");
    if (out->user[0] && !out->password[0])
        return err_set(err, ERR_INVALID, "redis.url: the password after the user is empty");
    return OK;
}

/* "host", "host:6379", "[::1]:6379", "" (this machine) */
static enum status parse_host(struct slice text, struct redis_url *out, struct err *err)
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
    int64_t number = 6379;
    if (port.len > 0 && !slice_to_int(port, 1, 65535, &number))
        return err_set(err, ERR_INVALID, "redis.url: the port must be 1..65535");
    out->port = (int)number;
    if (!decode(host.len > 0 ? host : SLICE("127.0.0.1"), out->host, sizeof out->host))
        return err_set(err, ERR_INVALID, "redis.url: the host is too long or badly percent-encoded");
    return OK;
}

static enum status parse_unix(struct slice rest, struct redis_url *out, struct err *err)
{
    struct slice path = rest, query = rest, info;
    if (cut(&query, '?', false, &path)) {
        if (parse_query(query, out, err) != OK)
            return ERR;
    }
    if (path.len > 0 && path.ptr[0] != '/' && cut(&path, '@', true, &info) && parse_userinfo(info, out, err) != OK)
        return ERR;
    if (path.len < 2 || path.ptr[0] != '/')
        return err_set(err, ERR_INVALID, "redis.url: expected an absolute path: unix:///run/redis/redis.sock");
    if (!decode(path, out->path, sizeof out->path))
        return err_set(err, ERR_INVALID, "redis.url: the socket path is longer than %zu bytes or badly encoded",
                       sizeof out->path - 1);
    return OK;
}

static enum status parse_tcp(struct slice rest, struct redis_url *out, struct err *err)
{
    struct slice info, query = rest, before;
    if (cut(&query, '?', false, &before)) {
        rest = before;
        if (parse_query(query, out, err) != OK)
            return ERR;
    }
    if (cut(&rest, '@', true, &info) && parse_userinfo(info, out, err) != OK)
        return ERR;
    struct slice host = rest, db = rest;
    if (cut(&db, '/', false, &host) && db.len > 0 && parse_db(db, out, err) != OK)
        return ERR;
    return parse_host(host, out, err);
}

enum status redis_url_parse(struct slice text, struct redis_url *out, struct err *err)
{
    *out = (struct redis_url){0};
    struct slice tcp = SLICE("redis://"), sock = SLICE("unix://");
    if (slice_has_prefix(text, tcp))
        return parse_tcp(slice_of(text.ptr + tcp.len, text.len - tcp.len), out, err);
    if (slice_has_prefix(text, sock))
        return parse_unix(slice_of(text.ptr + sock.len, text.len - sock.len), out, err);
    if (slice_has_prefix(text, SLICE("rediss://")))
        return err_set(err, ERR_INVALID,
                       "redis.url: rediss:// (TLS) is not supported by this version; use redis:// inside a private "
                       "network, or a TLS proxy beside the server");
    return err_set(err, ERR_INVALID, HELP);
}
