/* Where a process that does not come back is, or was when it crashed: each case in a process of its own, asked by
 * signals from this one, as the master does. */
#include "fixture.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "script/where.h"

static struct where_report *report; /* shared with the child */
static volatile sig_atomic_t n_asked;

static void on_ask(int signum, siginfo_t *info, void *context)
{
    (void)signum, (void)info;
    (void)where_sample(report, context, ++n_asked >= 3);
}

static void on_fault(int signum, siginfo_t *info, void *context)
{
    where_escape();
    where_crash(report, context, signum, info->si_code, (uintptr_t)info->si_addr);
    _exit(42);
}

static void handle(int signum, void (*fn)(int signum, siginfo_t *info, void *context))
{
    struct sigaction action = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER};
    sigaction(signum, &action, NULL);
}

/* The real thing: no sanitizer may take it for a mistake. */
__attribute__((no_sanitize("undefined", "address"))) static int poke(lua_State *L)
{
    (void)L;
    volatile int *volatile nowhere = NULL;
    *nowhere = 1;
    return 0;
}

NORETURN static void run_child(const char *text)
{
    struct fixture f = {.env = {.worker_id = -1}};
    struct outcome out = {0};
    frames_prepare();
    handle(SIGUSR2, on_ask);
    handle(SIGSEGV, on_fault);
    handle(SIGABRT, on_fault);
    fixture_load_one(&f, "return require('chowk.app').routes()");
    struct co *co = co_new(f.vm);
    lua_pushcfunction(f.vm->L, poke);
    lua_setglobal(f.vm->L, "poke");
    if (luaL_loadbuffer(co_stack(co), text, strlen(text), "@orders.lua") != 0)
        _exit(2);
    atomic_store(&report->stage, WHERE_NONE);
    co_start(co, 0, 0, on_outcome, &out);
    _exit(3); /* it was not stuck */
}

static pid_t start(const char *text)
{
    memset(report, 0, sizeof(*report));
    report->signum = -1;
    atomic_store(&report->stage, WHERE_BEGUN);
    pid_t pid = fork();
    if (pid == 0)
        run_child(text);
    while (atomic_load(&report->stage) == WHERE_BEGUN) /* it may have crashed by now */
        usleep(1000);
    return pid;
}

static const char *ask(const char *text)
{
    pid_t pid = start(text);
    usleep(200000); /* until it is compiled, or deep in C */
    for (int i = 0; i < 100 && atomic_load(&report->stage) != WHERE_WHOLE; i++) {
        kill(pid, SIGUSR2);
        usleep(50000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(atomic_load(&report->stage), WHERE_WHOLE);
    assert_int_equal(report->signum, 0);
    assert_true(report->frames.n > 0);
    return report->lua;
}

#define assert_says(text, part)                                                                                        \
    do {                                                                                                               \
        const char *said = (text);                                                                                     \
        if (!strstr(said, part))                                                                                       \
            fail_msg("\"%s\" does not say \"%s\"", said, part);                                                        \
    } while (0)

static void test_compiled_loops(void **state)
{
    (void)state;
    assert_says(ask("local x = 0\n\nwhile true do x = x + 1 end"), "compiled code, trace from orders.lua:3");
    /* C that compiled code calls, most of the time: found in the trace, or by the hook when it leaves it */
    assert_says(ask("local s = ('x'):rep(100)\nlocal n = 0\nwhile true do\n  n = n + #(s .. n)\nend"), "orders.lua:");
}

static void test_the_interpreter(void **state)
{
    (void)state;
    assert_says(ask("if jit then require('jit').off() end\nlocal function spin()\n  while true do end\nend\nspin()"),
                "orders.lua:3 in 'spin' < orders.lua:5");
    /* also inside a coroutine of the author's own */
    assert_says(ask("require('jit').off()\nlocal co = coroutine.wrap(function()\n  while true do end\nend)\nco()"),
                "orders.lua:3");
}

static void test_a_c_function(void **state)
{
    (void)state;
    assert_says(ask("local function match(s)\n  return (s:find(('.-'):rep(30) .. 'b'))\nend\nmatch(('a'):rep(200))\n"),
                "C function 'find' < orders.lua:2");
}

static void test_a_crash(void **state)
{
    (void)state;
    pid_t pid = start("local function total()\n  poke()\n  return 1\nend\ntotal()");
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    assert_int_equal(atomic_load(&report->stage), WHERE_WHOLE);
    assert_int_equal(report->signum, SIGSEGV);
    assert_int_equal(report->address, 0);
    assert_says(report->lua, "C function 'poke' < orders.lua:2 in 'total' < orders.lua:5");
    struct buf text = {0};
    frames_prepare();
    frames_text(&report->frames, &text);
    buf_byte(&text, '\0');
    assert_says(text.ptr, "luajit");
    assert_says(text.ptr, "main+"); /* named, as what is not static */
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compiled_loops),
        cmocka_unit_test(test_the_interpreter),
        cmocka_unit_test(test_a_c_function),
        cmocka_unit_test(test_a_crash),
    };
    report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
