/* Who one visitor is, by address. A subscriber's router hands out addresses of a whole /56 (or /64, inside it), so
 * single IPv6 addresses would be limits that anybody walks around. */
#include <arpa/inet.h>
#include <stdio.h>

#include "services/limit.h"

struct slice limit_ip_key(const char *ip, char out[LIMIT_IP_KEY_MAX])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct in6_addr v6;
    int len;
    if (inet_pton(AF_INET6, ip, &v6) != 1)
        len = snprintf(out, LIMIT_IP_KEY_MAX, "%s", ip);
    else if (memcmp(v6.s6_addr, mapped, sizeof(mapped)) == 0)
        len = snprintf(out, LIMIT_IP_KEY_MAX, "%u.%u.%u.%u", v6.s6_addr[12], v6.s6_addr[13], v6.s6_addr[14],
                       v6.s6_addr[15]);
    else
        len = snprintf(out, LIMIT_IP_KEY_MAX, "%02x%02x:%02x%02x:%02x%02x:%02x00::/56", v6.s6_addr[0], v6.s6_addr[1],
                       v6.s6_addr[2], v6.s6_addr[3], v6.s6_addr[4], v6.s6_addr[5], v6.s6_addr[6]);
    return slice_of(out, len < LIMIT_IP_KEY_MAX ? (size_t)len : LIMIT_IP_KEY_MAX - 1);
}
