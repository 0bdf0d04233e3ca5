/* Read every file → compile → seal → load → routes → app.self_test → answer. The deadline is told with file and line by
 * a guard in the VM; what does not listen to that is ended by the kernel (CPU time) or by the master (wall clock). */
#include "server/check.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/shm.h"
#include "script/guard.h"
#include "server/config_json.h"
#include "server/config_log.h"
#include "server/control.h"
#include "server/host.h"

struct check {
    struct config *config;
    struct shm_map snapshot;
    struct host host;
    struct host_opts opts;
    struct guard guard;
    int bundle_fd;
    struct err err;
    struct buf trace;
    bool has_passed;
};

static void limit(int what, rlim_t value)
{
    /* Soft below hard: the end of CPU time is then SIGXCPU, which says what it was, before it is SIGKILL. */
    struct rlimit limit = {.rlim_cur = value, .rlim_max = value + (what == RLIMIT_CPU)};
    setrlimit(what, &limit);
}

#define BESIDE_HEAP (1024ull << 20) /* address space for all that is not the Lua heap: libraries, stacks, bundle */

/* The Lua heap is capped by the guard, which knows the line; this is for what goes around it. */
static void set_limits(const struct config *config)
{
    rlim_t seconds = (rlim_t)config_number(config, CONFIG_RELOAD_TIMEOUT) / 1000 + 1;
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, seconds);
#ifndef __SANITIZE_ADDRESS__ /* whose shadow is terabytes of address space */
    limit(RLIMIT_AS, (rlim_t)config_number(config, CONFIG_RELOAD_MAX_MEMORY) + BESIDE_HEAP);
#endif
}

static enum status load(struct check *check, unsigned n_processes)
{
    struct err *err = &check->err;
    if (shm_open_sealed(CHECK_CONFIG, &check->snapshot, err) != OK)
        return ERR;
    check->config = config_read_json(check->snapshot.bytes, err);
    if (!check->config)
        return ERR;
    config_log_open(check->config, "check");
    set_limits(check->config);
    atomic_store(&check->guard.deadline_ms, clock_ms() + (uint64_t)config_number(check->config, CONFIG_RELOAD_TIMEOUT));
    check->guard.time_key = "reload.timeout";
    check->guard.max_bytes = (size_t)config_number(check->config, CONFIG_RELOAD_MAX_MEMORY);
    check->bundle_fd = host_build_bundle(check->config, err);
    if (check->bundle_fd < 0)
        return ERR;
    check->opts = (struct host_opts){.config = check->config,
                                     .config_json = check->snapshot.bytes,
                                     .bundle_fd = check->bundle_fd,
                                     .worker_id = -1,
                                     .n_processes = n_processes,
                                     .guard = &check->guard,
                                     .keeps_guard = true,
                                     .trace = &check->trace};
    return host_open(&check->host, &check->opts, err);
}

static void on_tested(void *data, const char *message, const char *trace)
{
    struct check *check = data;
    loop_stop(check->host.loop);
    check->has_passed = !message;
    if (!message)
        return;
    (void)err_set(&check->err, ERR_INVALID, "%s", message);
    buf_clear(&check->trace);
    buf_slice(&check->trace, slice_str(trace ? trace : ""));
}

static enum status test(struct check *check)
{
    struct vm *vm = check->host.vm;
    if (vm_n_hooks(vm, VM_SELF_TEST) == 0)
        return OK;
    if (host_add_services(&check->host, &check->opts, &check->err) != OK)
        return ERR;
    uint64_t left_ms = atomic_load(&check->guard.deadline_ms) - clock_ms();
    vm_self_test(vm, loop_now(check->host.loop) + left_ms, on_tested, check);
    if (!check->has_passed && check->err.code == ERR_NONE)
        loop_run(check->host.loop);
    if (!check->has_passed && check->err.code == ERR_NONE)
        (void)err_set(&check->err, ERR_INVALID, "app.self_test waits for something that cannot come");
    return check->has_passed ? OK : ERR;
}

static void tell_failure(const struct check *check)
{
    struct buf text = {0};
    buf_slice(&text, slice_str(check->err.message));
    if (check->trace.len > 0)
        buf_byte(&text, '\n');
    buf_slice(&text, buf_as_slice(&check->trace));
    buf_byte(&text, '\0');
    control_send(CHECK_CONTROL, CONTROL_FAIL, 0, text.ptr, -1);
    buf_free(&text);
}

static void tell_success(const struct check *check)
{
    uint32_t n_routes = (uint32_t)http_router_count(vm_router(check->host.vm));
    control_send(CHECK_CONTROL, CONTROL_READY, n_routes, bundle_hash(check->host.bundle), check->bundle_fd);
}

int check_main(int argc, char **argv)
{
    struct check check = {.bundle_fd = -1};
    int64_t n_processes;
    if (argc < 3 || !slice_to_int(slice_str(argv[2]), 1, 512, &n_processes))
        return 2;
    for (int fd = SPAWN_FIRST_FD; fd < CHECK_FD_END; fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
            return 2; /* not started by a master */
    enum status status = load(&check, (unsigned)n_processes);
    if (status == OK)
        status = test(&check);
    if (status == OK)
        tell_success(&check);
    else
        tell_failure(&check);
    if (check.host.loop)
        host_close(&check.host);
    if (check.bundle_fd >= 0)
        close(check.bundle_fd);
    buf_free(&check.trace);
    config_free(check.config);
    shm_close(&check.snapshot);
    return status == OK ? 0 : 1;
}
