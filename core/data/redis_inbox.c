/* Between redis_sub.c's callback and one reader at a time. Messages are copied into the queue, each in one piece of
 * memory. What is to be told in a later callback (a message that is there already, the error that ended it) goes
 * through one deferred task, so that no completion comes from inside a call. */
#include "data/redis_inbox.h"

#include <stdlib.h>

#include "data/redis_priv.h"

#define INBOX_MAGIC 0x4ed15050u
#define DEFAULT_MESSAGES 1000
#define DEFAULT_BYTES (8u << 20)

struct letter {
    struct list node;
    struct redis_news news; /* its slices point behind it */
    size_t bytes;
    char text[];
};

enum wait_kind { WAIT_NONE, WAIT_READY, WAIT_NEXT };

struct redis_inbox {
    unsigned magic;
    struct redis *redis;
    struct redis_sub *sub; /* NULL: ended by err */
    struct list letters;
    size_t n_letters, n_bytes, max_messages, max_bytes;
    struct err *err;  /* why it ended; owned */
    struct err *down; /* the connection is away: why; owned */
    bool is_late;     /* its reader went on before it was ready */
    enum wait_kind wait;
    redis_inbox_fn done;
    void *data;
    struct timer timer;
    struct loop_task task;
};

static void complete(struct redis_inbox *inbox, const struct redis_news *news, const struct err *err)
{
    inbox->wait = WAIT_NONE;
    timer_stop(inbox->redis->loop, &inbox->timer);
    loop_defer_cancel(&inbox->task);
    inbox->done(inbox->data, news, err); /* may wait again, or close the inbox */
}

/* ---- the queue ------------------------------------------------------------------------------------------------ */

static void drop_letters(struct redis_inbox *inbox)
{
    for (struct list *node; (node = list_pop(&inbox->letters)) != NULL;)
        free(container_of(node, struct letter, node));
    inbox->n_letters = inbox->n_bytes = 0;
}

static void end(struct redis_inbox *inbox, const struct err *err)
{
    if (inbox->err)
        return;
    inbox->err = xalloc(sizeof *inbox->err);
    *inbox->err = *err;
    drop_letters(inbox);
    redis_sub_close(inbox->sub);
    inbox->sub = NULL;
}

static struct slice put_text(struct letter *letter, struct slice text)
{
    char *at = letter->text + letter->bytes;
    if (text.len > 0)
        memcpy(at, text.ptr, text.len);
    letter->bytes += text.len;
    return slice_of(at, text.len);
}

static void keep(struct redis_inbox *inbox, const struct redis_news *news)
{
    size_t bytes = news->channel.len + news->pattern.len + news->payload.len;
    if (inbox->n_letters >= inbox->max_messages || inbox->n_bytes + bytes > inbox->max_bytes) {
        struct err err = {0};
        err_set(&err, ERR_QUEUE_FULL, "redis: this subscriber is too slow: it was dropped with %zu messages waiting",
                inbox->n_letters);
        end(inbox, &err);
        return;
    }
    struct letter *letter = xalloc(sizeof *letter + bytes);
    letter->news.event = news->event;
    letter->news.channel = put_text(letter, news->channel);
    letter->news.pattern = put_text(letter, news->pattern);
    letter->news.payload = put_text(letter, news->payload);
    list_push(&inbox->letters, &letter->node);
    inbox->n_letters++;
    inbox->n_bytes += bytes;
}

/* ---- telling -------------------------------------------------------------------------------------------------- */

static void tell_ready(struct redis_inbox *inbox)
{
    if (inbox->err || inbox->down) {
        inbox->is_late = inbox->down && !inbox->err;
        complete(inbox, NULL, inbox->err ? inbox->err : inbox->down);
    } else if (redis_sub_is_ready(inbox->sub)) {
        complete(inbox, NULL, NULL);
    }
}

static void tell_next(struct redis_inbox *inbox)
{
    struct list *node = list_pop(&inbox->letters);
    if (node) {
        struct letter *letter = container_of(node, struct letter, node);
        inbox->n_letters--;
        inbox->n_bytes -= letter->bytes;
        complete(inbox, &letter->news, NULL);
        free(letter);
    } else if (inbox->err) {
        complete(inbox, NULL, inbox->err);
    }
}

static void tell(struct redis_inbox *inbox)
{
    if (inbox->wait == WAIT_READY)
        tell_ready(inbox);
    else if (inbox->wait == WAIT_NEXT)
        tell_next(inbox);
}

static void on_task(struct loop_task *task)
{
    struct redis_inbox *inbox = container_of(task, struct redis_inbox, task);
    CHECK_OBJ(inbox, INBOX_MAGIC);
    tell(inbox);
}

static void on_deadline(struct timer *timer)
{
    struct redis_inbox *inbox = container_of(timer, struct redis_inbox, timer);
    CHECK_OBJ(inbox, INBOX_MAGIC);
    struct err err = {0};
    if (inbox->wait == WAIT_NEXT) {
        complete(inbox, NULL, NULL);
        return;
    }
    inbox->is_late = true;
    err_set(&err, ERR_TIMEOUT, "redis: not subscribed within the deadline");
    complete(inbox, NULL, &err);
}

static void set_down(struct redis_inbox *inbox, const struct err *err)
{
    free(inbox->down);
    inbox->down = NULL;
    if (!err)
        return;
    inbox->down = xalloc(sizeof *inbox->down);
    *inbox->down = *err;
}

static void on_news(void *data, const struct redis_news *news)
{
    struct redis_inbox *inbox;
    CAST_OBJ(inbox, data, INBOX_MAGIC);
    switch (news->event) {
    case REDIS_SUB_READY:
        set_down(inbox, NULL);
        if (inbox->is_late)
            keep(inbox, &(struct redis_news){.event = REDIS_SUB_GAP});
        break;
    case REDIS_SUB_GAP:
        set_down(inbox, NULL);
        keep(inbox, news);
        break;
    case REDIS_SUB_MESSAGE:
        keep(inbox, news);
        break;
    case REDIS_SUB_DOWN:
        set_down(inbox, news->err);
        break;
    case REDIS_SUB_FAILED:
        end(inbox, news->err);
        break;
    }
    tell(inbox);
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static void wait_for(struct redis_inbox *inbox, enum wait_kind kind, uint64_t deadline_ms, redis_inbox_fn done,
                     void *data)
{
    CHECK_OBJ(inbox, INBOX_MAGIC);
    CHECK(inbox->wait == WAIT_NONE && done);
    struct loop *loop = inbox->redis->loop;
    inbox->wait = kind;
    inbox->done = done;
    inbox->data = data;
    if (deadline_ms > 0)
        timer_arm(loop, &inbox->timer, deadline_ms, on_deadline);
    loop_defer(loop, &inbox->task, on_task);
}

void redis_inbox_wait_ready(struct redis_inbox *inbox, uint64_t deadline_ms, redis_inbox_fn done, void *data)
{
    wait_for(inbox, WAIT_READY, deadline_ms, done, data);
}

void redis_inbox_next(struct redis_inbox *inbox, uint64_t deadline_ms, redis_inbox_fn done, void *data)
{
    wait_for(inbox, WAIT_NEXT, deadline_ms, done, data);
}

bool redis_inbox_is_waited_on(const struct redis_inbox *inbox)
{
    return inbox->wait != WAIT_NONE;
}

void redis_inbox_cancel(struct redis_inbox *inbox)
{
    CHECK_OBJ(inbox, INBOX_MAGIC);
    inbox->wait = WAIT_NONE;
    timer_stop(inbox->redis->loop, &inbox->timer);
    loop_defer_cancel(&inbox->task);
}

struct redis_inbox *redis_inbox_open(struct redis *redis, const struct redis_inbox_opts *opts)
{
    struct redis_inbox *inbox = xalloc(sizeof *inbox);
    inbox->magic = INBOX_MAGIC;
    inbox->redis = redis;
    inbox->max_messages = opts->max_messages ? opts->max_messages : DEFAULT_MESSAGES;
    inbox->max_bytes = opts->max_bytes ? opts->max_bytes : DEFAULT_BYTES;
    list_init(&inbox->letters);
    inbox->sub = redis_subscribe(redis, &(struct redis_sub_opts){.channels = opts->channels,
                                                                 .n_channels = opts->n_channels,
                                                                 .patterns = opts->patterns,
                                                                 .fn = on_news,
                                                                 .data = inbox});
    return inbox;
}

void redis_inbox_close(struct redis_inbox *inbox)
{
    CHECK_OBJ(inbox, INBOX_MAGIC);
    redis_inbox_cancel(inbox);
    if (inbox->sub)
        redis_sub_close(inbox->sub);
    drop_letters(inbox);
    free(inbox->err);
    free(inbox->down);
    inbox->magic = 0;
    loop_reclaim(inbox->redis->loop, inbox);
}
