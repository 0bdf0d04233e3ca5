#include "server/ops_stop.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "net/timer.h"
#include "server/cli.h"

enum { PROGRESS_MS = 1000 };

struct ops_stop {
    struct ops_stop_opts opts;
    struct timer timer;
    struct ops_call *calls[OPS_MAX_CLIENTS];
    size_t n_calls;
    uint64_t started_ms;
};

static void on_ping(void *data, struct ops_call *call)
{
    const struct ops_stop *stop = data;
    struct buf json = {0};
    buf_printf(&json, "{\"pid\":%d,\"version\":\"" CHOWK_VERSION "\",\"uptime_ms\":%llu}", (int)getpid(),
               (unsigned long long)(clock_ms() - stop->started_ms));
    ops_done(call, buf_as_slice(&json));
    buf_free(&json);
}

static void on_tick(struct timer *timer)
{
    struct ops_stop *stop = container_of(timer, struct ops_stop, timer);
    unsigned n = stop->opts.n_workers(stop->opts.data);
    for (size_t i = 0; i < stop->n_calls; i++)
        ops_progress(stop->calls[i], "%u worker%s still finishing", n, n == 1 ? "" : "s");
    timer_arm(stop->opts.loop, timer, loop_now(stop->opts.loop) + PROGRESS_MS, on_tick);
}

static void on_stop(void *data, struct ops_call *call)
{
    struct ops_stop *stop = data;
    if (stop->n_calls == ARRAY_LEN(stop->calls)) { /* some of them are husks: their clients have gone */
        ops_done(call, (struct slice){0});
        return;
    }
    bool is_now = ops_has_arg(call, "--now");
    ops_progress(call, is_now ? "stopping now" : "stopping");
    stop->calls[stop->n_calls++] = call;
    if (!timer_is_armed(&stop->timer))
        timer_arm(stop->opts.loop, &stop->timer, loop_now(stop->opts.loop) + PROGRESS_MS, on_tick);
    stop->opts.stop(stop->opts.data, is_now);
}

struct ops_stop *ops_stop_new(const struct ops_stop_opts *opts)
{
    struct ops_stop *stop = xalloc(sizeof(*stop));
    *stop = (struct ops_stop){.opts = *opts, .started_ms = clock_ms()};
    ops_register(opts->ops, "ping", 0, on_ping, stop);
    ops_register(opts->ops, "stop", 0, on_stop, stop);
    return stop;
}

void ops_stop_free(struct ops_stop *stop)
{
    if (!stop)
        return;
    timer_stop(stop->opts.loop, &stop->timer);
    for (size_t i = 0; i < stop->n_calls; i++)
        ops_done(stop->calls[i], (struct slice){0});
    free(stop);
}
