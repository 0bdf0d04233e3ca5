/* What a statement text may do, told from its words (T1).
 *
 * One pass over the text: strings, dollar quotes, comments and quoted names are skipped as PostgreSQL's own
 * scanner would, so that a keyword inside a literal counts for nothing. The first word decides; a few later
 * words (a data-modifying CTE, a row lock, a function with side effects) move a read to the write connections.
 * This is the first line of defence, not the only one: read connections are read-only for the server too, and
 * the command tag of every result is checked.
 *
 * A new keyword is one row in `keywords`; a new function one in `functions`. */
#include "data/pg_copy.h"
#include "data/pg_stmt.h"

#define ADVICE_TX "write pg.tx(function(tx) … end): it begins, commits and rolls back"
#define ADVICE_SAVEPOINT "write tx:savepoint(function() … end)"
#define ADVICE_ADVISORY "write tx:advisory(key) inside pg.tx: a session lock would outlive the call"
#define ADVICE_SET "write SET LOCAL inside pg.tx: connections are shared, a session setting would reach other requests"
#define ADVICE_PREPARE "just run the statement: chowk prepares every statement once per connection"
#define ADVICE_LISTEN "LISTEN belongs to a session and connections are shared: write pg.listen(channel, fn)"
#define ADVICE_COPY "COPY needs its own protocol: write pg.copy_in or pg.copy_out"
#define ADVICE_CURSOR "a cursor lives in a transaction: write it inside pg.tx"
#define ADVICE_HOLD "a cursor WITH HOLD would reach other clients: declare it without"
#define ADVICE_TEMP "a temporary table would reach other clients: write CREATE TEMP TABLE … ON COMMIT DROP inside pg.tx"
#define ADVICE_LOCK "a lock lives in a transaction: write tx:lock(table, id) or LOCK inside pg.tx"
#define ADVICE_SET_CONFIG                                                                                              \
    "write set_config(name, value, true) inside pg.tx: a session setting would reach other requests"

struct keyword {
    const char *word;
    enum pg_class class;
    bool is_tainting;
    const char *advice;
};

static const struct keyword keywords[] = {
    {"select", PG_CLASS_READ, false, NULL},
    {"with", PG_CLASS_READ, false, NULL},
    {"insert", PG_CLASS_WRITE, false, NULL},
    {"update", PG_CLASS_WRITE, false, NULL},
    {"delete", PG_CLASS_WRITE, false, NULL},
    {"merge", PG_CLASS_WRITE, false, NULL},
    {"values", PG_CLASS_READ, false, NULL},
    {"table", PG_CLASS_READ, false, NULL},
    {"show", PG_CLASS_READ, false, NULL},
    {"explain", PG_CLASS_READ, false, NULL},
    {"begin", PG_CLASS_REFUSED, false, ADVICE_TX},
    {"start", PG_CLASS_REFUSED, false, ADVICE_TX},
    {"commit", PG_CLASS_REFUSED, false, ADVICE_TX},
    {"end", PG_CLASS_REFUSED, false, ADVICE_TX},
    {"rollback", PG_CLASS_REFUSED, false, ADVICE_TX},
    {"abort", PG_CLASS_REFUSED, false, ADVICE_TX},
    {"savepoint", PG_CLASS_REFUSED, false, ADVICE_SAVEPOINT},
    {"release", PG_CLASS_REFUSED, false, ADVICE_SAVEPOINT},
    {"prepare", PG_CLASS_REFUSED, false, ADVICE_PREPARE},
    {"execute", PG_CLASS_REFUSED, false, ADVICE_PREPARE},
    {"deallocate", PG_CLASS_REFUSED, false, ADVICE_PREPARE},
    {"reset", PG_CLASS_REFUSED, false, ADVICE_SET},
    {"discard", PG_CLASS_REFUSED, false, ADVICE_SET},
    {"load", PG_CLASS_REFUSED, false, ADVICE_SET},
    {"listen", PG_CLASS_REFUSED, false, ADVICE_LISTEN},
    {"unlisten", PG_CLASS_REFUSED, false, ADVICE_LISTEN},
    {"copy", PG_CLASS_REFUSED, false, ADVICE_COPY},
    {"set", PG_CLASS_TX, false, ADVICE_SET},
    {"lock", PG_CLASS_TX, false, ADVICE_LOCK},
    {"declare", PG_CLASS_TX, false, ADVICE_CURSOR},
    {"fetch", PG_CLASS_TX, false, ADVICE_CURSOR},
    {"move", PG_CLASS_TX, false, ADVICE_CURSOR},
    {"close", PG_CLASS_TX, false, ADVICE_CURSOR},
    {"do", PG_CLASS_EXCLUSIVE, true, NULL},
    {"call", PG_CLASS_EXCLUSIVE, true, NULL},
};

enum function_kind { FUNCTION_REFUSED, FUNCTION_SET_CONFIG, FUNCTION_WRITES };

static const struct {
    const char *name;
    enum function_kind kind;
} functions[] = {
    {"pg_advisory_lock", FUNCTION_REFUSED},
    {"pg_advisory_lock_shared", FUNCTION_REFUSED},
    {"pg_try_advisory_lock", FUNCTION_REFUSED},
    {"pg_try_advisory_lock_shared", FUNCTION_REFUSED},
    {"pg_advisory_unlock", FUNCTION_REFUSED},
    {"pg_advisory_unlock_shared", FUNCTION_REFUSED},
    {"pg_advisory_unlock_all", FUNCTION_REFUSED},
    {"set_config", FUNCTION_SET_CONFIG},
    {"nextval", FUNCTION_WRITES},
    {"setval", FUNCTION_WRITES},
    {"pg_notify", FUNCTION_WRITES},
};

enum token { TOKEN_END, TOKEN_WORD, TOKEN_NAME /* "quoted" */, TOKEN_PARAM, TOKEN_LITERAL, TOKEN_PUNCT };

struct scanner {
    const char *pos, *end;
    enum token token;
    struct slice text;
};

static bool is_word_start(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80;
}

static bool is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(unsigned char c)
{
    return is_word_start(c) || is_digit(c) || c == '$';
}

static bool at(const struct scanner *s, const char *pair)
{
    return s->end - s->pos >= 2 && s->pos[0] == pair[0] && s->pos[1] == pair[1];
}

static void skip_block_comment(struct scanner *s) /* they nest */
{
    int depth = 0;
    while (s->pos < s->end) {
        if (at(s, "/*")) {
            depth++;
            s->pos += 2;
        } else if (at(s, "*/")) {
            s->pos += 2;
            if (--depth == 0)
                return;
        } else {
            s->pos++;
        }
    }
}

static void skip_blank(struct scanner *s)
{
    while (s->pos < s->end) {
        unsigned char c = (unsigned char)*s->pos;
        if (c == ' ' || (c >= '\t' && c <= '\r'))
            s->pos++;
        else if (at(s, "--"))
            while (s->pos < s->end && *s->pos != '\n' && *s->pos != '\r')
                s->pos++;
        else if (at(s, "/*"))
            skip_block_comment(s);
        else
            return;
    }
}

/* From the opening quote to behind the closing one; a doubled quote is a character. */
static void skip_quoted(struct scanner *s, char quote, bool has_escapes)
{
    s->pos++;
    while (s->pos < s->end) {
        if (has_escapes && *s->pos == '\\' && s->end - s->pos > 1)
            s->pos += 2;
        else if (*s->pos != quote)
            s->pos++;
        else if (s->end - s->pos > 1 && s->pos[1] == quote)
            s->pos += 2;
        else {
            s->pos++;
            return;
        }
    }
}

/* $tag$ … $tag$; false if this dollar opens no quote. */
static bool skip_dollar_quote(struct scanner *s)
{
    const char *p = s->pos + 1;
    if (p < s->end && is_digit((unsigned char)*p))
        return false;
    while (p < s->end && *p != '$' && is_word((unsigned char)*p))
        p++;
    if (p == s->end || *p != '$')
        return false;
    size_t tag_len = (size_t)(p + 1 - s->pos);
    const char *close = memmem(p + 1, (size_t)(s->end - p - 1), s->pos, tag_len);
    s->pos = close ? close + tag_len : s->end;
    return true;
}

static enum token scan_dollar(struct scanner *s)
{
    if (skip_dollar_quote(s))
        return TOKEN_LITERAL;
    s->pos++;
    if (s->pos == s->end || !is_digit((unsigned char)*s->pos))
        return TOKEN_PUNCT;
    while (s->pos < s->end && is_digit((unsigned char)*s->pos))
        s->pos++;
    return TOKEN_PARAM;
}

/* A string that goes on in the next line (SQL's quote continuation) goes on with its escapes. */
static void skip_escape_string(struct scanner *s)
{
    do {
        skip_quoted(s, '\'', true);
        skip_blank(s);
    } while (s->pos < s->end && *s->pos == '\'');
}

static enum token scan_word(struct scanner *s)
{
    const char *start = s->pos;
    while (s->pos < s->end && is_word((unsigned char)*s->pos))
        s->pos++;
    if (s->pos - start == 1 && s->pos < s->end && *s->pos == '\'' && strchr("eEbBxXnN", *start)) {
        if (*start == 'e' || *start == 'E')
            skip_escape_string(s);
        else
            skip_quoted(s, '\'', false);
        return TOKEN_LITERAL;
    }
    return TOKEN_WORD;
}

static void scan_next(struct scanner *s)
{
    skip_blank(s);
    const char *start = s->pos;
    if (s->pos == s->end) {
        s->token = TOKEN_END;
    } else if (*s->pos == '\'') {
        skip_quoted(s, '\'', false);
        s->token = TOKEN_LITERAL;
    } else if (*s->pos == '"') {
        skip_quoted(s, '"', false);
        s->token = TOKEN_NAME;
    } else if (*s->pos == '$') {
        s->token = scan_dollar(s);
    } else if (is_word_start((unsigned char)*s->pos)) {
        s->token = scan_word(s);
    } else if (is_digit((unsigned char)*s->pos)) {
        while (s->pos < s->end && *s->pos != '$' && (is_word((unsigned char)*s->pos) || *s->pos == '.'))
            s->pos++;
        s->token = TOKEN_LITERAL;
    } else {
        s->pos++;
        s->token = TOKEN_PUNCT;
    }
    s->text = slice_of(start, (size_t)(s->pos - start));
    if (s->token == TOKEN_NAME && s->text.len >= 2)
        s->text = slice_of(start + 1, s->text.len - 2);
}

static bool is_punct(const struct scanner *s, char c)
{
    return s->token == TOKEN_PUNCT && s->text.ptr[0] == c;
}

static bool is_keyword(const struct scanner *s, const char *word)
{
    return s->token == TOKEN_WORD && slice_ieq(s->text, slice_str(word));
}

/* `s` is behind the function's name: true if the call's last argument is the word `true`. */
static bool is_local_set_config(struct scanner s)
{
    int depth = 0;
    bool is_after_comma = false, is_last_true = false;
    for (;; scan_next(&s)) {
        if (s.token == TOKEN_END)
            return false;
        if (is_punct(&s, '('))
            depth++;
        else if (is_punct(&s, ')') && --depth == 0)
            return is_last_true;
        is_last_true = is_after_comma && is_keyword(&s, "true");
        is_after_comma = depth == 1 && is_punct(&s, ',');
    }
}

static void refuse_everywhere(struct pg_text *out, const char *advice)
{
    out->class = PG_CLASS_REFUSED;
    out->advice = out->tx_advice = advice;
}

static void see_function(const struct scanner *name, struct pg_text *out)
{
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        if (!slice_ieq(name->text, slice_str(functions[i].name)))
            continue;
        struct scanner s = *name;
        scan_next(&s);
        if (!is_punct(&s, '('))
            return;
        if (functions[i].kind == FUNCTION_REFUSED) {
            refuse_everywhere(out, ADVICE_ADVISORY);
        } else if (functions[i].kind == FUNCTION_WRITES) {
            if (out->class == PG_CLASS_READ)
                out->class = PG_CLASS_WRITE;
        } else if (!is_local_set_config(s)) {
            refuse_everywhere(out, ADVICE_SET_CONFIG);
        } else if (out->class != PG_CLASS_REFUSED) {
            out->class = PG_CLASS_TX;
            out->advice = ADVICE_SET_CONFIG;
        }
        return;
    }
}

/* A read that locks rows or has a data-modifying part goes to the write connections. */
static void see_word(const struct scanner *s, struct pg_text *out)
{
    static const char *const writers[] = {"insert", "update", "delete", "merge", "share", "into"};
    if (s->token == TOKEN_WORD && out->class == PG_CLASS_READ)
        for (size_t i = 0; i < ARRAY_LEN(writers); i++)
            if (is_keyword(s, writers[i]))
                out->class = PG_CLASS_WRITE;
    see_function(s, out);
}

/* What outlives its statement, or its transaction, in the session: temporary tables, cursors WITH HOLD. */
static void see_session_object(const struct scanner *s, const struct scanner *previous, const struct scanner *first,
                               struct pg_text *out)
{
    bool is_temp = is_keyword(s, "temp") || is_keyword(s, "temporary");
    bool is_create = is_keyword(first, "create");
    if (is_create && is_keyword(s, "drop") && is_keyword(previous, "commit")) { /* ON COMMIT DROP */
        out->is_tainting = false;
        out->session_advice = NULL;
        return;
    }
    bool is_select = is_keyword(first, "select") || is_keyword(first, "with");
    bool is_into = is_temp && is_select && is_keyword(previous, "into") && out->class != PG_CLASS_REFUSED;
    bool is_hold = is_keyword(s, "hold") && is_keyword(previous, "with") && is_keyword(first, "declare");
    if (is_into)
        out->class = PG_CLASS_EXCLUSIVE;
    if (!is_into && !is_hold && !(is_temp && is_create))
        return;
    out->is_tainting = true;
    out->session_advice = is_hold ? ADVICE_HOLD : ADVICE_TEMP;
}

static void see_param(struct slice text, struct pg_text *out)
{
    int64_t n;
    if (slice_to_int(slice_of(text.ptr + 1, text.len - 1), 1, 65535, &n) && n > out->n_params)
        out->n_params = (int)n;
}

/* SET is fine inside a transaction when it ends with it. */
static void see_set(struct scanner s, struct pg_text *out)
{
    scan_next(&s);
    if (!is_keyword(&s, "local") && !is_keyword(&s, "constraints") && !is_keyword(&s, "transaction"))
        refuse_everywhere(out, ADVICE_SET);
}

/* ROLLBACK and friends are refused inside a transaction too: the tx object owns them. */
static void see_first(const struct scanner *s, struct pg_text *out)
{
    out->class = PG_CLASS_EXCLUSIVE;
    for (size_t i = 0; s->token == TOKEN_WORD && i < ARRAY_LEN(keywords); i++) {
        if (!is_keyword(s, keywords[i].word))
            continue;
        out->class = keywords[i].class;
        out->is_tainting = keywords[i].is_tainting;
        out->advice = keywords[i].advice;
        if (out->class == PG_CLASS_REFUSED)
            out->tx_advice = out->advice;
        if (is_keyword(s, "set"))
            see_set(*s, out);
        return;
    }
}

void pg_classify(struct slice sql, struct pg_text *out)
{
    *out = (struct pg_text){.class = PG_CLASS_REFUSED};
    if (memchr(sql.ptr ? sql.ptr : "", 0, sql.len)) {
        refuse_everywhere(out, "the text has a zero byte in it");
        return;
    }
    struct scanner s = {.pos = sql.ptr, .end = sql.ptr + sql.len};
    do
        scan_next(&s);
    while (is_punct(&s, '(') || is_punct(&s, ';'));
    if (s.token == TOKEN_END) {
        refuse_everywhere(out, "the statement is empty");
        return;
    }
    see_first(&s, out);
    struct scanner first = s, previous = s;
    for (bool is_over = false; s.token != TOKEN_END; scan_next(&s)) {
        if (is_punct(&s, ';'))
            is_over = true;
        else if (is_over)
            refuse_everywhere(out, "write one statement per call");
        else if (s.token == TOKEN_PARAM)
            see_param(s.text, out);
        else if (s.token == TOKEN_WORD || s.token == TOKEN_NAME) {
            see_word(&s, out);
            see_session_object(&s, &previous, &first, out);
        }
        previous = s;
    }
}

/* ---- COPY ---------------------------------------------------------------------------------------------------- */

/* `s` is at FROM or TO: whether the next word is `stream`. */
static bool is_stream(struct scanner *s, const char *stream)
{
    scan_next(s);
    return is_keyword(s, stream);
}

/* Behind STDIN or STDOUT: false if another statement follows. */
static bool see_copy_options(struct scanner *s, bool *is_plain)
{
    static const char *const options[] = {"csv", "binary", "delimiter", "delimiters", "null", "header", "encoding"};
    bool is_over = false, is_condition = false;
    for (scan_next(s); s->token != TOKEN_END; scan_next(s)) {
        if (is_over && !is_punct(s, ';'))
            return false;
        is_over |= is_punct(s, ';');
        is_condition |= is_keyword(s, "where");
        for (size_t i = 0; !is_condition && i < ARRAY_LEN(options); i++)
            *is_plain &= !is_keyword(s, options[i]);
    }
    return true;
}

enum pg_copy_kind pg_copy_classify(struct slice sql, bool *is_plain)
{
    struct scanner s = {.pos = sql.ptr, .end = sql.ptr + sql.len};
    int depth = 0;
    *is_plain = true;
    scan_next(&s);
    if (memchr(sql.ptr, 0, sql.len) || !is_keyword(&s, "copy"))
        return PG_COPY_NONE;
    for (; s.token != TOKEN_END && !is_punct(&s, ';'); scan_next(&s)) {
        depth += is_punct(&s, '(') - is_punct(&s, ')');
        bool is_from = is_keyword(&s, "from");
        if (depth > 0 || (!is_from && !is_keyword(&s, "to")))
            continue;
        if (!is_stream(&s, is_from ? "stdin" : "stdout") || !see_copy_options(&s, is_plain))
            return PG_COPY_NONE;
        return is_from ? PG_COPY_IN : PG_COPY_OUT;
    }
    return PG_COPY_NONE;
}
