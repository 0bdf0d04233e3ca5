/* The life of one call: WAITING for a place → RESOLVING the name → RUNNING with curl → ENDING, or, for a stream whose
 * head has come, STREAMING → DONE. A redirect leads from RUNNING back to WAITING, with another URL.
 *
 * Everything that tells the caller runs from op->task, later in the turn: neither inside curl nor inside the function
 * that started the call. end() and the completion it defers are the only way out of a call that was not cancelled. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "data/http_client_priv.h"

static void on_task(struct loop_task *task);

static struct loop *loop_of(const struct http_client_op *op)
{
    return op->client->opts.loop;
}

/* ---- the end ------------------------------------------------------------------------------------------------------
 */

/* How this hop went, for its host. */
static void report(struct http_client_op *op, enum breaker_outcome outcome)
{
    struct http_client_host *host = op->host;
    struct breaker_opts opts = {op->client->opts.breaker_failures, op->client->opts.breaker_open_ms};
    const char *why = op->err.code ? op->err.message : op->has_head ? "it says it is unavailable" : "no answer in time";
    if (breaker_report(&host->breaker, &opts, loop_now(loop_of(op)), op->is_probe, outcome))
        log_warn("calls to a service fail: none is made for a while", LOG_S("service", host->origin),
                 LOG_I("ms", opts.open_ms), LOG_S("last", why));
    op->is_probe = false;
}

static enum breaker_outcome outcome_of(int status)
{
    return status >= 502 && status <= 504 ? BREAKER_FAILURE : BREAKER_SUCCESS;
}

static void leave_host(struct http_client_op *op)
{
    if (!op->host)
        return;
    http_client_give_place(op);
    list_remove(&op->node);
    http_client_host_unref(op->host);
    op->host = NULL;
}

static void op_free(struct http_client_op *op)
{
    struct loop *loop = loop_of(op);
    timer_stop(loop, &op->timer);
    loop_defer_cancel(&op->task);
    http_client_transfer_stop(op);
    leave_host(op);
    curl_url_free(&op->url);
    buf_free(&op->head);
    buf_free(&op->in);
    buf_free(&op->out);
    arena_destroy(&op->arena);
    op->client->n_ops--;
    op->magic = 0;
    loop_reclaim(loop, op);
}

static void count(struct http_client *client, enum err_code code)
{
    if (code == ERR_NONE)
        return;
    client->failures++;
    if (code == ERR_TIMEOUT)
        client->timeouts++;
}

/* err: NULL if it went well. The host keeps the place until the completion. */
static void end(struct http_client_op *op, const struct err *err)
{
    if (err) {
        op->err = *err;
        (void)err_prefix(&op->err, "%s", op->host ? op->host->origin : "http");
        count(op->client, err->code);
    }
    if (op->state == CLIENT_OP_WAITING)
        http_client_leave_queue(op);
    if (op->state == CLIENT_OP_RESOLVING)
        list_remove(&op->node);
    timer_stop(loop_of(op), &op->timer);
    http_client_transfer_stop(op);
    if (op->is_stream && op->has_head)
        op->is_over = true; /* the reader has what came, then the error */
    else
        op->state = CLIENT_OP_ENDING;
    loop_defer(loop_of(op), &op->task, on_task);
}

void http_client_op_fail(struct http_client_op *op, const struct err *err)
{
    end(op, err);
}

static void complete(struct http_client_op *op)
{
    bool is_ok = op->err.code == ERR_NONE;
    metrics_observe(METRIC_HISTOGRAM_HTTP_CALL, clock_us() - op->started_us);
    leave_host(op);
    op->state = CLIENT_OP_DONE;
    op->answer.body = buf_as_slice(&op->in);
    op->done(op->data, op, is_ok ? &op->answer : NULL, is_ok ? NULL : &op->err, op->was_sent);
    op_free(op);
}

static void arm(struct http_client_op *op);

static void start_streaming(struct http_client_op *op)
{
    op->state = CLIENT_OP_STREAMING;
    metrics_observe(METRIC_HISTOGRAM_HTTP_CALL, clock_us() - op->started_us);
    if (op->is_over)
        leave_host(op);
    else
        arm(op);
    op->done(op->data, op, &op->answer, NULL, true); /* which may free it */
}

static void wake_reader(struct http_client_op *op)
{
    void (*on_ready)(void *data) = op->on_ready;
    if (op->is_over)
        leave_host(op);
    if (!on_ready || (op->in.len == 0 && !op->is_over))
        return;
    op->on_ready = NULL;
    on_ready(op->ready_data);
}

static void on_task(struct loop_task *task)
{
    struct http_client_op *op = container_of(task, struct http_client_op, task);
    CHECK_OBJ(op, HTTP_CLIENT_OP_MAGIC);
    if (op->state == CLIENT_OP_ENDING)
        complete(op);
    else if (op->state == CLIENT_OP_STREAMING)
        wake_reader(op);
    else
        start_streaming(op);
}

/* ---- time ---------------------------------------------------------------------------------------------------------
 */

static const char *what_it_waits_for(const struct http_client_op *op)
{
    switch (op->state) {
    case CLIENT_OP_WAITING:
        return "no place among the calls in flight (http_client.max_per_host, http_client.max_active)";
    case CLIENT_OP_RESOLVING:
        return "its name was not resolved";
    case CLIENT_OP_RUNNING:
        return op->has_head ? "the answer did not end" : "no answer";
    case CLIENT_OP_STREAMING:
        return op->in.len ? "nobody read the answer" : "nothing more came";
    case CLIENT_OP_ENDING:
    case CLIENT_OP_DONE:
        break;
    }
    WRONG("http_client: a timer without a wait");
}

static void on_timer(struct timer *timer)
{
    struct http_client_op *op = container_of(timer, struct http_client_op, timer);
    struct err err = {0};
    bool is_theirs = op->state == CLIENT_OP_RESOLVING || op->state == CLIENT_OP_RUNNING;
    (void)err_set(&err, ERR_TIMEOUT, "%s within %u ms", what_it_waits_for(op), op->timeout_ms);
    end(op, &err);
    if (is_theirs)
        report(op, BREAKER_FAILURE);
}

static void arm(struct http_client_op *op)
{
    timer_arm(loop_of(op), &op->timer, loop_now(loop_of(op)) + op->timeout_ms, on_timer);
}

/* ---- a hop --------------------------------------------------------------------------------------------------------
 */

static void start_hop(struct http_client_op *op)
{
    op->host = http_client_host_ref(op->client, op->url.origin);
    http_client_ask_place(op);
}

void http_client_op_on_place(struct http_client_op *op)
{
    struct breaker *breaker = &op->host->breaker;
    uint64_t now_ms = loop_now(loop_of(op));
    op->state = CLIENT_OP_RESOLVING;
    if (!breaker_allow(breaker, now_ms, &op->is_probe)) {
        struct err err = {0};
        uint64_t left_ms = breaker->open_until_ms > now_ms ? breaker->open_until_ms - now_ms : 0;
        (void)err_set(&err, ERR_UNAVAILABLE, "calls to it have failed %u times in a row: none is made for %u ms",
                      breaker->n_failures, (unsigned)left_ms);
        op->client->refused++;
        end(op, &err);
    } else if (http_client_host_resolve(op->host, op) == OK) {
        http_client_op_on_addrs(op, NULL);
    }
}

void http_client_op_on_addrs(struct http_client_op *op, const struct err *err)
{
    if (!err) {
        op->state = CLIENT_OP_RUNNING;
        http_client_transfer_start(op);
        return;
    }
    struct err why = *err;
    why.code = ERR_UNAVAILABLE;
    end(op, &why);
    report(op, BREAKER_FAILURE);
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

void http_client_op_on_head(struct http_client_op *op)
{
    http_client_transfer_read_head(op);
    op->will_follow = op->max_redirects > 0 && is_redirect(op->answer.status) &&
                      http_client_answer_header(&op->answer, SLICE("Location")).len > 0;
    if (op->will_follow || !op->is_stream)
        return;
    report(op, outcome_of(op->answer.status));
    loop_defer(loop_of(op), &op->task, on_task);
}

void http_client_op_on_bytes(struct http_client_op *op)
{
    if (op->on_ready)
        loop_defer(loop_of(op), &op->task, on_task);
}

/* ---- redirects ----------------------------------------------------------------------------------------------------
 */

/* RFC 9110 15.4: 303 asks for a GET, and 301 and 302 have come to ask for one in place of POST. */
static void change_method(struct http_client_op *op)
{
    int status = op->answer.status;
    bool becomes_get = status == 303 || ((status == 301 || status == 302) && op->method == CLIENT_POST);
    if (!becomes_get || op->method == CLIENT_HEAD)
        return;
    op->method = CLIENT_GET;
    op->body = slice_of(NULL, 0);
    op->has_body = false;
}

static bool is_secret(struct slice name)
{
    return slice_ieq(name, SLICE("Authorization")) || slice_ieq(name, SLICE("Proxy-Authorization")) ||
           slice_ieq(name, SLICE("Cookie"));
}

/* Secrets stay with the origin they are for, and a body's description goes with the body. */
static void drop_headers(struct http_client_op *op, bool is_elsewhere)
{
    size_t n = 0;
    for (size_t i = 0; i < op->n_headers; i++) {
        struct slice name = op->headers[i].name;
        bool describes_body = name.len > 8 && slice_ieq(slice_of(name.ptr, 8), SLICE("Content-"));
        if ((is_elsewhere && is_secret(name)) || (describes_body && !op->has_body))
            continue;
        op->headers[n++] = op->headers[i];
    }
    op->n_headers = n;
}

static enum status turn_to(struct http_client_op *op, struct err *err)
{
    struct curl_url next;
    if (op->n_redirects == op->max_redirects)
        return err_set(err, ERR_BAD_RESPONSE, "more than %u redirects", op->max_redirects);
    struct slice location = http_client_answer_header(&op->answer, SLICE("Location"));
    if (curl_url_follow(&op->url, location, &next, err) != OK)
        return ERR;
    op->n_redirects++;
    change_method(op);
    drop_headers(op, strcmp(next.origin, op->url.origin) != 0);
    curl_url_free(&op->url);
    op->url = next;
    return OK;
}

static void follow(struct http_client_op *op)
{
    struct err err = {0};
    report(op, BREAKER_SUCCESS);
    http_client_transfer_stop(op);
    if (turn_to(op, &err) != OK) {
        op->has_head = false;
        end(op, &err);
        return;
    }
    leave_host(op);
    buf_clear(&op->head);
    op->has_head = op->will_follow = false;
    op->body_sent = 0;
    start_hop(op);
}

/* ---- the end of a transfer ----------------------------------------------------------------------------------------
 */

static void explain(const struct http_client_op *op, CURLcode code, struct err *err)
{
    if (op->is_too_large && !op->has_head)
        (void)err_set(err, ERR_TOO_LARGE, "the head of the answer is larger than 64 KiB");
    else if (op->is_too_large || code == CURLE_FILESIZE_EXCEEDED)
        (void)err_set(err, ERR_TOO_LARGE, "the answer is larger than %zu bytes (max_body)", op->max_body);
    else if (code == CURLE_SEND_FAIL_REWIND)
        (void)err_set(err, ERR_UNAVAILABLE, "the connection was lost before an answer came");
    else
        curl_transfer_err(&op->transfer, code, err);
}

static enum breaker_outcome outcome_of_failure(enum err_code code)
{
    if (code == ERR_FORBIDDEN_ADDRESS)
        return BREAKER_UNKNOWN;
    return code == ERR_TOO_LARGE ? BREAKER_SUCCESS : BREAKER_FAILURE;
}

void http_client_op_on_end(struct http_client_op *op, CURLcode code)
{
    struct err err = {0};
    bool was_reported = op->is_stream && op->has_head && !op->will_follow;
    if (op->will_follow) { /* whatever became of its body */
        follow(op);
        return;
    }
    if (code != CURLE_OK)
        explain(op, code, &err);
    end(op, code == CURLE_OK ? NULL : &err);
    if (!was_reported)
        report(op, code == CURLE_OK ? outcome_of(op->answer.status) : outcome_of_failure(err.code));
}

/* ---- from outside -------------------------------------------------------------------------------------------------
 */

static void copy_call(struct http_client_op *op, const struct http_client_call *call)
{
    struct arena *arena = &op->arena;
    op->headers = arena_alloc(arena, (call->n_headers + 1) * sizeof op->headers[0]);
    for (size_t i = 0; i < call->n_headers; i++)
        op->headers[i] = (struct http_client_header){arena_copy(arena, call->headers[i].name),
                                                     arena_copy(arena, call->headers[i].value)};
    op->n_headers = call->n_headers;
    op->has_body = call->has_body;
    if (call->body.len)
        op->body = arena_copy(arena, call->body);
}

struct http_client_op *http_client_start(struct http_client *client, const struct http_client_call *call)
{
    CHECK_OBJ(client, HTTP_CLIENT_MAGIC);
    struct http_client_op *op = xalloc(sizeof *op);
    *op = (struct http_client_op){.magic = HTTP_CLIENT_OP_MAGIC,
                                  .client = client,
                                  .state = CLIENT_OP_WAITING,
                                  .method = call->method,
                                  .is_stream = call->is_stream,
                                  .max_redirects = call->redirects,
                                  .timeout_ms = call->timeout_ms,
                                  .started_us = clock_us(),
                                  .max_body = call->max_body,
                                  .done = call->done,
                                  .data = call->data};
    arena_create(&op->arena);
    copy_call(op, call);
    client->calls++;
    client->n_ops++;
    struct err err = {0};
    if (curl_url_parse(call->url, &op->url, &err) != OK) {
        end(op, &err);
        return op;
    }
    arm(op);
    start_hop(op);
    return op;
}

void http_client_cancel(struct http_client_op *op, bool at_deadline)
{
    CHECK_OBJ(op, HTTP_CLIENT_OP_MAGIC);
    CHECK(op->state != CLIENT_OP_DONE);
    if (op->state == CLIENT_OP_WAITING)
        http_client_leave_queue(op);
    if (op->state == CLIENT_OP_RESOLVING || op->state == CLIENT_OP_RUNNING)
        report(op, at_deadline ? BREAKER_FAILURE : BREAKER_UNKNOWN);
    op_free(op);
}

bool http_client_is_stream(const struct http_client_op *op)
{
    return op->is_stream;
}

bool http_client_is_unknown(const struct http_client_op *op)
{
    return !http_client_is_safe(op->method) && (op->was_sent || curl_transfer_was_sent(&op->transfer));
}

/* ---- streams ------------------------------------------------------------------------------------------------------
 */

enum status http_client_read(struct http_client_op *op, struct slice *out, void (*on_ready)(void *data), void *data,
                             struct err *err)
{
    CHECK_OBJ(op, HTTP_CLIENT_OP_MAGIC);
    CHECK(op->state == CLIENT_OP_STREAMING && !op->on_ready);
    buf_clear(&op->out);
    *out = slice_of(NULL, 0);
    if (!op->is_over)
        arm(op);
    if (op->in.len > 0) {
        struct buf full = op->in;
        op->in = op->out;
        op->out = full;
        *out = buf_as_slice(&op->out);
        if (op->is_paused && op->transfer.easy) {
            op->is_paused = false;
            curl_easy_pause(op->transfer.easy, CURLPAUSE_CONT);
        }
        return OK;
    }
    if (!op->is_over) {
        op->on_ready = on_ready;
        op->ready_data = data;
        return AGAIN;
    }
    if (op->err.code == ERR_NONE)
        return OK;
    if (err)
        *err = op->err;
    return ERR;
}

void http_client_stop_waiting(struct http_client_op *op)
{
    CHECK_OBJ(op, HTTP_CLIENT_OP_MAGIC);
    op->on_ready = NULL;
}

void http_client_stream_free(struct http_client_op *op)
{
    CHECK_OBJ(op, HTTP_CLIENT_OP_MAGIC);
    CHECK(op->state == CLIENT_OP_STREAMING);
    op_free(op);
}
