/* services/sql_split.h: statements come in order and whole; what lies between them is semicolons, blanks and comments;
 * their lines are right; and a statement split again is itself. */
#include "fuzz.h"

#include <ctype.h>

#include "services/sql_split.h"

static int count_lines(const char *from, const char *to)
{
    int n = 0;
    for (; from < to; from++)
        n += *from == '\n';
    return n;
}

static void check_alone(const struct sql_statement *statement)
{
    struct sql_split split = {.rest = statement->text};
    struct sql_statement again;
    CHECK(sql_split_next(&split, &again) && slice_eq(again.text, statement->text));
    CHECK(slice_eq(again.keyword, statement->keyword) && again.line == 1);
    CHECK(!sql_split_next(&split, &again));
}

/* No letter outside of a comment was left out. */
static void check_gap(const char *from, const char *to)
{
    struct slice gap = slice_of(from, (size_t)(to - from));
    if (gap.len == 0 || memmem(gap.ptr, gap.len, "--", 2) || memmem(gap.ptr, gap.len, "/*", 2))
        return;
    for (; from < to; from++)
        CHECK(isspace((unsigned char)*from) || *from == ';' || (unsigned char)*from >= 0x80);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice sql = fuzz_input(data, size);
    struct sql_split split = {.rest = sql};
    struct sql_statement statement;
    const char *end = sql.ptr;
    while (sql_split_next(&split, &statement)) {
        CHECK(statement.text.len > 0 && fuzz_is_within(statement.text, sql) && statement.text.ptr >= end);
        CHECK(!isspace((unsigned char)statement.text.ptr[0]) && statement.text.ptr[0] != ';');
        CHECK(statement.keyword.ptr == statement.text.ptr && statement.keyword.len <= statement.text.len);
        CHECK(statement.line == 1 + count_lines(sql.ptr, statement.text.ptr));
        check_gap(end, statement.text.ptr);
        end = statement.text.ptr + statement.text.len;
        CHECK(end == sql.ptr + sql.len || *end == ';');
        if (!slice_has_prefix(statement.text, SLICE("\xef\xbb\xbf"))) /* blank only at the beginning of a file */
            check_alone(&statement);
    }
    check_gap(end, sql.ptr + sql.len);
    return 0;
}
