/* The client's life, and who may call now: so many calls at once to one host, so many in all, and a bounded queue
 * behind. Places go round among the hosts that wait, so that one slow host does not take them all. */
#include "data/http_client.h"

#include <stdlib.h>

#include "data/http_client_priv.h"

bool http_client_is_safe(enum http_client_method method)
{
    return method == CLIENT_GET || method == CLIENT_HEAD || method == CLIENT_OPTIONS;
}

bool http_client_is_idempotent(enum http_client_method method)
{
    return http_client_is_safe(method) || method == CLIENT_PUT || method == CLIENT_DELETE;
}

static bool is_token_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

const char *http_client_header_flaw(struct slice name, struct slice value)
{
    static const char *const ours[] = {"host",    "content-length", "transfer-encoding", "connection", "te", "trailer",
                                       "upgrade", "expect",         "accept-encoding"};
    if (name.len == 0 || name.len > 256)
        return "a header's name has 1 to 256 characters";
    for (size_t i = 0; i < name.len; i++)
        if (!is_token_char(name.ptr[i]))
            return "not a header's name";
    for (size_t i = 0; i < ARRAY_LEN(ours); i++)
        if (slice_ieq(name, slice_str(ours[i])))
            return "is set by the call itself";
    for (size_t i = 0; i < value.len; i++)
        if (((unsigned char)value.ptr[i] < ' ' && value.ptr[i] != '\t') || value.ptr[i] == 0x7f)
            return "its value holds a line break or a control character";
    return NULL;
}

/* ---- places -------------------------------------------------------------------------------------------------------
 */

static bool has_room(const struct http_client_host *host)
{
    const struct http_client *client = host->client;
    return client->n_active < client->opts.max_active && host->n_active < client->opts.max_per_host;
}

static void take_place(struct http_client_op *op)
{
    op->has_place = true;
    op->client->n_active++;
    op->host->n_active++;
    http_client_op_on_place(op);
}

void http_client_leave_queue(struct http_client_op *op)
{
    if (!list_is_linked(&op->node))
        return;
    list_remove(&op->node);
    op->client->n_waiting--;
    if (list_is_empty(&op->host->waiting))
        list_remove(&op->host->waiting_node);
}

/* One call of each host that has room, and again while that helped. */
static void admit(struct http_client *client)
{
    bool has_admitted;
    do {
        has_admitted = false;
        list_each (node, &client->waiting_hosts) {
            struct http_client_host *host = container_of(node, struct http_client_host, waiting_node);
            if (!has_room(host))
                continue;
            struct http_client_op *op = container_of(host->waiting.next, struct http_client_op, node);
            http_client_leave_queue(op);
            take_place(op);
            has_admitted = true;
        }
    } while (has_admitted);
}

void http_client_ask_place(struct http_client_op *op)
{
    struct http_client *client = op->client;
    op->state = CLIENT_OP_WAITING;
    if (list_is_empty(&op->host->waiting) && has_room(op->host)) {
        take_place(op);
        return;
    }
    if (client->n_waiting >= client->opts.max_waiting) {
        struct err err = {0};
        client->refused++;
        (void)err_set(&err, ERR_QUEUE_FULL, "%u calls wait already (http_client.max_waiters)", client->n_waiting);
        http_client_op_fail(op, &err);
        return;
    }
    if (list_is_empty(&op->host->waiting))
        list_push(&client->waiting_hosts, &op->host->waiting_node);
    list_push(&op->host->waiting, &op->node);
    client->n_waiting++;
}

void http_client_give_place(struct http_client_op *op)
{
    if (!op->has_place)
        return;
    op->has_place = false;
    op->client->n_active--;
    op->host->n_active--;
    admit(op->client);
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

struct http_client *http_client_new(const struct http_client_opts *opts, struct err *err)
{
    struct curl_loop_opts curl = {.loop = opts->loop,
                                  .guard = opts->guard,
                                  .ca_file = opts->ca_file,
                                  .connect_timeout_ms = opts->connect_timeout_ms,
                                  .max_idle = opts->max_active};
    struct curl_loop *loop = curl_loop_new(&curl, err);
    if (!loop)
        return NULL;
    struct http_client *client = xalloc(sizeof *client);
    *client = (struct http_client){.magic = HTTP_CLIENT_MAGIC, .opts = *opts, .curl = loop};
    list_init(&client->idle_hosts);
    list_init(&client->waiting_hosts);
    return client;
}

void http_client_free(struct http_client *client)
{
    if (!client)
        return;
    CHECK_OBJ(client, HTTP_CLIENT_MAGIC);
    CHECK(client->n_ops == 0);
    http_client_host_free_all(client);
    curl_loop_free(client->curl);
    client->magic = 0;
    loop_reclaim(client->opts.loop, client);
}

void http_client_stats(const struct http_client *client, struct http_client_stats *out)
{
    CHECK_OBJ(client, HTTP_CLIENT_MAGIC);
    *out = (struct http_client_stats){.active = client->n_active,
                                      .waiting = client->n_waiting,
                                      .hosts = (unsigned)client->hosts.len,
                                      .calls = client->calls,
                                      .failures = client->failures,
                                      .timeouts = client->timeouts,
                                      .refused = client->refused};
    size_t it = 0;
    struct slice key;
    void *value;
    while (map_next(&client->hosts, &it, &key, &value))
        out->open_breakers += ((struct http_client_host *)value)->breaker.is_open;
}
