/* A scanner for Lua source that knows just enough to say on which line a key is assigned: names, strings, comments,
 * braces, dots, brackets and '='. It never judges the source (Lua itself has compiled it before); when the file
 * computes its keys, the answer is "unknown", which costs a line number in a message and nothing else. */
#include "server/config_lines.h"

#include <ctype.h>

enum { MAX_DEPTH = 32, MAX_PATH = 256 };

struct scan {
    const char *pos, *end;
    int line;
    char path[MAX_PATH]; /* the dotted path being read, on top of the open tables' */
    size_t len;
    size_t frames[MAX_DEPTH]; /* path length at each open brace */
    int depth;
    bool is_chain;    /* the last token was part of a key: a '.' or '[' may continue it */
    bool is_assigned; /* "key =" was just seen: a '{' opens that key's table */
    int key_line;
};

static bool is_name_start(char c)
{
    return isalpha((unsigned char)c) || c == '_';
}

static bool is_name_part(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* At '[': the level of a long bracket ("[==["), or -1. */
static int long_bracket(const struct scan *scan)
{
    const char *p = scan->pos + 1;
    while (p < scan->end && *p == '=')
        p++;
    return p < scan->end && *p == '[' ? (int)(p - scan->pos - 1) : -1;
}

static void skip_long(struct scan *scan, int level)
{
    scan->pos += level + 2;
    while (scan->pos < scan->end) {
        char c = *scan->pos++;
        if (c == '\n')
            scan->line++;
        if (c != ']')
            continue;
        const char *p = scan->pos;
        while (p < scan->end && *p == '=')
            p++;
        if (p < scan->end && *p == ']' && p - scan->pos == level) {
            scan->pos = p + 1;
            return;
        }
    }
}

static void skip_comment(struct scan *scan)
{
    scan->pos += 2;
    int level = scan->pos < scan->end && *scan->pos == '[' ? long_bracket(scan) : -1;
    if (level >= 0) {
        skip_long(scan, level);
        return;
    }
    while (scan->pos < scan->end && *scan->pos != '\n')
        scan->pos++;
}

static struct slice read_string(struct scan *scan)
{
    char quote = *scan->pos++;
    const char *start = scan->pos;
    while (scan->pos < scan->end && *scan->pos != quote && *scan->pos != '\n')
        scan->pos += *scan->pos == '\\' && scan->pos + 1 < scan->end ? 2 : 1;
    struct slice text = slice_of(start, (size_t)(scan->pos - start));
    if (scan->pos < scan->end && *scan->pos == quote)
        scan->pos++;
    return text;
}

static size_t base_len(const struct scan *scan)
{
    return scan->depth > 0 && scan->depth <= MAX_DEPTH ? scan->frames[scan->depth - 1] : 0;
}

/* A name or quoted key: continues the chain after a dot or bracket, else starts a new key. */
static void add_key(struct scan *scan, struct slice key)
{
    if (!scan->is_chain)
        scan->len = base_len(scan);
    if (scan->len + key.len + 1 < MAX_PATH) {
        if (scan->len > 0)
            scan->path[scan->len++] = '.';
        memcpy(scan->path + scan->len, key.ptr, key.len);
        scan->len += key.len;
    }
    scan->key_line = scan->line;
    scan->is_chain = false;
}

static void open_table(struct scan *scan)
{
    if (!scan->is_assigned)
        scan->len = base_len(scan);
    if (scan->depth < MAX_DEPTH)
        scan->frames[scan->depth] = scan->len;
    scan->depth++;
    scan->is_chain = scan->is_assigned = false;
}

static void close_table(struct scan *scan)
{
    if (scan->depth > 0)
        scan->depth--;
    scan->len = base_len(scan);
    scan->is_chain = scan->is_assigned = false;
}

static void read_bracket(struct scan *scan)
{
    int level = long_bracket(scan);
    if (level >= 0) {
        skip_long(scan, level);
        return;
    }
    const char *p = scan->pos + 1;
    while (p < scan->end && (*p == ' ' || *p == '\t'))
        p++;
    scan->pos = p;
    if (p >= scan->end || (*p != '"' && *p != '\''))
        return;
    struct slice key = read_string(scan);
    /* `["x"] =` within a table starts a key; `conf["x"] =` goes on with one. */
    scan->is_chain = scan->is_chain || (scan->depth == 0 && scan->len > 0);
    add_key(scan, key);
}

/* One token; true when it was the '=' of an assignment to scan->path. */
static bool next_token(struct scan *scan)
{
    char c = *scan->pos;
    if (c == '\n')
        scan->line++;
    if (c == '-' && scan->pos + 1 < scan->end && scan->pos[1] == '-') {
        skip_comment(scan);
    } else if (is_name_start(c)) {
        const char *start = scan->pos;
        while (scan->pos < scan->end && is_name_part(*scan->pos))
            scan->pos++;
        add_key(scan, slice_of(start, (size_t)(scan->pos - start)));
        scan->is_assigned = false;
    } else if (isdigit((unsigned char)c)) { /* a whole number, so that the dot in 1.5 is none of ours */
        while (scan->pos < scan->end && (is_name_part(*scan->pos) || *scan->pos == '.'))
            scan->pos++;
    } else if (c == '"' || c == '\'') {
        read_string(scan);
        scan->is_chain = false;
    } else if (c == '[') {
        read_bracket(scan);
    } else if (c == '=' && scan->pos + 1 < scan->end && scan->pos[1] == '=') {
        scan->pos += 2;
    } else if (c == '=') {
        scan->pos++;
        scan->is_assigned = true;
        return true;
    } else {
        scan->pos++;
        if (c == '{')
            open_table(scan);
        else if (c == '}')
            close_table(scan);
        else if (!isspace((unsigned char)c))
            scan->is_chain = c == '.';
        if (c == ',' || c == ';')
            scan->is_assigned = false;
    }
    return false;
}

/* How surely `path` is `name`: exactly; without the variable it hangs on; by its last part only. */
static int match(struct slice path, struct slice name)
{
    if (slice_eq(path, name))
        return 3;
    const char *dot = memchr(path.ptr, '.', path.len);
    if (dot && slice_eq(slice_of(dot + 1, path.len - (size_t)(dot + 1 - path.ptr)), name))
        return 2;
    const char *last = memrchr(name.ptr, '.', name.len);
    struct slice leaf = last ? slice_of(last + 1, name.len - (size_t)(last + 1 - name.ptr)) : name;
    const char *end = memrchr(path.ptr, '.', path.len);
    struct slice tail = end ? slice_of(end + 1, path.len - (size_t)(end + 1 - path.ptr)) : path;
    return slice_eq(tail, leaf) ? 1 : 0;
}

int config_lines_find(struct slice source, const char *name)
{
    struct scan scan = {.pos = source.ptr, .end = source.ptr + source.len, .line = 1};
    int best = 0, best_line = 0;
    while (scan.pos < scan.end) {
        if (!next_token(&scan))
            continue;
        int score = match(slice_of(scan.path, scan.len), slice_str(name));
        if (score > best) {
            best = score;
            best_line = scan.key_line;
        }
    }
    return best_line;
}
