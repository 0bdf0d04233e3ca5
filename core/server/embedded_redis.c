/* The private Redis: a cache and nothing else (DESIGN 4: it is never the only home of anything), so it writes no file,
 * is bounded to 256 MiB and evicts the least recently used key of all when full, which never refuses a write. */
#include "server/embedded_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_NAME "redis.sock"

static const char *find_binary(void)
{
    static const char *const paths[] = {"/usr/bin/redis-server", "/usr/local/bin/redis-server",
                                        "/opt/redis/bin/redis-server"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (access(paths[i], X_OK) == 0)
            return paths[i];
    return NULL;
}

static enum status prepare(const struct embedded_home *home, const struct embedded_opts *opts,
                           struct embedded_args *args, struct err *err)
{
    const char *binary = find_binary();
    if (!binary)
        return err_set(err, ERR_UNAVAILABLE, "Redis is not installed: apt install redis-server, or set REDIS_URL");
    embedded_args_add(args, binary);
    static const char *const settings[][2] = {
        {"--port", "0"},        {"--unixsocketperm", "700"},  {"--save", ""},
        {"--appendonly", "no"}, {"--maxmemory", "256mb"},     {"--maxmemory-policy", "allkeys-lru"},
        {"--daemonize", "no"},  {"--always-show-logo", "no"}, {"--databases", "16"},
    };
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        embedded_args_add(args, settings[i][0]);
        embedded_args_add(args, settings[i][1]);
    }
    embedded_args_add(args, "--unixsocket");
    embedded_args_addf(args, "%s/" SOCKET_NAME, home->socket_dir);
    embedded_args_add(args, "--dir");
    embedded_args_addf(args, "%s", home->socket_dir);
    for (size_t i = 0; opts->settings && opts->settings[i]; i++) {
        size_t name_len = strcspn(opts->settings[i], "=");
        if (opts->settings[i][name_len] == '\0')
            return err_set(err, ERR_INVALID, "%s: expected name=value", opts->settings[i]);
        embedded_args_addf(args, "--%.*s", (int)name_len, opts->settings[i]);
        embedded_args_add(args, opts->settings[i] + name_len + 1);
    }
    return OK;
}

static void url(const struct embedded_home *home, char *out, size_t cap)
{
    snprintf(out, cap, "unix://%s/" SOCKET_NAME, home->socket_dir);
}

static bool is_ready(const struct embedded_home *home, bool finish)
{
    (void)finish;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 1};
    char got[7] = "";
    snprintf(address.sun_path, sizeof address.sun_path, "%s/" SOCKET_NAME, home->socket_dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    bool ok = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
              send(fd, "PING\r\n", 6, MSG_NOSIGNAL) == 6 && recv(fd, got, sizeof got, MSG_WAITALL) == sizeof got &&
              memcmp(got, "+PONG\r\n", sizeof got) == 0;
    close(fd);
    return ok;
}

const struct embedded_kind embedded_redis = {.name = "redis",
                                             .title = "Redis",
                                             .user = "redis",
                                             .stop_signal = SIGTERM,
                                             .kill_signal = SIGKILL,
                                             .prepare = prepare,
                                             .url = url,
                                             .is_ready = is_ready};
