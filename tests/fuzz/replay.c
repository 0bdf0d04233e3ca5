/* The fuzzer's stand-in for `make test`: feeds each file named as argument, and its beginnings (a parser most often
 * trips over an input that ends too early), to the target. Prints TAP; a target that aborts leaves the name behind. */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

#define PREFIXES 256 /* of one file, evenly spread if it is longer */

/* In memory of exactly this size, so that a sanitizer sees the first byte read beyond. */
static void feed(const char *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    CHECK(copy);
    if (len > 0)
        memcpy(copy, bytes, len);
    CHECK(LLVMFuzzerTestOneInput(copy, len) == 0);
    free(copy);
}

static bool read_file(const char *path, struct buf *out)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    size_t n;
    while ((n = fread(buf_reserve(out, 4096), 1, 4096, file)) > 0)
        out->len += n;
    return fclose(file) == 0;
}

int main(int argc, char **argv)
{
    int n_failed = argc > 1 ? 0 : 1;
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("1..%d\n", argc - 1);
    for (int i = 1; i < argc; i++) {
        struct buf bytes = {0};
        printf("# %s\n", argv[i]);
        if (!read_file(argv[i], &bytes)) {
            printf("not ok %d - cannot read %s\n", i, argv[i]);
            n_failed++;
            continue;
        }
        for (size_t len = 0; len < bytes.len; len += 1 + bytes.len / PREFIXES)
            feed(bytes.ptr, len);
        feed(bytes.ptr, bytes.len);
        printf("ok %d - %s\n", i, argv[i]);
        buf_free(&bytes);
    }
    return n_failed ? 1 : 0;
}
