/* data/pg_stmt.h against services/sql_split.h, which scan the same language for different ends: a text that may run is
 * one statement for the splitter too. And what a text may do is not changed by blanks and comments around it, nor by
 * the case of its letters; whoever is refused is told what to write instead. */
#include "fuzz.h"

#include <ctype.h>

#include "data/pg_stmt.h"
#include "services/sql_split.h"

static bool is_same(const struct pg_text *a, const struct pg_text *b)
{
    return a->class == b->class && a->n_params == b->n_params && a->is_tainting == b->is_tainting &&
           a->advice == b->advice && a->tx_advice == b->tx_advice;
}

static void check_variant(const struct pg_text *first, struct buf *sql)
{
    struct pg_text text;
    pg_classify(buf_as_slice(sql), &text);
    CHECK(is_same(first, &text));
    buf_clear(sql);
}

static void check_variants(struct slice sql, const struct pg_text *first)
{
    struct buf other = {0};
    buf_lit(&other, " \n-- rollback;\n/* /* commit; */ ' */");
    buf_slice(&other, sql);
    check_variant(first, &other);
    buf_slice(&other, sql);
    buf_lit(&other, "\n");
    check_variant(first, &other);
    for (size_t i = 0; i < sql.len; i++) {
        unsigned char c = (unsigned char)sql.ptr[i];
        buf_byte(&other, (char)(c >= 0x80 ? c : isupper(c) ? tolower(c) : toupper(c)));
    }
    check_variant(first, &other);
    buf_free(&other);
}

static void check_is_one(struct slice sql)
{
    struct sql_split split = {.rest = sql};
    struct sql_statement statement;
    CHECK(sql_split_next(&split, &statement));
    CHECK(!sql_split_next(&split, &statement));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice sql = fuzz_input(data, size);
    struct pg_text text;
    pg_classify(sql, &text);
    CHECK(text.n_params >= 0 && text.n_params <= 65535);
    CHECK(text.advice || (text.class != PG_CLASS_REFUSED && text.class != PG_CLASS_TX));
    CHECK(text.class != PG_CLASS_REFUSED || text.tx_advice);
    CHECK(!memchr(sql.ptr, 0, sql.len) || text.class == PG_CLASS_REFUSED);
    check_variants(sql, &text);
    /* A byte order mark is blank to the splitter, as to psql; to the server it is a name. */
    if (!text.tx_advice && !memmem(sql.ptr, sql.len, "\xef\xbb\xbf", 3))
        check_is_one(sql);
    return 0;
}
