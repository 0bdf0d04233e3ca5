/* Reading a bundle: checks layout and both hashes once, then finds modules by binary search.
 * Writing one is bundle_build.c. Owns the mapping of the sealed segment; never parses bytecode. */
#include "script/bundle.h"

#include <stdlib.h>

#include "base/crypto.h"
#include "script/bundle_priv.h"

struct bundle {
    struct shm_map map;
    const struct bundle_entry *entries;
    uint32_t n_entries;
    char hash[BUNDLE_HASH_TEXT + 1];
};

static struct slice at(const struct bundle *bundle, struct bundle_range range)
{
    return slice_of(bundle->map.bytes.ptr + range.offset, range.len);
}

static bool is_inside(size_t size, struct bundle_range range)
{
    return range.offset <= size && range.len <= size - range.offset;
}

static enum status check_layout(struct bundle *bundle, struct err *err)
{
    struct slice bytes = bundle->map.bytes;
    if (bytes.len < sizeof(struct bundle_head))
        return err_set(err, ERR_INVALID, "code bundle: too short");
    const struct bundle_head *head = (const void *)bytes.ptr;
    if (memcmp(head->magic, BUNDLE_MAGIC, sizeof head->magic) != 0 || head->version != BUNDLE_VERSION)
        return err_set(err, ERR_INVALID, "code bundle: unknown layout");
    size_t room = (bytes.len - sizeof *head) / sizeof(struct bundle_entry);
    if (head->n_entries > room)
        return err_set(err, ERR_INVALID, "code bundle: truncated");
    unsigned char sum[CRYPTO_SHA256_LEN];
    crypto_sha256(slice_of(bytes.ptr + sizeof *head, bytes.len - sizeof *head), sum);
    if (memcmp(sum, head->payload_sum, sizeof sum) != 0)
        return err_set(err, ERR_INVALID, "code bundle: damaged");
    bundle->entries = (const void *)(bytes.ptr + sizeof *head);
    bundle->n_entries = head->n_entries;
    for (uint32_t i = 0; i < head->n_entries; i++) {
        const struct bundle_entry *e = &bundle->entries[i];
        if (!is_inside(bytes.len, e->module) || !is_inside(bytes.len, e->chunk) || !is_inside(bytes.len, e->code))
            return err_set(err, ERR_INVALID, "code bundle: entry %u points outside", i);
    }
    crypto_hex(slice_of((const char *)head->source_hash, BUNDLE_HASH_TEXT / 2), bundle->hash);
    return OK;
}

struct bundle *bundle_open(int memfd, struct err *err)
{
    struct bundle *bundle = xalloc(sizeof *bundle);
    if (shm_open_sealed(memfd, &bundle->map, err) != OK) {
        free(bundle);
        return NULL;
    }
    if (check_layout(bundle, err) != OK) {
        bundle_free(bundle);
        return NULL;
    }
    return bundle;
}

void bundle_free(struct bundle *bundle)
{
    if (!bundle)
        return;
    shm_close(&bundle->map);
    free(bundle);
}

struct slice bundle_find(const struct bundle *bundle, struct slice module, struct slice *chunk)
{
    uint32_t low = 0, high = bundle->n_entries;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = bundle_name_order(at(bundle, bundle->entries[mid].module), module);
        if (order == 0) {
            *chunk = at(bundle, bundle->entries[mid].chunk);
            return at(bundle, bundle->entries[mid].code);
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *chunk = (struct slice){0};
    return (struct slice){0};
}

const char *bundle_hash(const struct bundle *bundle)
{
    return bundle->hash;
}
