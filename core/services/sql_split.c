/* A scanner that knows just enough of PostgreSQL's lexical rules to find the semicolons that end a statement:
 * 'strings' with '' (and \' in E''), "identifiers", $tag$ … $tag$, -- and nested block comments, parentheses (CREATE
 * RULE … DO (…; …)) and, as psql does, BEGIN … END inside CREATE FUNCTION or PROCEDURE (SQL-standard bodies).
 * It must never reject anything: what it does not understand goes to PostgreSQL, whose error has a position. */
#include "services/sql_split.h"

#include <ctype.h>

struct scan {
    const char *at, *end;
    int parens, begins; /* nesting */
    int n_words;        /* words seen, up to 3: CREATE [OR REPLACE] FUNCTION */
    bool is_create, is_routine;
};

static bool is_word_start(char c)
{
    return isalpha((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static bool is_word(char c)
{
    return is_word_start(c) || isdigit((unsigned char)c) || c == '$';
}

static bool starts_with(const struct scan *scan, const char *text)
{
    size_t len = strlen(text);
    return (size_t)(scan->end - scan->at) >= len && memcmp(scan->at, text, len) == 0;
}

static void skip_line_comment(struct scan *scan)
{
    while (scan->at < scan->end && *scan->at != '\n' && *scan->at != '\r') /* PostgreSQL ends it at either */
        scan->at++;
}

static void skip_block_comment(struct scan *scan)
{
    int depth = 0;
    do {
        if (starts_with(scan, "/*")) {
            depth++;
            scan->at += 2;
        } else if (starts_with(scan, "*/")) {
            depth--;
            scan->at += 2;
        } else {
            scan->at++;
        }
    } while (depth > 0 && scan->at < scan->end);
}

/* At the opening quote; a doubled one does not close. */
static void skip_quoted(struct scan *scan, bool has_backslashes)
{
    char quote = *scan->at++;
    for (; scan->at < scan->end; scan->at++) {
        bool has_next = scan->at + 1 < scan->end;
        if (*scan->at == '\\' && has_backslashes && has_next)
            scan->at++;
        else if (*scan->at == quote && has_next && scan->at[1] == quote)
            scan->at++;
        else if (*scan->at == quote)
            break;
    }
    scan->at += scan->at < scan->end;
}

/* At a '$': skips $tag$ … $tag$; a lone $ or $1 is one token. */
static void skip_dollar(struct scan *scan)
{
    const char *tag = scan->at, *p = scan->at + 1;
    if (p < scan->end && is_word_start(*p))
        while (p < scan->end && is_word(*p) && *p != '$')
            p++;
    if (p >= scan->end || *p != '$') {
        for (scan->at++; scan->at < scan->end && isdigit((unsigned char)*scan->at);)
            scan->at++;
        return;
    }
    size_t tag_len = (size_t)(p + 1 - tag);
    const char *close = memmem(p + 1, (size_t)(scan->end - p - 1), tag, tag_len);
    scan->at = close ? close + tag_len : scan->end;
}

/* A statement in which BEGIN opens a body: CREATE [OR REPLACE] {FUNCTION | PROCEDURE}. */
static void note_word(struct scan *scan, struct slice word)
{
    scan->n_words++;
    if (scan->n_words == 1)
        scan->is_create = slice_ieq(word, SLICE("CREATE"));
    else if (scan->n_words <= 4 && (slice_ieq(word, SLICE("FUNCTION")) || slice_ieq(word, SLICE("PROCEDURE"))))
        scan->is_routine = scan->is_create;
    if (!scan->is_routine)
        return;
    if (slice_ieq(word, SLICE("BEGIN")))
        scan->begins++;
    else if (slice_ieq(word, SLICE("CASE")) && scan->begins > 0)
        scan->begins++;
    else if (slice_ieq(word, SLICE("END")) && scan->begins > 0)
        scan->begins--;
}

/* Blanks and comments. */
static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end) {
        if (starts_with(scan, "--"))
            skip_line_comment(scan);
        else if (starts_with(scan, "/*"))
            skip_block_comment(scan);
        else if (isspace((unsigned char)*scan->at))
            scan->at++;
        else
            return;
    }
}

/* A string that goes on in the next line (SQL's quote continuation) goes on with its escapes. */
static void skip_escape_string(struct scan *scan)
{
    do {
        skip_quoted(scan, true);
        skip_space(scan);
    } while (scan->at < scan->end && *scan->at == '\'');
}

static void skip_word(struct scan *scan)
{
    const char *start = scan->at;
    while (scan->at < scan->end && is_word(*scan->at))
        scan->at++;
    struct slice word = slice_of(start, (size_t)(scan->at - start));
    if (scan->at < scan->end && *scan->at == '\'' && slice_ieq(word, SLICE("E")))
        skip_escape_string(scan);
    else
        note_word(scan, word);
}

/* With letters that follow, which PostgreSQL calls junk: 1e'x' must not look like E'x'. But 1$$x$$ is two tokens. */
static void skip_number(struct scan *scan)
{
    while (scan->at < scan->end && *scan->at != '$' && (is_word(*scan->at) || *scan->at == '.'))
        scan->at++;
}

/* One token; blanks and comments count as tokens. */
static void skip_token(struct scan *scan)
{
    char c = *scan->at;
    if (starts_with(scan, "--"))
        skip_line_comment(scan);
    else if (starts_with(scan, "/*"))
        skip_block_comment(scan);
    else if (c == '\'' || c == '"')
        skip_quoted(scan, false);
    else if (c == '$')
        skip_dollar(scan);
    else if (is_word_start(c))
        skip_word(scan);
    else if (isdigit((unsigned char)c))
        skip_number(scan);
    else {
        scan->parens += c == '(' ? 1 : c == ')' && scan->parens > 0 ? -1 : 0;
        scan->at++;
    }
}

static int count_lines(const char *from, const char *to)
{
    int n = 0;
    for (const char *p = from; (p = memchr(p, '\n', (size_t)(to - p))) != NULL; p++)
        n++;
    return n;
}

/* Blanks, comments and empty statements. A byte order mark is one too. */
static void skip_blank(struct scan *scan)
{
    if (starts_with(scan, "\xef\xbb\xbf"))
        scan->at += 3;
    for (skip_space(scan); scan->at < scan->end && *scan->at == ';'; skip_space(scan))
        scan->at++;
}

bool sql_split_next(struct sql_split *split, struct sql_statement *out)
{
    const char *before = split->rest.ptr;
    struct scan scan = {.at = before, .end = before + split->rest.len};
    if (split->rest.len == 0)
        return false;
    skip_blank(&scan);
    const char *start = scan.at;
    while (scan.at < scan.end && (*scan.at != ';' || scan.parens > 0 || scan.begins > 0))
        skip_token(&scan);
    int lines_before = split->line + count_lines(before, start);
    const char *word_end = start;
    while (word_end < scan.at && is_word(*word_end))
        word_end++;
    *out = (struct sql_statement){.text = slice_of(start, (size_t)(scan.at - start)),
                                  .keyword = slice_of(start, (size_t)(word_end - start)),
                                  .line = lines_before + 1};
    split->line = lines_before + count_lines(start, scan.at);
    split->rest = slice_of(scan.at, (size_t)(scan.end - scan.at));
    return out->text.len > 0;
}
