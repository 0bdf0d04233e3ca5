/* The page is one document without scripts or outside parts, so that it shows whatever else is broken. A frame is any
 * "file.lua:line:" in the message or the traceback; its source is read from disk at this moment, which in development
 * is what runs. Files outside the working directory are named, never read. */
#include "script/error_page.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LINES_AROUND = 5,
    FRAMES_MAX = 12,          /* deeper ones are only in the raw traceback */
    SOURCE_MAX = 1024 * 1024, /* bytes of a file that are looked at */
    PATH_BYTES = 256,
};

struct frame {
    char file[PATH_BYTES];
    long line;
};

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fbfaf8;--fg:#1d1b18;--dim:#77716a;--line:#e4dfd8;--hot:#b3261e;--mark:#fdeceb}"
    "@media(prefers-color-scheme:dark){:root{--bg:#171614;--fg:#ece8e1;--dim:#938c83;--line:#33302c;--hot:#ff8a80;"
    "--mark:#3b2321}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}"
    "main{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem}"
    "h1{font-size:.85rem;letter-spacing:.08em;text-transform:uppercase;color:var(--hot);margin:0 0 .5rem}"
    ".message{font:600 1.2rem/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:0}"
    ".note{color:var(--dim);margin:.75rem 0 0;white-space:pre-wrap}"
    "h2{font-size:1rem;margin:2.25rem 0 .6rem}"
    "pre{margin:0;overflow-x:auto;font:13px/1.55 ui-monospace,monospace}"
    "figure{margin:0 0 1rem;border:1px solid var(--line);border-radius:8px;overflow:hidden}"
    "figcaption{padding:.45rem .9rem;font:13px ui-monospace,monospace;border-bottom:1px solid var(--line)}"
    "figure pre{padding:.5rem 0}figure pre span{display:block;padding:0 .9rem}"
    "figure pre i{font-style:normal;color:var(--dim);display:inline-block;width:3.2em}"
    ".here{background:var(--mark);box-shadow:inset 3px 0 var(--hot)}"
    "table{border-collapse:collapse;width:100%;font:13px/1.5 ui-monospace,monospace}"
    "td{border-top:1px solid var(--line);padding:.35rem .5rem;vertical-align:top;overflow-wrap:anywhere}"
    "td:first-child{color:var(--dim);width:14rem}"
    "details pre{padding:.75rem .9rem;border:1px solid var(--line);border-radius:8px}"
    "summary{cursor:pointer;color:var(--dim)}";

static void write_text(struct buf *out, struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        switch (text.ptr[i]) {
        case '&':
            buf_lit(out, "&amp;");
            break;
        case '<':
            buf_lit(out, "&lt;");
            break;
        case '>':
            buf_lit(out, "&gt;");
            break;
        case '"':
            buf_lit(out, "&quot;");
            break;
        default:
            buf_byte(out, text.ptr[i]);
        }
    }
}

/* ---- frames --------------------------------------------------------------------------------------------------- */

static bool is_path_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' || c == '.' ||
           c == '_' || c == '-';
}

/* The next "path.lua:line" in *text, which is moved behind it. "<path.lua:line>" is where a nameless function starts,
 * not where it was. */
static bool next_frame(const char **text, struct frame *frame)
{
    const char *found, *begin = *text;
    while ((found = strstr(*text, ".lua:"))) {
        const char *start = found, *after = found + 5;
        while (start > begin && is_path_byte(start[-1]))
            start--;
        size_t len = (size_t)(found + 4 - start);
        char *end;
        frame->line = strtol(after, &end, 10);
        *text = end > after ? end : after;
        bool is_name = start > begin && start[-1] == '<';
        if (len < PATH_BYTES && end > after && frame->line > 0 && !is_name) {
            memcpy(frame->file, start, len);
            frame->file[len] = '\0';
            return true;
        }
    }
    return false;
}

static bool is_seen(const struct frame *frames, size_t n, const struct frame *frame)
{
    for (size_t i = 0; i < n; i++)
        if (frames[i].line == frame->line && strcmp(frames[i].file, frame->file) == 0)
            return true;
    return false;
}

static bool is_ours(const char *file)
{
    return strncmp(file, "lua/chowk/", 10) == 0; /* the library: compiled in, and not where the mistake is */
}

static size_t collect(const char *text, struct frame *frames, size_t n)
{
    struct frame frame;
    while (text && n < FRAMES_MAX && next_frame(&text, &frame))
        if (!is_ours(frame.file) && !is_seen(frames, n, &frame))
            frames[n++] = frame;
    return n;
}

/* Only below the working directory: a message is partly the peer's text, and must not make us show /etc. */
static bool read_source(const char *file, struct buf *out)
{
    struct stat st;
    if (file[0] == '/' || strstr(file, ".."))
        return false;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = -1;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        n = read(fd, buf_reserve(out, SOURCE_MAX), SOURCE_MAX);
    close(fd);
    out->len = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static void write_lines(struct buf *out, struct slice source, long around)
{
    long number = 1;
    for (size_t at = 0; at < source.len && number <= around + LINES_AROUND; number++) {
        const char *start = source.ptr + at;
        const char *end = memchr(start, '\n', source.len - at);
        size_t len = end ? (size_t)(end - start) : source.len - at;
        at += len + 1;
        if (number < around - LINES_AROUND)
            continue;
        buf_printf(out, "<span%s><i>%ld</i>", number == around ? " class=here" : "", number);
        write_text(out, slice_of(start, len));
        buf_lit(out, "</span>");
    }
}

static void write_frame(struct buf *out, const struct frame *frame)
{
    struct buf source = {0};
    buf_lit(out, "<figure><figcaption>");
    write_text(out, slice_str(frame->file));
    buf_printf(out, ":%ld</figcaption>", frame->line);
    if (read_source(frame->file, &source)) {
        buf_lit(out, "<pre>");
        write_lines(out, buf_as_slice(&source), frame->line);
        buf_lit(out, "</pre>");
    }
    buf_lit(out, "</figure>");
    buf_free(&source);
}

static void write_frames(struct buf *out, const struct error_page *page)
{
    struct frame frames[FRAMES_MAX];
    struct buf message = {0};
    buf_slice(&message, page->message);
    buf_byte(&message, '\0');
    size_t n = collect(message.ptr, frames, 0);
    buf_free(&message);
    n = collect(page->trace, frames, n);
    if (n > 0)
        buf_lit(out, "<h2>Where</h2>");
    for (size_t i = 0; i < n; i++)
        write_frame(out, &frames[i]);
    if (!page->trace)
        return;
    buf_lit(out, "<details><summary>Whole traceback</summary><pre>");
    write_text(out, slice_str(page->trace));
    buf_lit(out, "</pre></details>");
}

/* ---- the request ---------------------------------------------------------------------------------------------- */

static void write_row(struct buf *out, struct slice name, struct slice value)
{
    buf_lit(out, "<tr><td>");
    write_text(out, name);
    buf_lit(out, "</td><td>");
    write_text(out, value);
    buf_lit(out, "</td></tr>");
}

static bool is_secret(struct slice name)
{
    return slice_ieq(name, SLICE("authorization")) || slice_ieq(name, SLICE("cookie"));
}

static void write_request(struct buf *out, const struct http_request *req)
{
    buf_lit(out, "<h2>Request</h2><table>");
    write_row(out, slice_str(http_method_name(req->method)), req->target);
    write_row(out, SLICE("route"), slice_str(req->route->pattern));
    write_row(out, SLICE("handler"), slice_str(req->route->origin));
    write_row(out, SLICE("request id"), slice_str(req->id));
    for (size_t i = 0; i < req->n_headers; i++)
        write_row(out, req->headers[i].name,
                  is_secret(req->headers[i].name) ? SLICE("(not shown)") : req->headers[i].value);
    buf_lit(out, "</table>");
}

/* ---- the page ------------------------------------------------------------------------------------------------- */

bool error_page_is_wanted(const struct http_request *req)
{
    struct slice accept = http_request_header(req, SLICE("accept"));
    return accept.len >= 9 && memmem(accept.ptr, accept.len, "text/html", 9) != NULL;
}

void error_page_write(const struct error_page *page, struct buf *out)
{
    buf_lit(out, "<!doctype html><html lang=en><meta charset=utf-8>"
                 "<meta name=viewport content=\"width=device-width\"><title>");
    write_text(out, page->message);
    buf_printf(out, "</title><style>%s</style><main><h1>%s</h1><p class=message>", style, page->title);
    write_text(out, page->message);
    buf_lit(out, "</p>");
    if (page->note.len > 0) {
        buf_lit(out, "<p class=note>");
        write_text(out, page->note);
        buf_lit(out, "</p>");
    }
    write_frames(out, page);
    write_request(out, page->req);
    buf_lit(out, "</main></html>\n");
}
