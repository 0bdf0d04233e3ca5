/* One HTTP request in flight, as the script layer holds it: between serve.c, which runs it, and bind_req.c and
 * bind_app.c, through which Lua sees it. Lives in the request's arena.
 *
 * Lua's `req` and a stream's writer are userdata that hold a weak link to it: when the request ends the link becomes
 * NULL, and using the userdata raises. The link is written by us when it ends, so both are anchored at the bottom of
 * the running coroutine's stack. */
#pragma once

#include <lua.h>

#include "http/response.h"
#include "script/co.h"
#include "script/vm.h"

#define CALL_MAGIC 0xca11a901u

struct call;
struct call_link {     /* the userdata */
    struct call *call; /* NULL: the request has ended */
    bool has_cache;    /* the userdata's environment table holds computed fields */
};

struct call {
    unsigned magic;
    struct vm *vm;
    struct http_request *req;
    struct co *co;                 /* running now; NULL while none is */
    struct call_link *req_link;    /* NULL: the handler takes no request */
    struct call_link *writer_link; /* NULL: not streaming */
    bool is_gone, waits_for_drain;
};

static inline struct call *call_cast(void *data)
{
    struct call *call;
    CAST_OBJ(call, data, CALL_MAGIC);
    return call;
}

/* Makes the userdata and its link. Stack: +1 */
void call_push_req(lua_State *L, struct call *call);
void call_push_writer(lua_State *L, struct call *call);
/* The metatables, handed over by the bindings at load time. Stack: -1 */
void call_set_req_meta(lua_State *L);
void call_set_writer_meta(lua_State *L);
/* The call behind the userdata at idx; raises if it is not one, or its request has ended. */
struct call *call_check_req(lua_State *L, int idx);
struct call *call_check_writer(lua_State *L, int idx);

/* answer.c: from what a handler returned, or raised, to the end of the request. */

/* n results on top of L. Returns false if they start a stream: its function is on top of L then, and the head is sent.
 */
bool call_answer(struct call *call, lua_State *L, int n_results);
/* The same results read, not sent: for an answer that is kept. What *out holds is borrowed from L and the server's
 * scratch buffer. False: err says what is wrong with them; a stream cannot be kept. */
struct call_reply {
    struct http_answer answer;
    struct slice body;
    int stream; /* stack index of its function, or 0 */
};
bool call_read_answer(struct call *call, lua_State *L, int n_results, struct call_reply *out, struct err *err);
void call_answer_error(struct call *call, lua_State *L, const char *trace); /* error on top of L */
/* Logs an error that was raised where no answer can be given any more. */
void call_log_error(struct call *call, const char *what, lua_State *L, const char *trace);
void call_unlink(struct call *call); /* before the request ends: Lua's links become NULL */
