/* A VM over a loop and an application given as source text, for the script layer's unit tests. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bind/modules.h"
#include "script/bundle.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm_priv.h"

/* Without pg and redis, which need servers. */
static const struct vm_module fixture_modules[] = {
    {"app", bind_app_open},
    {"req", bind_req_open},
    {"json", bind_json_open},
    {"log", bind_log_open},
    {"time", bind_time_open},
    {"config", bind_config_open},
    {"crypto", bind_crypto_open},
    {"task", bind_task_open},
    {"razorpay", bind_razorpay_open},
    {"limit", bind_limit_open},
    {NULL, NULL},
};

struct fixture {
    char dir[64];
    struct env env;
    struct bundle *bundle;
    struct vm *vm;
    struct err err;
};

struct fixture_file {
    const char *path, *text; /* {"lua/app.lua", "…"} */
};

static inline void fixture_write(const char *dir, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s/%s", dir, path);
    for (char *p = full + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(full, 0755);
        *p = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static inline void fixture_remove(const char *dir)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

/* Builds and loads; f->vm is NULL if that failed (f->err). `files` ends with {NULL, NULL}. */
static inline void fixture_load(struct fixture *f, const struct fixture_file *files, const char *main)
{
    struct buf bytes = {0};
    snprintf(f->dir, sizeof f->dir, "/tmp/chowk-script-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    for (; files->path; files++)
        fixture_write(f->dir, files->path, files->text);
    if (!f->env.loop)
        f->env.loop = loop_new();
    enum status rc = bundle_build(f->dir, "lua", &bytes, &f->err);
    fixture_remove(f->dir);
    if (rc == OK) {
        int fd = shm_seal("test", buf_as_slice(&bytes), &f->err);
        assert_true(fd >= 0);
        f->bundle = bundle_open(fd, &f->err);
        assert_non_null(f->bundle);
        close(fd);
        struct vm_opts opts = {.env = &f->env, .bundle = f->bundle, .modules = fixture_modules, .main = main};
        f->vm = vm_new(&opts, &f->err);
    }
    buf_free(&bytes);
}

static inline void fixture_load_one(struct fixture *f, const char *text)
{
    const struct fixture_file files[] = {{"lua/app.lua", text}, {NULL, NULL}};
    fixture_load(f, files, "app");
}

static inline void fixture_unload(struct fixture *f)
{
    vm_free(f->vm);
    bundle_free(f->bundle);
    f->vm = NULL;
    f->bundle = NULL;
    loop_turn(f->env.loop, false); /* reclaims */
    loop_free(f->env.loop);
    f->env.loop = NULL;
}

/* What an activity ended with, as text: "ok a b" or "error: …". */
struct outcome {
    int n_done, n_results;
    char text[2048];
    char trace[2048];
};

static inline void on_outcome(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct outcome *out = data;
    (void)co;
    out->n_done++;
    out->n_results = n_results;
    snprintf(out->trace, sizeof out->trace, "%s", trace ? trace : "");
    if (n_results < 0) {
        snprintf(out->text, sizeof out->text, "error: %s", lx_to_text(L, -1));
        return;
    }
    size_t len = (size_t)snprintf(out->text, sizeof out->text, "ok");
    for (int i = lua_gettop(L) - n_results + 1, last = lua_gettop(L); i <= last; i++) {
        lua_getglobal(L, "tostring");
        lua_pushvalue(L, i);
        lua_call(L, 1, 1);
        len += (size_t)snprintf(out->text + len, sizeof out->text - len, " %s", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
}

/* Starts the handler of GET `pattern` in an activity without a request. */
static inline struct co *fixture_start(struct fixture *f, const char *pattern, uint64_t deadline_ms,
                                       struct outcome *out)
{
    const struct http_route *route = NULL;
    for (size_t i = 0; i < http_router_count(vm_router(f->vm)) && !route; i++)
        if (strcmp(http_router_at(vm_router(f->vm), i)->pattern, pattern) == 0)
            route = http_router_at(vm_router(f->vm), i);
    assert_non_null(route);
    struct co *co = co_new(f->vm);
    *out = (struct outcome){0};
    lua_rawgeti(co_stack(co), LUA_REGISTRYINDEX, f->vm->routes[route->handler].ref);
    co_start(co, 0, deadline_ms, on_outcome, out);
    return co;
}

static inline void fixture_run_until(struct fixture *f, const struct outcome *out)
{
    for (int i = 0; i < 1000 && !out->n_done; i++)
        loop_turn(f->env.loop, true);
    assert_int_equal(out->n_done, 1);
}

/* Starts it, waits for its end and compares. */
static inline void fixture_expect(struct fixture *f, const char *pattern, const char *expected)
{
    struct outcome out;
    fixture_start(f, pattern, 0, &out);
    fixture_run_until(f, &out);
    assert_string_equal(out.text, expected);
}
