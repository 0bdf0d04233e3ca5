/* script/bundle.h on memory files that no builder made: what opens hands out nothing but its own bytes, and damage is
 * seen. An input is tried twice: as the file itself, and as a description that gets a valid head and checksum, so that
 * what lies behind them is reached: a line of six numbers (offset and length of name, chunk name and code) for each
 * entry, an empty line, the bytes. No bytecode is run. */
#include "fuzz.h"

#include <stdio.h>
#include <unistd.h>

#include "script/bundle.h"
#include "script/bundle_priv.h"

#define MAX_ENTRIES 8

static struct bundle *open_bytes(struct slice bytes, struct err *err)
{
    int fd = shm_seal("fuzz", bytes, err);
    CHECK(fd >= 0);
    struct bundle *bundle = bundle_open(fd, err);
    close(fd);
    CHECK(bundle || err->code == ERR_INVALID);
    return bundle;
}

static bool has_bytes(struct slice whole, struct slice part)
{
    return part.len == 0 || memmem(whole.ptr, whole.len, part.ptr, part.len) != NULL;
}

static void check_find(const struct bundle *bundle, struct slice file, struct slice module)
{
    struct slice chunk, code = bundle_find(bundle, module, &chunk);
    CHECK(code.len <= file.len && chunk.len <= file.len);
    CHECK(has_bytes(file, code) && has_bytes(file, chunk));
}

/* A number, or nothing, off the front of a line. */
static uint64_t take_number(struct slice *line)
{
    uint64_t n = 0;
    size_t i = 0;
    for (; i < line->len && line->ptr[i] >= '0' && line->ptr[i] <= '9'; i++)
        n = n * 10 + (uint64_t)(line->ptr[i] - '0'); /* wraps, and may */
    i += i < line->len;
    *line = slice_of(line->ptr + i, line->len - i);
    return n;
}

static size_t read_entries(struct slice *text, struct bundle_entry *entries)
{
    size_t n = 0;
    for (struct slice line; n < MAX_ENTRIES && (line = fuzz_take_line(text)).len > 0; n++) {
        struct bundle_range *ranges[] = {&entries[n].module, &entries[n].chunk, &entries[n].code};
        for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
            ranges[i]->offset = take_number(&line);
            ranges[i]->len = take_number(&line);
        }
    }
    return n;
}

static void write_bundle(struct slice text, struct buf *out)
{
    struct bundle_entry entries[MAX_ENTRIES] = {0};
    struct bundle_head head = {.version = BUNDLE_VERSION, .n_entries = (uint32_t)read_entries(&text, entries)};
    struct buf payload = {0};
    memcpy(head.magic, BUNDLE_MAGIC, sizeof head.magic);
    buf_append(&payload, entries, head.n_entries * sizeof entries[0]);
    buf_slice(&payload, text);
    crypto_sha256(payload.len ? buf_as_slice(&payload) : SLICE(""), head.payload_sum);
    buf_append(out, &head, sizeof head);
    buf_slice(out, buf_as_slice(&payload));
    buf_free(&payload);
}

static void check_described(struct slice text)
{
    struct buf file = {0};
    struct err err = {0};
    write_bundle(text, &file);
    struct bundle *bundle = open_bytes(buf_as_slice(&file), &err);
    if (bundle) {
        CHECK(strlen(bundle_hash(bundle)) == BUNDLE_HASH_TEXT);
        check_find(bundle, buf_as_slice(&file), SLICE(""));
        check_find(bundle, buf_as_slice(&file), SLICE("app"));
        check_find(bundle, buf_as_slice(&file), SLICE("store.routes.orders"));
        bundle_free(bundle);
    }
    if (file.len > sizeof(struct bundle_head)) { /* one bit of the payload changed: not the file that was summed */
        file.ptr[sizeof(struct bundle_head) + text.len % (file.len - sizeof(struct bundle_head))] ^= 0x10;
        CHECK(!open_bytes(buf_as_slice(&file), &err));
    }
    buf_free(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    struct err err = {0};
    if (text.len > 0) {
        struct bundle *bundle = open_bytes(text, &err);
        if (bundle)
            check_find(bundle, text, SLICE("app"));
        bundle_free(bundle);
    }
    check_described(text);
    return 0;
}
