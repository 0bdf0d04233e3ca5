/* server/config_units.h and server/config_lines.h. An input is a key and, from the second line on, a configuration
 * file: the key's place is a line of the file. The whole text as a duration or a size: what is accepted is written
 * back as something that means the same, and nothing overflows. */
#include "fuzz.h"

#include "server/config_lines.h"
#include "server/config_units.h"

static void check_unit(struct slice text, bool (*parse)(struct slice, int64_t *), void (*format)(int64_t, struct buf *))
{
    struct buf out = {0}, out_again = {0};
    int64_t value = -7, again;
    if (!parse(text, &value)) {
        CHECK(value == -7);
        return;
    }
    CHECK(value >= 0);
    format(value, &out);
    CHECK(parse(buf_as_slice(&out), &again) && again == value);
    format(again, &out_again);
    CHECK(fuzz_same(&out, &out_again));
    buf_free(&out);
    buf_free(&out_again);
}

static void check_lines(struct slice text)
{
    struct slice source = text;
    struct slice key = fuzz_take_line(&source);
    char name[64];
    if (key.len >= sizeof name || memchr(key.ptr, 0, key.len))
        return;
    memcpy(name, key.ptr, key.len);
    name[key.len] = 0;
    int n_lines = 1;
    for (size_t i = 0; i < source.len; i++)
        n_lines += source.ptr[i] == '\n';
    int line = config_lines_find(source, name);
    CHECK(line >= 0 && line <= n_lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    check_unit(text, duration_parse, duration_format);
    check_unit(text, size_parse, size_format);
    check_lines(text);
    return 0;
}
