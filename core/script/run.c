#include "script/run.h"

#include <stdio.h>
#include <stdlib.h>

#include "script/co.h"
#include "script/lx.h"
#include "script/vm_priv.h"

struct run {
    run_fn done;
    void *data;
};

enum { MAX_FILE = 16 << 20 };

static enum status read_file(const char *path, struct buf *text, struct err *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return err_set(err, ERR_SYSTEM, "%s: cannot be read", path);
    size_t n;
    while ((n = fread(buf_reserve(text, 65536), 1, 65536, file)) > 0 && text->len <= MAX_FILE)
        text->len += n;
    bool is_bad = ferror(file) || text->len > MAX_FILE;
    fclose(file);
    return is_bad ? err_set(err, ERR_SYSTEM, "%s: cannot be read whole", path) : OK;
}

/* A value as a person reads it: JSON for tables, a string as it is. */
static void print_value(lua_State *L, int idx)
{
    struct slice raw;
    struct buf json = {0};
    struct err err = {0};
    if (lx_to_raw(L, idx, &raw)) {
        fwrite(raw.ptr, 1, raw.len, stdout);
    } else if (lua_istable(L, idx) && lx_json_encode(L, idx, &json, &err) == OK) {
        fwrite(json.ptr, 1, json.len, stdout);
    } else {
        lua_getglobal(L, "tostring");
        lua_pushvalue(L, idx);
        if (lua_pcall(L, 1, 1, 0) == 0)
            fputs(lua_tostring(L, -1), stdout);
        lua_pop(L, 1);
    }
    buf_free(&json);
}

/* print(...): to standard output, as in plain Lua, but tables as JSON. */
static int print(lua_State *L)
{
    int n = lua_gettop(L);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            fputc('\t', stdout);
        print_value(L, i);
    }
    fputc('\n', stdout);
    return 0;
}

static void on_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    (void)co;
    struct run *run = data;
    int top = lua_gettop(L);
    for (int i = top - n_results + 1; n_results > 0 && i <= top; i++) {
        print_value(L, i);
        fputc('\n', stdout);
    }
    run->done(run->data, n_results < 0 ? lx_to_text(L, -1) : NULL, trace);
    free(run);
}

/* Stack in: text, name. Out: the compiled chunk. Protected. */
static int compile(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, LOADER_BOOT);
    lua_getfield(L, -1, "compile");
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushcfunction(L, print);
    lua_call(L, 3, 1);
    return 1;
}

void run_file(struct vm *vm, const char *path, int argc, char **argv, run_fn done, void *data)
{
    lua_State *L = vm_state(vm);
    struct buf text = {0};
    struct err err = {0};
    if (read_file(path, &text, &err) != OK) {
        buf_free(&text);
        done(data, err.message, NULL);
        return;
    }
    lua_pushcfunction(L, compile);
    lx_push_slice(L, text.len ? buf_as_slice(&text) : SLICE(""));
    lua_pushstring(L, path);
    buf_free(&text);
    if (lua_pcall(L, 2, 1, 0) != 0) {
        done(data, lua_tostring(L, -1), NULL);
        lua_pop(L, 1);
        return;
    }
    struct run *run = xalloc(sizeof(*run));
    *run = (struct run){done, data};
    struct co *co = co_new(vm);
    lua_State *own = co_stack(co);
    lua_xmove(L, own, 1);
    luaL_checkstack(own, argc, "too many arguments");
    for (int i = 0; i < argc; i++)
        lua_pushstring(own, argv[i]);
    co_start(co, argc, 0, on_done, run);
}
