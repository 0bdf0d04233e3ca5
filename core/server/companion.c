#include "server/companion.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/early_stop.h"
#include "server/spawn.h"

enum { N_PORTS = 100, READY_MS = 60000, STOP_MS = 10000, LOOK_MS = 10 };

extern char **environ;

/* ---- ports ---------------------------------------------------------------------------------------------------- */

typedef int (*socket_fn)(int fd, const struct sockaddr *addr, socklen_t len);

static bool try_port(unsigned port, socket_fn fn)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        return false;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    bool ok = fn(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0;
    close(fd);
    return ok;
}

/* 0: none is free. */
static unsigned free_port(unsigned first)
{
    for (unsigned port = first; port < first + N_PORTS && port <= 65535; port++)
        if (try_port(port, bind))
            return port;
    return 0;
}

/* ---- its environment ------------------------------------------------------------------------------------------ */

static bool configures_us(const char *variable)
{
    static const char *const names[] = {"CHOWK_", "DATABASE_URL=", "REDIS_URL=", "PORT=", "LIMITS=", "RAZORPAY_"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* Owned list of borrowed texts, ends with NULL. */
static const char **make_env(const char *const *own, const char *port)
{
    size_t n = 2, at = 0;
    for (size_t i = 0; environ[i]; i++)
        n++;
    for (size_t i = 0; own[i]; i++)
        n++;
    const char **env = xalloc(n * sizeof(*env));
    for (size_t i = 0; environ[i]; i++)
        if (!configures_us(environ[i]))
            env[at++] = environ[i];
    for (size_t i = 0; own[i]; i++)
        env[at++] = own[i];
    env[at++] = port;
    env[at] = NULL;
    return env;
}

/* ---- its life ------------------------------------------------------------------------------------------------- */

static void look_again_soon(void)
{
    nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
}

bool companion_has_ended(struct companion *companion)
{
    if (companion->pid <= 0 || waitpid(companion->pid, NULL, WNOHANG) != companion->pid)
        return false;
    companion->pid = 0;
    return true;
}

static enum status wait_ready(struct companion *companion, unsigned port, struct err *err)
{
    for (uint64_t end_ms = clock_ms() + READY_MS; clock_ms() < end_ms; look_again_soon()) {
        if (companion_has_ended(companion))
            return err_set(err, ERR_UNAVAILABLE, "it ended while it started");
        if (early_stop_is_wanted() || try_port(port, connect))
            return OK;
    }
    return err_set(err, ERR_UNAVAILABLE, "it does not answer on port %u", port);
}

enum status companion_start(struct companion *companion, const struct companion_opts *opts, struct err *err)
{
    static const char *const argv[] = {"chowk", "serve", NULL};
    char variable[16];
    unsigned port = free_port(opts->port);
    *companion = (struct companion){.pid = 0};
    if (port == 0)
        return err_set(err, ERR_UNAVAILABLE, "%s: no port from %u on is free", opts->dir, opts->port);
    if (access(opts->dir, X_OK) != 0)
        return err_errno(err, errno, "%s", opts->dir);
    snprintf(variable, sizeof(variable), "PORT=%u", port);
    snprintf(companion->url, sizeof(companion->url), "http://127.0.0.1:%u", port);
    const char **env = make_env(opts->env, variable);
    companion->pid =
        spawn_self(&(struct spawn_opts){.argv = argv, .dir = opts->dir, .env = env, .death_signal = SIGTERM}, err);
    free(env);
    if (companion->pid > 0 && wait_ready(companion, port, err) == OK)
        return OK;
    companion_stop(companion);
    return err_prefix(err, "%s", opts->dir);
}

void companion_stop(struct companion *companion)
{
    if (companion->pid <= 0)
        return;
    (void)kill(companion->pid, SIGTERM);
    for (uint64_t end_ms = clock_ms() + STOP_MS; !companion_has_ended(companion); look_again_soon())
        if (clock_ms() >= end_ms) {
            (void)kill(companion->pid, SIGKILL);
            (void)waitpid(companion->pid, NULL, 0);
            companion->pid = 0;
        }
}
