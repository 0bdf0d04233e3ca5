/* One request from its head to its end, as data: filled, routed, reported, freed. It lives in its connection's
 * arena; when things happen to it is conn.c's. */
#include "http/head.h"
#include "http/server_priv.h"

static bool is_good_id(struct slice id)
{
    for (size_t i = 0; i < id.len; i++) {
        char c = id.ptr[i];
        bool is_alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!is_alnum && c != '.' && c != '_' && c != '-')
            return false;
    }
    return id.len >= 1 && id.len <= 36;
}

static void fill_request(struct http_exchange *exchange, const struct http_head *head)
{
    struct http_conn *conn = exchange->conn;
    struct http_request *req = &exchange->req;
    req->magic = HTTP_REQUEST_MAGIC;
    req->arena = &conn->arena;
    req->method = head->method;
    req->target = head->target;
    req->path = head->path;
    req->query = head->query;
    req->host = head->host;
    req->headers = head->headers;
    req->n_headers = head->n_headers;
    req->is_http10 = head->is_http10;
    req->is_head = head->method == HTTP_HEAD;
    req->started_ms = loop_now(conn->server->opts.loop);
    memcpy(req->ip, conn->ip, sizeof conn->ip);
    http_client_ip(&conn->server->opts.trust, req, req->ip);
    if (is_good_id(head->request_id))
        memcpy(req->id, head->request_id.ptr, head->request_id.len);
    else
        http_server_id(conn->server, req->id);
    exchange->left = head->content_length;
    exchange->is_chunked = head->is_chunked;
    exchange->expects_continue = head->expects_continue;
    exchange->allows_keep_alive = head->keep_alive;
    if (conn->server->opts.log)
        exchange->started_us = clock_us();
}

void http_exchange_route(struct http_exchange *exchange)
{
    const struct http_server *server = exchange->conn->server;
    struct http_request *req = &exchange->req;
    req->generation = server->opts.generation;
    req->route = NULL;
    exchange->allowed = (1u << HTTP_N_METHODS) - 1; /* of OPTIONS *; head.c lets no other method have it */
    if (req->path.ptr[0] != '*') {
        struct http_match match;
        http_router_match(server->opts.router, req->method, req->path, req->arena, &match);
        req->route = match.route;
        exchange->allowed = match.allowed;
        for (size_t i = 0; match.route && i < match.route->n_params; i++)
            req->params[i] = match.values[i];
    }
    uint32_t deadline_ms = req->route ? req->route->deadline_ms : 0;
    size_t max_body = req->route ? req->route->max_body : 0;
    req->deadline_ms = req->started_ms + (deadline_ms ? deadline_ms : server->opts.limits.deadline_ms);
    exchange->max_body = max_body ? max_body : server->opts.limits.max_body;
}

enum status http_exchange_new(struct http_conn *conn, struct slice block, size_t n_headers, enum http_close *why)
{
    struct http_exchange *exchange = arena_zalloc(&conn->arena, sizeof *exchange);
    struct http_head head = {.headers = arena_alloc(&conn->arena, n_headers * sizeof(struct http_header))};
    if (http_head_parse(arena_copy(&conn->arena, block), &head, why) != OK) {
        arena_destroy(&conn->arena);
        return ERR;
    }
    exchange->conn = conn;
    fill_request(exchange, &head);
    if (conn->server->opts.before_route)
        conn->server->opts.before_route(conn->server->opts.data);
    http_exchange_route(exchange);
    conn->exchange = exchange;
    conn->server->n_requests++;
    return OK;
}

void http_exchange_report(const struct http_exchange *exchange)
{
    struct http_server *server = exchange->conn->server;
    bool was_sent = exchange->is_streaming || stream_is_open(&exchange->conn->stream);
    int status = was_sent && exchange->status ? exchange->status : 499;
    if (status >= 500)
        server->n_5xx++;
    if (server->opts.log)
        server->opts.log(server->opts.data, &exchange->req, status, exchange->sent, clock_us() - exchange->started_us);
}

void http_exchange_free(struct http_conn *conn)
{
    buf_free(&conn->exchange->body);
    conn->exchange->req.magic = 0;
    conn->exchange = NULL;
    arena_destroy(&conn->arena);
}
