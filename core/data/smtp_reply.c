#include "data/smtp_reply.h"

void smtp_reply_start(struct smtp_reply *reply, struct smtp_features *hello)
{
    reply->code = 0;
    reply->n_bytes = reply->line_len = 0;
    reply->text[0] = '\0';
    reply->hello = hello;
    if (hello)
        *hello = (struct smtp_features){0};
}

/* Old servers write AUTH=PLAIN. */
static struct slice take_word(struct slice *rest)
{
    size_t len = 0;
    *rest = slice_trim(*rest);
    while (len < rest->len && rest->ptr[len] != ' ' && rest->ptr[len] != '=')
        len++;
    struct slice word = slice_of(rest->ptr, len);
    size_t taken = len < rest->len ? len + 1 : len;
    *rest = slice_of(rest->ptr + taken, rest->len - taken);
    return word;
}

static void take_feature(struct smtp_features *features, struct slice line)
{
    struct slice word = take_word(&line);
    features->has_starttls |= slice_ieq(word, SLICE("STARTTLS"));
    if (!slice_ieq(word, SLICE("AUTH")))
        return;
    while (line.len > 0) {
        word = take_word(&line);
        features->has_plain |= slice_ieq(word, SLICE("PLAIN"));
        features->has_login |= slice_ieq(word, SLICE("LOGIN"));
    }
}

static void keep_text(struct smtp_reply *reply, struct slice line)
{
    size_t len = 0;
    while (len < line.len && len < sizeof reply->text - 1) {
        char c = line.ptr[len];
        reply->text[len++] = c < ' ' || c > '~' ? '?' : c;
    }
    reply->text[len] = '\0';
}

/* OK: the last line. */
static enum status take_line(struct smtp_reply *reply, struct err *err)
{
    struct slice line = slice_of(reply->line, reply->line_len);
    if (line.len > 0 && line.ptr[line.len - 1] == '\r')
        line.len--;
    int64_t code;
    bool is_good = line.len >= 3 && slice_to_int(slice_of(line.ptr, 3), 200, 599, &code) &&
                   (line.len == 3 || line.ptr[3] == ' ' || line.ptr[3] == '-');
    if (!is_good || (reply->code && reply->code != code))
        return err_set(err, ERR_UNAVAILABLE, "the server does not speak SMTP");
    if (!reply->code)
        keep_text(reply, line);
    else if (reply->hello && line.len > 4)
        take_feature(reply->hello, slice_of(line.ptr + 4, line.len - 4));
    reply->code = (int)code;
    reply->line_len = 0;
    return line.len > 3 && line.ptr[3] == '-' ? AGAIN : OK;
}

enum status smtp_reply_feed(struct smtp_reply *reply, struct slice *bytes, struct err *err)
{
    while (bytes->len > 0) {
        char c = *bytes->ptr;
        *bytes = slice_of(bytes->ptr + 1, bytes->len - 1);
        if (++reply->n_bytes > SMTP_REPLY_MAX || reply->line_len == SMTP_LINE_MAX)
            return err_set(err, ERR_UNAVAILABLE, "the server's answer is too long");
        if (c != '\n') {
            reply->line[reply->line_len++] = c;
            continue;
        }
        enum status status = take_line(reply, err);
        if (status != AGAIN)
            return status;
    }
    return AGAIN;
}
