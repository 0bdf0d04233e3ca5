/* What the client knows of one origin: its addresses, its breaker, its calls. Hosts without a call are kept for what
 * they know, up to a bound; the one unused longest goes first.
 *
 * Addresses: all calls that need them wait for one look-up. An answer is used for a minute, as a name server cannot be
 * asked for its time to live through getaddrinfo; then for nine more minutes at most while the next one is fetched, so
 * that a slow name server delays nobody who has called before. */
#include <stdlib.h>

#include "data/http_client_priv.h"

#define MAX_IDLE_HOSTS 256
#define FRESH_MS 60000
#define USABLE_MS 600000

static void host_free(struct http_client_host *host)
{
    CHECK_OBJ(host, HTTP_CLIENT_HOST_MAGIC);
    if (host->query)
        names_cancel(host->query);
    map_remove(&host->client->hosts, slice_str(host->origin));
    host->magic = 0;
    loop_reclaim(host->client->opts.loop, host->origin);
    loop_reclaim(host->client->opts.loop, host);
}

struct http_client_host *http_client_host_ref(struct http_client *client, const char *origin)
{
    struct http_client_host *host = map_get(&client->hosts, slice_str(origin));
    if (!host) {
        host = xalloc(sizeof *host);
        *host = (struct http_client_host){.magic = HTTP_CLIENT_HOST_MAGIC, .client = client};
        host->origin = xstrndup(origin, strlen(origin));
        list_init(&host->waiting);
        list_init(&host->resolving);
        map_put(&client->hosts, slice_str(host->origin), host);
    } else if (host->n_ops == 0) {
        list_remove(&host->idle_node);
        client->n_idle_hosts--;
    }
    host->n_ops++;
    return host;
}

void http_client_host_unref(struct http_client_host *host)
{
    struct http_client *client = host->client;
    CHECK_OBJ(host, HTTP_CLIENT_HOST_MAGIC);
    if (--host->n_ops > 0)
        return;
    list_push(&client->idle_hosts, &host->idle_node);
    if (++client->n_idle_hosts <= MAX_IDLE_HOSTS)
        return;
    client->n_idle_hosts--;
    host_free(container_of(list_pop(&client->idle_hosts), struct http_client_host, idle_node));
}

void http_client_host_free_all(struct http_client *client)
{
    struct list *node;
    while ((node = list_pop(&client->idle_hosts)))
        host_free(container_of(node, struct http_client_host, idle_node));
    CHECK(client->hosts.len == 0);
    map_free(&client->hosts);
}

static void on_names(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err)
{
    struct http_client_host *host;
    CAST_OBJ(host, data, HTTP_CLIENT_HOST_MAGIC);
    struct list *node;
    host->query = NULL;
    if (!err) {
        memcpy(host->addrs, addrs, n_addrs * sizeof addrs[0]);
        host->n_addrs = n_addrs;
        host->resolved_ms = loop_now(host->client->opts.loop);
    }
    while ((node = list_pop(&host->resolving)))
        http_client_op_on_addrs(container_of(node, struct http_client_op, node), err);
}

enum status http_client_host_resolve(struct http_client_host *host, struct http_client_op *op)
{
    struct http_client *client = host->client;
    uint64_t age_ms = loop_now(client->opts.loop) - host->resolved_ms;
    bool is_usable = host->n_addrs > 0 && age_ms < USABLE_MS;
    if (is_usable && age_ms < FRESH_MS)
        return OK;
    if (!host->query)
        host->query = names_resolve(client->opts.names, op->url.host, op->url.port, on_names, host);
    if (is_usable)
        return OK;
    list_push(&host->resolving, &op->node);
    return AGAIN;
}
