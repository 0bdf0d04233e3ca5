#include "server/config_trust.h"

enum status config_trust(const struct config *config, struct http_trust *out, struct err *err)
{
    const struct config_value *items = &config->values[CONFIG_HTTP_TRUSTED_PROXIES];
    *out = (struct http_trust){.reads_rfc7239 =
                                   strcmp(config_text(config, CONFIG_HTTP_FORWARDED_HEADER), "forwarded") == 0};
    for (size_t i = 0; i < items->n_items; i++)
        if (http_trust_add(out, slice_str(items->items[i]), err) != OK)
            return ERR;
    if (config_number(config, CONFIG_HTTP_PROXY_PROTOCOL) && items->n_items == 0)
        return err_set(err, ERR_INVALID, "with http.proxy_protocol, say which proxies may connect");
    return OK;
}
