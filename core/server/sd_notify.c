#include "server/sd_notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "net/timer.h"

struct sd_notify {
    struct loop *loop;
    int fd;
    struct sockaddr_un addr;
    socklen_t addr_len;
    struct timer watchdog;
    uint32_t period_ms; /* of WATCHDOG=1; 0: not wanted */
};

/* "/run/systemd/notify", or "@name" for a socket of the abstract namespace. */
static bool set_address(struct sd_notify *notify, const char *path)
{
    size_t len = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(notify->addr.sun_path))
        return false;
    notify->addr.sun_family = AF_UNIX;
    memcpy(notify->addr.sun_path, path, len);
    if (path[0] == '@')
        notify->addr.sun_path[0] = '\0';
    notify->addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    return true;
}

/* Half of what systemd waits, as sd_watchdog_enabled(3) recommends. */
static uint32_t watchdog_period(bool is_heir)
{
    int64_t usec, pid;
    if (!slice_to_int(slice_str(getenv("WATCHDOG_USEC")), 1, 3600 * 1000000LL, &usec))
        return 0;
    bool is_for_other = slice_to_int(slice_str(getenv("WATCHDOG_PID")), 1, INT32_MAX, &pid) && pid != getpid();
    if (is_for_other && !is_heir)
        return 0;
    return usec / 2000 > 0 ? (uint32_t)(usec / 2000) : 1;
}

struct sd_notify *sd_notify_new(struct loop *loop, bool is_heir)
{
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || !*path)
        return NULL;
    struct sd_notify *notify = xalloc(sizeof(*notify));
    *notify = (struct sd_notify){.loop = loop, .period_ms = watchdog_period(is_heir)};
    notify->fd = set_address(notify, path) ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
    if (notify->fd >= 0)
        return notify;
    log_warn("cannot speak to systemd", LOG_S("NOTIFY_SOCKET", path));
    free(notify);
    return NULL;
}

void sd_notify_free(struct sd_notify *notify)
{
    if (!notify)
        return;
    timer_stop(notify->loop, &notify->watchdog);
    close(notify->fd);
    free(notify);
}

static void say(struct sd_notify *notify, struct slice text)
{
    if (!notify)
        return;
    ssize_t n;
    do
        n = sendto(notify->fd, text.ptr, text.len, MSG_NOSIGNAL, (const struct sockaddr *)&notify->addr,
                   notify->addr_len);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        log_warn("systemd did not hear us", LOG_SL("message", text), LOG_S("error", strerror(errno)));
}

static void on_watchdog(struct timer *timer)
{
    struct sd_notify *notify = container_of(timer, struct sd_notify, watchdog);
    say(notify, SLICE("WATCHDOG=1"));
    timer_arm(notify->loop, timer, loop_now(notify->loop) + notify->period_ms, on_watchdog);
}

void sd_notify_ready(struct sd_notify *notify)
{
    say(notify, SLICE("READY=1"));
    if (notify && notify->period_ms > 0 && !timer_is_armed(&notify->watchdog))
        on_watchdog(&notify->watchdog);
}

void sd_notify_reloading(struct sd_notify *notify)
{
    char text[64];
    int len = snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_us());
    say(notify, slice_of(text, (size_t)len));
}

void sd_notify_stopping(struct sd_notify *notify)
{
    say(notify, SLICE("STOPPING=1"));
}

void sd_notify_main_pid(struct sd_notify *notify, pid_t pid)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "MAINPID=%d", (int)pid);
    say(notify, slice_of(text, (size_t)len));
    if (notify)
        timer_stop(notify->loop, &notify->watchdog);
}

void sd_notify_status(struct sd_notify *notify, const char *fmt, ...)
{
    char text[512] = "STATUS=";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + 7, sizeof(text) - 7, fmt, ap);
    va_end(ap);
    text[strcspn(text, "\n")] = '\0';
    say(notify, slice_str(text));
}
