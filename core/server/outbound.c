#include "server/outbound.h"

#include "data/address_guard.h"
#include "data/http_client.h"
#include "data/mail.h"
#include "server/cli.h"

static unsigned number_of(const struct config *config, enum config_key key)
{
    return (unsigned)config_number(config, key);
}

static enum status open_guard(struct outbound *outbound, const struct config *config, struct err *err)
{
    const struct config_value *allowed = &config->values[CONFIG_HTTP_CLIENT_ALLOW_PRIVATE];
    outbound->guard = address_guard_new((const char *const *)allowed->items, allowed->n_items, err);
    return outbound->guard ? OK : err_prefix(err, "http_client.allow_private");
}

static enum status open_http(struct outbound *outbound, struct loop *loop, struct names *names,
                             const struct config *config, struct err *err)
{
    struct http_client_opts opts = {.loop = loop,
                                    .names = names,
                                    .guard = outbound->guard,
                                    .ca_file = config_text(config, CONFIG_HTTP_CLIENT_CA),
                                    .user_agent = "chowk/" CHOWK_VERSION,
                                    .connect_timeout_ms = number_of(config, CONFIG_HTTP_CLIENT_CONNECT_TIMEOUT),
                                    .max_active = number_of(config, CONFIG_HTTP_CLIENT_MAX_ACTIVE),
                                    .max_per_host = number_of(config, CONFIG_HTTP_CLIENT_MAX_PER_HOST),
                                    .max_waiting = number_of(config, CONFIG_HTTP_CLIENT_MAX_WAITERS),
                                    .breaker_failures = number_of(config, CONFIG_HTTP_CLIENT_BREAKER_FAILURES),
                                    .breaker_open_ms = number_of(config, CONFIG_HTTP_CLIENT_BREAKER_OPEN)};
    outbound->http = http_client_new(&opts, err);
    return outbound->http ? OK : err_prefix(err, "http_client.ca");
}

static enum status open_mail(struct outbound *outbound, struct loop *loop, struct names *names,
                             const struct config *config, struct err *err)
{
    const char *url = config_text(config, CONFIG_MAIL_URL);
    bool is_clear = strcmp(config_text(config, CONFIG_MAIL_TLS), "none") == 0;
    if (!url)
        return OK;
    if (is_clear && strchr(url, '@') && !config_is_development(config))
        return err_set(err, ERR_INVALID, "mail.tls: \"none\" would send the password of mail.url in clear text");
    struct mail_opts opts = {.loop = loop,
                             .names = names,
                             .url = url,
                             .ca_file = config_text(config, CONFIG_HTTP_CLIENT_CA),
                             .is_clear = is_clear};
    outbound->mail = mail_new(&opts, err);
    return outbound->mail ? OK : err_prefix(err, "mail.url");
}

enum status outbound_open(struct outbound *outbound, struct loop *loop, struct names *names,
                          const struct config *config, struct err *err)
{
    if (open_guard(outbound, config, err) != OK)
        return ERR;
    if (open_http(outbound, loop, names, config, err) != OK)
        return ERR;
    return open_mail(outbound, loop, names, config, err);
}

void outbound_close(struct outbound *outbound)
{
    mail_free(outbound->mail);
    http_client_free(outbound->http);
    address_guard_free(outbound->guard);
    *outbound = (struct outbound){0};
}
