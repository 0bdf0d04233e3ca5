#include "server/admin.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "http/server.h"
#include "net/listener.h"
#include "server/port_owner.h"

enum {
    NEIGHBOURS = 20, /* ports tried after the default, in development */
    BACKLOG = 64,
};

struct admin {
    struct admin_opts opts;
    struct addr addr;
    int fd;
    struct http_router *router;
    struct http_server *http;
    struct status_report collected; /* scratch; large */
    char url[ADDR_TEXT_MAX + 16];
};

/* ---- answers ------------------------------------------------------------------------------------------------- */

static const struct http_header common[] = {{{"Cache-Control", 13}, {"no-store", 8}},
                                            {{"X-Content-Type-Options", 22}, {"nosniff", 7}}};

static void respond(struct http_request *req, int status, struct slice type, struct slice body)
{
    struct http_answer answer = {
        .status = status, .content_type = type, .headers = common, .n_headers = ARRAY_LEN(common)};
    http_respond(req, &answer, body);
}

/* The weight that an Accept header gives a media type, in thousandths; -1: it does not name it. */
static int accept_weight(struct slice accept, struct slice type)
{
    int best = -1;
    while (accept.len > 0) {
        const char *comma = memchr(accept.ptr, ',', accept.len);
        struct slice item = slice_of(accept.ptr, comma ? (size_t)(comma - accept.ptr) : accept.len);
        accept = slice_of(accept.ptr + item.len + (comma ? 1 : 0), accept.len - item.len - (comma ? 1 : 0));
        item = slice_trim(item);
        if (!slice_has_prefix(item, type))
            continue;
        int weight = 1000;
        const char *q = memmem(item.ptr, item.len, "q=", 2);
        if (q && q + 2 < item.ptr + item.len) {
            char text[8] = {0};
            memcpy(text, q + 2, item.ptr + item.len - (q + 2) < 7 ? (size_t)(item.ptr + item.len - (q + 2)) : 7);
            weight = (int)(strtod(text, NULL) * 1000);
        }
        best = weight > best ? weight : best;
    }
    return best;
}

static enum metrics_format format_of(const struct http_request *req)
{
    struct slice accept = http_request_header(req, SLICE("accept"));
    int open = accept_weight(accept, SLICE("application/openmetrics-text"));
    int plain = accept_weight(accept, SLICE("text/plain"));
    return open > 0 && open >= plain ? METRICS_OPENMETRICS : METRICS_PROMETHEUS;
}

static void get_metrics(struct admin *admin, struct http_request *req)
{
    enum metrics_format format = format_of(req);
    struct buf *body = http_body_buf(req);
    status_collect(admin->opts.status, &admin->collected);
    status_write_metrics(body, &admin->collected, format);
    respond(req, 200, metrics_content_type(format), http_body_slice(body));
}

static void get_status(struct admin *admin, struct http_request *req)
{
    struct buf *body = http_body_buf(req);
    status_collect(admin->opts.status, &admin->collected);
    status_write_json(body, &admin->collected);
    respond(req, 200, SLICE("application/json"), http_body_slice(body));
}

static void get_healthz(struct admin *admin UNUSED, struct http_request *req)
{
    respond(req, 200, SLICE("application/json"), SLICE("{\"status\":\"ok\"}"));
}

static void get_readyz(struct admin *admin, struct http_request *req)
{
    if (status_is_ready(admin->opts.status))
        respond(req, 200, SLICE("application/json"), SLICE("{\"status\":\"ready\"}"));
    else
        respond(req, 503, SLICE("application/json"), SLICE("{\"status\":\"not ready\"}"));
}

static const struct {
    const char *path;
    void (*fn)(struct admin *admin, struct http_request *req);
} pages[] = {{"/metrics", get_metrics}, {"/status", get_status}, {"/healthz", get_healthz}, {"/readyz", get_readyz}};

static void on_request(void *data, struct http_request *req)
{
    pages[req->route->handler].fn(data, req);
}

/* ---- listening ----------------------------------------------------------------------------------------------- */

static bool is_unix(const struct addr *addr)
{
    return addr->sa.ss_family == AF_UNIX;
}

static in_port_t *port_of(struct addr *addr)
{
    /* The port is at the same place in both families. */
    return &((struct sockaddr_in *)(void *)&addr->sa)->sin_port;
}

static enum status taken(const struct addr *addr, struct err *err)
{
    char text[ADDR_TEXT_MAX];
    struct buf owner = {0};
    addr_text(addr, text);
    if (port_owner_find(addr, &owner))
        (void)err_set(err, ERR_UNAVAILABLE, "admin.listen: %s is taken by %.*s; choose another, or \"off\"", text,
                      SLICE_FMT(buf_as_slice(&owner)));
    else
        (void)err_prefix(err, "admin.listen");
    buf_free(&owner);
    return ERR;
}

static enum status bind_addr(struct admin *admin, struct err *err)
{
    bool is_chosen = is_unix(&admin->addr) || *port_of(&admin->addr) != 0;
    if (!admin->opts.is_upgrade && is_chosen && listener_probe(&admin->addr, err) != OK)
        return taken(&admin->addr, err);
    admin->fd = listener_bind(&admin->addr, BACKLOG, !is_unix(&admin->addr), err);
    if (admin->fd < 0)
        return err_prefix(err, "admin.listen");
    if (!is_unix(&admin->addr)) { /* the kernel chose it, if 0 was asked for */
        admin->addr.len = sizeof(admin->addr.sa);
        getsockname(admin->fd, (struct sockaddr *)&admin->addr.sa, &admin->addr.len);
    }
    return OK;
}

/* Nobody asked for that very port: a developer with several applications need not choose ports for them. */
static enum status bind_near(struct admin *admin, struct err *err)
{
    uint16_t port = ntohs(*port_of(&admin->addr));
    for (int i = 1; i <= NEIGHBOURS; i++) {
        *port_of(&admin->addr) = htons((uint16_t)(port + i));
        if (bind_addr(admin, err) == OK)
            return OK;
    }
    log_warn("the admin listener is off: its default port and those after it are taken");
    return AGAIN;
}

static enum status open_listener(struct admin *admin, struct err *err)
{
    const struct config *config = admin->opts.config;
    if (addr_parse(slice_str(config_text(config, CONFIG_ADMIN_LISTEN)), &admin->addr, err) != OK)
        return err_prefix(err, "admin.listen");
    enum status status = bind_addr(admin, err);
    bool is_default = config->values[CONFIG_ADMIN_LISTEN].origin == CONFIG_FROM_DEFAULT;
    if (status != OK && is_default && config_is_development(config))
        status = bind_near(admin, err);
    return status;
}

static void name_url(struct admin *admin)
{
    char text[ADDR_TEXT_MAX];
    addr_text(&admin->addr, text);
    snprintf(admin->url, sizeof(admin->url), "%s%s", is_unix(&admin->addr) ? "" : "http://", text);
}

static void serve(struct admin *admin)
{
    admin->router = http_router_new();
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        struct http_route route = {
            .method = HTTP_GET, .pattern = pages[i].path, .origin = "core/server/admin.c", .handler = (int)i};
        struct err err;
        CHECK(http_router_add(admin->router, &route, &err) == OK);
    }
    struct http_server_opts opts = {.loop = admin->opts.loop,
                                    .limits = {.max_line = 1024,
                                               .max_header_bytes = 8192,
                                               .max_body = 1,
                                               .header_timeout_ms = 5000,
                                               .body_timeout_ms = 5000,
                                               .idle_timeout_ms = 60000,
                                               .write_timeout_ms = 5000,
                                               .max_connections = 64},
                                    .router = admin->router,
                                    .handler = on_request,
                                    .data = admin};
    admin->http = http_server_new(&opts);
    http_server_listen(admin->http, admin->fd);
}

enum status admin_new(const struct admin_opts *opts, struct admin **out, struct err *err)
{
    *out = NULL;
    if (strcmp(config_text(opts->config, CONFIG_ADMIN_LISTEN), "off") == 0)
        return OK;
    struct admin *admin = xalloc(sizeof(*admin));
    admin->opts = *opts;
    admin->fd = -1;
    enum status status = open_listener(admin, err);
    if (status != OK) {
        free(admin);
        return status == AGAIN ? OK : ERR;
    }
    name_url(admin);
    serve(admin);
    *out = admin;
    return OK;
}

void admin_free(struct admin *admin)
{
    if (!admin)
        return;
    http_server_free(admin->http);
    close(admin->fd);
    if (is_unix(&admin->addr)) {
        struct sockaddr_un un;
        memcpy(&un, &admin->addr.sa, sizeof(un));
        unlink(un.sun_path);
    }
    http_router_free(admin->router);
    free(admin);
}

const char *admin_url(const struct admin *admin)
{
    return admin ? admin->url : "";
}
