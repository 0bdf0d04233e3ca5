/* States, forward and back to IDLE:
 *
 *   IDLE → STARTING → HANDING → HANDED      ready, told to take over, has done so: only now does this master retire
 *      ↖      ↓          ↓
 *       ENDING ←─────────┘                  it failed: its process is on its way out, with a deadline
 *
 * While it takes over both serve, so there is no moment without a server, whichever of the two dies at it.
 *
 * Everything it inherits waits in the channel before it is started, so that it needs no dialogue to begin with; a dead
 * master's descriptors in a channel close with it. */
#include "server/upgrade.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/poll.h"
#include "net/signal.h"
#include "net/timer.h"
#include "server/control.h"
#include "server/handover.h"
#include "server/launch.h"
#include "server/spawn.h"

extern char **environ;

enum { TAKE_OVER_MS = 10000, END_MS = 5000, CHANNEL_BYTES = 1024 * 1024 };

enum upgrade_state { UPGRADE_IDLE, UPGRADE_STARTING, UPGRADE_HANDING, UPGRADE_HANDED, UPGRADE_ENDING };

struct upgrade {
    struct upgrade_opts opts;
    enum upgrade_state state;
    struct signal_watch *usr2;
    pid_t pid;   /* 0: no process */
    int channel; /* -1: closed */
    struct poll *poll;
    struct timer timer; /* STARTING: upgrade.timeout; HANDING: TAKE_OVER_MS; ENDING: until it is killed */
    struct ops_call *asker;
    uint64_t started_ms;
    char why[CONTROL_TEXT_MAX + 1]; /* what it said of its failure; "" = nothing */
};

/* ---- the end of one ------------------------------------------------------------------------------------------ */

static void close_channel(struct upgrade *upgrade)
{
    if (upgrade->poll)
        poll_free(upgrade->poll);
    if (upgrade->channel >= 0)
        close(upgrade->channel);
    upgrade->poll = NULL;
    upgrade->channel = -1;
}

/* Only the master: workers of it that serve already finish what they have accepted. */
static void on_overdue(struct timer *timer)
{
    const struct upgrade *upgrade = container_of(timer, struct upgrade, timer);
    if (upgrade->pid > 0)
        kill(upgrade->pid, SIGKILL);
}

static void answer_failure(struct upgrade *upgrade, const char *why)
{
    struct err err = {0};
    struct ops_call *call = upgrade->asker;
    upgrade->asker = NULL;
    if (!call)
        return;
    const char *more = strchr(why, '\n');
    (void)err_set(&err, ERR_UNAVAILABLE, "%.*s", (int)strcspn(why, "\n"), why);
    if (more)
        snprintf(err.detail, sizeof(err.detail), "%s", more + 1);
    ops_fail(call, &err);
}

static void arm(struct upgrade *upgrade, uint64_t in_ms, void (*fn)(struct timer *timer))
{
    timer_arm(upgrade->opts.loop, &upgrade->timer, loop_now(upgrade->opts.loop) + in_ms, fn);
}

/* "give up" and no TERM: its workers may have accepted from the shared listeners by now, and a stop of its own would
 * turn their readiness off. */
static void fail(struct upgrade *upgrade, const char *why)
{
    log_error("upgrade failed: this server goes on", LOG_S("why", why));
    if (upgrade->channel >= 0)
        (void)handover_say(upgrade->channel, "give up", -1);
    close_channel(upgrade);
    upgrade->state = upgrade->pid > 0 ? UPGRADE_ENDING : UPGRADE_IDLE;
    timer_stop(upgrade->opts.loop, &upgrade->timer);
    if (upgrade->pid > 0)
        arm(upgrade, END_MS, on_overdue);
    upgrade->opts.on_change(upgrade->opts.data, false);
    answer_failure(upgrade, why);
}

static void on_no_take_over(struct timer *timer)
{
    fail(container_of(timer, struct upgrade, timer), "the new master was ready, but did not take over when told to");
}

static void hand_over(struct upgrade *upgrade)
{
    log_info("upgrade: handing over", LOG_I("pid", upgrade->pid),
             LOG_I("ms", (int64_t)(clock_ms() - upgrade->started_ms)));
    upgrade->state = UPGRADE_HANDING;
    arm(upgrade, TAKE_OVER_MS, on_no_take_over);
    if (handover_say(upgrade->channel, "take over", -1) != OK)
        fail(upgrade, "the new master was gone when it was told to take over");
}

static void retire(struct upgrade *upgrade)
{
    struct buf json = {0};
    upgrade->state = UPGRADE_HANDED;
    timer_stop(upgrade->opts.loop, &upgrade->timer);
    upgrade->opts.on_taken(upgrade->opts.data, upgrade->pid);
    (void)handover_say(upgrade->channel, "alone", -1); /* gone: the service manager hears of it by SIGCHLD */
    buf_printf(&json, "{\"pid\":%d,\"old_pid\":%d,\"ms\":%llu}", (int)upgrade->pid, (int)getpid(),
               (unsigned long long)(clock_ms() - upgrade->started_ms));
    if (upgrade->asker)
        ops_done(upgrade->asker, buf_as_slice(&json));
    upgrade->asker = NULL;
    buf_free(&json);
}

/* ---- what it says -------------------------------------------------------------------------------------------- */

static void hear(struct upgrade *upgrade)
{
    char text[CONTROL_TEXT_MAX + 1];
    int fd;
    enum status status = AGAIN;
    while (upgrade->channel >= 0 && (status = handover_hear(upgrade->channel, text, sizeof(text), &fd)) == OK) {
        if (fd >= 0)
            close(fd);
        if (strcmp(text, "ready") == 0 && upgrade->state == UPGRADE_STARTING)
            hand_over(upgrade);
        else if (strcmp(text, "serving") == 0 && upgrade->state == UPGRADE_HANDING)
            retire(upgrade);
        else if (strncmp(text, "failed ", 7) == 0)
            snprintf(upgrade->why, sizeof(upgrade->why), "%s", text + 7);
    }
    if (status == ERR)
        poll_set(upgrade->poll, 0); /* its death is SIGCHLD's to tell */
}

static void on_readable(void *data, int events UNUSED)
{
    hear(data);
}

/* It can still fail without harm. */
static bool is_under_way(const struct upgrade *upgrade)
{
    return upgrade->state == UPGRADE_STARTING || upgrade->state == UPGRADE_HANDING;
}

void upgrade_reap(struct upgrade *upgrade)
{
    int status;
    char why[CONTROL_TEXT_MAX + 64];
    if (upgrade->pid <= 0 || waitpid(upgrade->pid, &status, WNOHANG) != upgrade->pid)
        return;
    if (is_under_way(upgrade))
        hear(upgrade); /* its last words */
    pid_t pid = upgrade->pid;
    upgrade->pid = 0;
    if (upgrade->state == UPGRADE_HANDED) {
        log_error("the new master has ended while this one drained", LOG_I("pid", pid));
    } else if (upgrade->state == UPGRADE_ENDING) {
        timer_stop(upgrade->opts.loop, &upgrade->timer);
        upgrade->state = UPGRADE_IDLE;
    } else if (is_under_way(upgrade)) {
        if (upgrade->why[0])
            snprintf(why, sizeof(why), "%s", upgrade->why);
        else if (WIFSIGNALED(status))
            snprintf(why, sizeof(why), "the new master was ended by signal %d (%s)", WTERMSIG(status),
                     strsignal(WTERMSIG(status)));
        else
            snprintf(why, sizeof(why), "the new master exited with status %d before it served; its log says why",
                     WEXITSTATUS(status));
        fail(upgrade, why);
    }
}

static void on_timeout(struct timer *timer)
{
    struct upgrade *upgrade = container_of(timer, struct upgrade, timer);
    char why[128];
    snprintf(why, sizeof(why), "the new master was not ready within %lld ms (upgrade.timeout)",
             (long long)config_number(upgrade->opts.config, CONFIG_UPGRADE_TIMEOUT));
    fail(upgrade, why);
}

/* ---- the beginning of one ------------------------------------------------------------------------------------ */

/* Everything is said before anybody listens: the channel must hold it, descriptors and all. */
static enum status give_all(const struct upgrade *upgrade, int channel)
{
    const struct upgrade_opts *opts = &upgrade->opts;
    const struct listen_set *set = opts->listeners;
    char text[300];
    snprintf(text, sizeof(text), "address %s", config_text(opts->config, CONFIG_LISTEN));
    enum status status = handover_say(channel, text, -1);
    if (status == OK && set->is_shared)
        status = handover_say(channel, "shared", -1);
    if (status == OK && set->is_lent)
        status = handover_say(channel, "lent", -1);
    for (unsigned i = 0; status == OK && i < (set->is_shared ? 1 : set->n_workers); i++)
        status = handover_say(channel, "listener", set->fds[i]);
    for (unsigned i = 0; status == OK && i < set->n_extra; i++)
        status = handover_say(channel, "listener", set->extra[i]);
    for (int i = 0; status == OK && i < N_SEGMENTS; i++)
        if (segments_is_handed_on((enum segment)i))
            status = handover_say(channel, "segment", opts->segments->fds[i]);
    if (status == OK)
        status = handover_say(channel, "lock", opts->lock_fd);
    if (status == OK)
        status = handover_say(channel, "ops", ops_fd(opts->ops));
    return status == OK ? handover_say(channel, "end", -1) : status;
}

/* Our environment and the channel's number; returns owned (the array only). */
static const char **heir_env(const char *variable)
{
    size_t n = 0, len = 0;
    while (environ[n])
        n++;
    const char **env = xalloc((n + 2) * sizeof(*env));
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], HANDOVER_ENV "=", sizeof(HANDOVER_ENV)) != 0)
            env[len++] = environ[i];
    env[len] = variable;
    return env;
}

static pid_t start_heir(int channel, struct err *err)
{
    char path[PATH_MAX], variable[64];
    if (launch_path(path, sizeof(path), err) != OK)
        return -1;
    snprintf(variable, sizeof(variable), HANDOVER_ENV "=%d", SPAWN_FIRST_FD);
    const char **env = heir_env(variable);
    pid_t pid = spawn_self(
        &(struct spawn_opts){
            .argv = launch_argv(), .fds = &channel, .n_fds = 1, .path = path, .dir = launch_dir(), .env = env},
        err);
    free(env);
    if (pid > 0)
        log_info("upgrade: starting", LOG_S("path", path), LOG_I("pid", pid));
    return pid;
}

static enum status start(struct upgrade *upgrade, struct err *err)
{
    int pair[2], bytes = CHANNEL_BYTES;
    if (control_pair(pair, err) != OK)
        return ERR;
    /* Beyond net.core.wmem_max where we may; it does for a hundred workers without. */
    if (setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    pid_t pid = -1;
    if (give_all(upgrade, pair[0]) != OK)
        err_set(err, ERR_SYSTEM, "cannot hand on the listeners: too many for the channel");
    else
        pid = start_heir(pair[1], err);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return ERR;
    }
    upgrade->pid = pid;
    upgrade->channel = pair[0];
    upgrade->poll = poll_new(upgrade->opts.loop, pair[0], on_readable, upgrade);
    poll_set(upgrade->poll, POLL_READ);
    return OK;
}

static enum status begin(struct upgrade *upgrade, struct err *err)
{
    const char *why_not = upgrade->opts.why_not(upgrade->opts.data);
    if (is_under_way(upgrade))
        why_not = "an upgrade is under way already";
    else if (upgrade->state == UPGRADE_HANDED)
        why_not = "a new master serves already";
    else if (upgrade->state == UPGRADE_ENDING)
        why_not = "the new master of the last upgrade is still ending";
    else if (getpid() == 1)
        why_not = "chowk is process 1 here, and its container ends with it: replace the container instead";
    if (why_not)
        return err_set(err, ERR_REFUSED, "no upgrade: %s", why_not);
    upgrade->why[0] = '\0';
    upgrade->started_ms = clock_ms();
    if (start(upgrade, err) != OK)
        return ERR;
    upgrade->state = UPGRADE_STARTING;
    arm(upgrade, (uint64_t)config_number(upgrade->opts.config, CONFIG_UPGRADE_TIMEOUT), on_timeout);
    upgrade->opts.on_change(upgrade->opts.data, true);
    return OK;
}

static void on_usr2(void *data, int signum UNUSED)
{
    struct err err = {0};
    if (begin(data, &err) != OK)
        log_error("USR2", LOG_S("error", err.message));
}

static void on_ops_upgrade(void *data, struct ops_call *call)
{
    struct upgrade *upgrade = data;
    struct err err = {0};
    if (begin(upgrade, &err) != OK) {
        ops_fail(call, &err);
        return;
    }
    upgrade->asker = call;
    ops_progress(call, "starting: pid %d beside pid %d", (int)upgrade->pid, (int)getpid());
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

struct upgrade *upgrade_new(const struct upgrade_opts *opts)
{
    struct upgrade *upgrade = xalloc(sizeof(*upgrade));
    *upgrade = (struct upgrade){.opts = *opts, .channel = -1};
    upgrade->usr2 = signal_watch_new(opts->loop, SIGUSR2, on_usr2, upgrade);
    ops_register(opts->ops, "upgrade", 0, on_ops_upgrade, upgrade);
    return upgrade;
}

void upgrade_stop(struct upgrade *upgrade)
{
    if (is_under_way(upgrade))
        fail(upgrade, "the server is being stopped");
}

void upgrade_left(struct upgrade *upgrade, unsigned n_left, unsigned n_all)
{
    char text[64];
    if (upgrade->state != UPGRADE_HANDED || upgrade->channel < 0)
        return;
    snprintf(text, sizeof(text), "left %u/%u", n_left, n_all);
    (void)handover_say(upgrade->channel, text, -1);
}

void upgrade_free(struct upgrade *upgrade)
{
    if (!upgrade)
        return;
    struct err err = {0};
    (void)err_set(&err, ERR_UNAVAILABLE, "the server has stopped");
    if (upgrade->asker)
        ops_fail(upgrade->asker, &err);
    close_channel(upgrade); /* a new master that serves learns from it that the old one is gone */
    timer_stop(upgrade->opts.loop, &upgrade->timer);
    signal_watch_free(upgrade->usr2);
    free(upgrade);
}
