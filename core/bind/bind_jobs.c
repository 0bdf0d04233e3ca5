/* Boundary of chowk.jobs: declarations while loading, and the run of a job as an activity of its own. A job's function
 * here is one that lua/chowk/jobs.lua made: it takes the arguments as JSON text and what is known about the run. */
#include "bind/bind_jobs.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "bind/modules.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"

#define KINDS "chowk.jobs.kinds" /* registry: userdata, the job_kinds of this VM */

struct run {
    struct job *job;
    struct co *co;
    bool is_again;
    char label[RUNNING_ROUTE], id[RUNNING_ID]; /* for the watchdog */
    uint64_t again_ms;
};

struct box { /* the userdata */
    struct vm_owned owned;
    struct job_kinds *kinds; /* NULL: its generation has ended */
};

static struct job_kinds *kinds_of(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, KINDS);
    struct box *box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return box ? box->kinds : NULL;
}

static struct run *current_run(lua_State *L)
{
    const struct co *co = co_running(L);
    return co ? co_job(co) : NULL;
}

struct job *bind_jobs_of(const struct co *co)
{
    const struct run *run = co_job(co);
    return run ? run->job : NULL;
}

struct job *bind_jobs_running(lua_State *L)
{
    const struct co *co = co_running(L);
    return co ? bind_jobs_of(co) : NULL;
}

/* ---- declarations -------------------------------------------------------------------------------------------------
 */

static void refuse_later(lua_State *L, const char *what)
{
    if (!vm_is_loading(vm_of(L)))
        lx_misuse(L, "jobs.%s is for loading time: declare it at the top level of a module", what);
}

static void copy_name(lua_State *L, int arg, char out[JOB_NAME_MAX + 1])
{
    struct slice name = lx_check_slice(L, arg);
    if (!job_name_is_valid(name))
        lx_misuse(L, "jobs.define: \"%.*s\": names of jobs and queues are 1 to %d of A-Z a-z 0-9 . _ -",
                  (int)(name.len > 80 ? 80 : name.len), name.ptr, JOB_NAME_MAX);
    memcpy(out, name.ptr, name.len);
}

/* define(name, queue, concurrency, timeout_ms, backoff: list of ms or nil, fn) */
static int define(lua_State *L)
{
    struct job_kind kind = {.concurrency = (unsigned)luaL_checknumber(L, 3),
                            .timeout_ms = (uint32_t)luaL_checknumber(L, 4)};
    struct err err = {0};
    refuse_later(L, "define");
    copy_name(L, 1, kind.name);
    copy_name(L, 2, kind.queue);
    luaL_checktype(L, 6, LUA_TFUNCTION);
    for (int i = 1; lua_istable(L, 5) && i <= (int)lua_objlen(L, 5) && i <= JOB_BACKOFF_MAX; i++) {
        lua_rawgeti(L, 5, i);
        kind.backoff.steps_ms[kind.backoff.n_steps++] = (uint32_t)luaL_checknumber(L, -1);
        lua_pop(L, 1);
    }
    lua_settop(L, 6);
    kind.ref = luaL_ref(L, LUA_REGISTRYINDEX);
    if (job_kinds_add(kinds_of(L), &kind, &err) != OK)
        lx_misuse(L, "jobs.define: %s", err.message);
    return 0;
}

/* cron(expr, zone, name, args, priority, max_attempts, is_unique) */
static int cron(lua_State *L)
{
    struct job_timetable_opts opts = {.expr = lx_check_slice(L, 1),
                                      .zone = lx_check_slice(L, 2),
                                      .name = lx_check_slice(L, 3),
                                      .args = lx_check_slice(L, 4),
                                      .priority = (int)luaL_checkinteger(L, 5),
                                      .max_attempts = (int)luaL_checkinteger(L, 6),
                                      .is_unique = lua_toboolean(L, 7)};
    struct err err = {0};
    refuse_later(L, "cron");
    if (job_kinds_add_timetable(kinds_of(L), &opts, &err) != OK)
        lx_misuse(L, "jobs.cron: %s", err.message);
    return 0;
}

/* ---- the end of a run ----------------------------------------------------------------------------------------------
 */

/* What retryable = false says about trying again later: nothing, when the outcome is unknown or there was no usable
 * answer, or when somebody else is at fault and may mend it. Of PostgreSQL's refusals those of the data stay what they
 * are. */
static bool is_hopeless(lua_State *L, const struct err *err)
{
    static const enum err_code uncertain[] = {ERR_UNAVAILABLE,     ERR_QUEUE_FULL,     ERR_DEADLINE,  ERR_TIMEOUT,
                                              ERR_OUTCOME_UNKNOWN, ERR_COMMIT_UNKNOWN, ERR_CANCELLED, ERR_BAD_RESPONSE,
                                              ERR_REDIS,           ERR_SYSTEM,         ERR_LEASE_LOST};
    lua_getfield(L, -1, "retryable");
    bool is_final = lua_isboolean(L, -1) && !lua_toboolean(L, -1);
    lua_pop(L, 1);
    for (size_t i = 0; i < ARRAY_LEN(uncertain); i++)
        if (err->code == uncertain[i])
            return false;
    if (err->code == ERR_PG)
        return strncmp(err->sqlstate, "22", 2) == 0 || strncmp(err->sqlstate, "23", 2) == 0;
    return is_final;
}

static enum job_outcome outcome_of(lua_State *L)
{
    struct err err;
    bool is_err = lx_to_err(L, -1, &err);
    if (is_err && err.code == ERR_CANCELLED) /* from outside: this process, or this generation, ends */
        return JOB_RETURNED;
    return is_err && is_hopeless(L, &err) ? JOB_DISCARDED : JOB_FAILED;
}

static void log_failure(const struct job *job, enum job_outcome outcome, const char *text, const char *trace)
{
    const struct job_info *info = job_info(job);
    bool is_last = outcome == JOB_DISCARDED || info->attempt >= info->max_attempts;
    log_write(is_last ? LOG_ERROR : LOG_WARN, is_last ? "job discarded" : "job failed", LOG_S("job", info->kind->name),
              LOG_I("job_id", info->id), LOG_I("attempt", info->attempt), LOG_I("of", info->max_attempts),
              LOG_S("error", text), LOG_S("traceback", trace ? trace : ""));
}

static void on_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct run *run = data;
    struct job *job = run->job;
    struct job_end end = {.outcome = run->is_again ? JOB_AGAIN : JOB_DONE, .again_ms = run->again_ms};
    co_set_job(co, NULL);
    if (n_results < 0) {
        bool is_err = lx_is_err(L, -1);
        end.outcome = outcome_of(L);
        end.error = slice_str(lx_to_text(L, -1));
        if (end.outcome != JOB_RETURNED)
            log_failure(job, end.outcome, end.error.ptr, is_err ? NULL : trace); /* only a bug wants to be traced */
    }
    free(run);
    job_end(job, &end);
}

static void on_stop(void *data, enum err_code why)
{
    const struct run *run = data;
    co_kill(run->co, why);
}

/* ---- the run
 * --------------------------------------------------------------------------------------------------------- */

static void run_job(void *data, struct job *job)
{
    struct vm *vm = data;
    const struct job_info *info = job_info(job);
    struct run *run = xalloc(sizeof *run);
    *run = (struct run){.job = job, .co = co_new(vm)};
    lua_State *L = co_stack(run->co);
    lua_checkstack(L, 10);
    lua_rawgeti(L, LUA_REGISTRYINDEX, info->kind->ref);
    lx_push_slice(L, info->args);
    const lua_Number numbers[] = {(lua_Number)info->id, info->attempt, info->max_attempts, (lua_Number)info->run_at_ms,
                                  (lua_Number)info->created_at_ms};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        lua_pushnumber(L, numbers[i]);
    snprintf(run->label, sizeof run->label, "job %.*s", (int)sizeof run->label - 5, info->kind->name);
    snprintf(run->id, sizeof run->id, "%lld", (long long)info->id);
    co_set_label(run->co, (struct running_label){run->label, run->id});
    co_set_job(run->co, run);
    job_on_stop(job, on_stop, run);
    co_start(run->co, 1 + (int)ARRAY_LEN(numbers), loop_now(vm_env(vm)->loop) + info->kind->timeout_ms, on_done, run);
}

struct job_generation bind_jobs_generation(struct vm *vm)
{
    return (struct job_generation){.kinds = kinds_of(vm_state(vm)), .run = run_job, .data = vm};
}

/* ---- from inside a job
 * --------------------------------------------------------------------------------------------------- */

/* again(seconds): when the job's function returns, it is parked instead of done */
static int again(lua_State *L)
{
    struct run *run = current_run(L);
    lua_Number seconds = luaL_checknumber(L, 1);
    if (!run)
        lx_misuse(L, "job:again: this is not the activity of a job");
    run->is_again = true;
    run->again_ms = seconds < 1e9 ? (uint64_t)(seconds * 1000) : UINT64_C(1000000000000);
    return 0;
}

/* is_running() → boolean: whether this activity is, or belongs to, a job */
static int is_running(lua_State *L)
{
    lua_pushboolean(L, current_run(L) != NULL);
    return 1;
}

/* notify(queue): jobs for it have been committed. Does not yield. */
static int notify(lua_State *L)
{
    struct slice queue = lx_check_slice(L, 1);
    struct jobs *jobs = vm_env(vm_of(L))->jobs;
    if (jobs && job_name_is_valid(queue))
        jobs_notify(jobs, queue);
    return 0;
}

/* Jobs that run share it, so it is let go of on the loop. */
static void on_end(struct vm_owned *owned)
{
    struct box *box = container_of(owned, struct box, owned);
    job_kinds_unref(box->kinds);
    box->kinds = NULL;
}

int bind_jobs_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"define", define},         {"cron", cron},     {"again", again},
                                         {"is_running", is_running}, {"notify", notify}, {NULL, NULL}};
    struct box *box = lua_newuserdata(L, sizeof(*box));
    *box = (struct box){.kinds = job_kinds_new()};
    vm_own(L, &box->owned, on_end);
    lua_setfield(L, LUA_REGISTRYINDEX, KINDS);
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
