/* Layout of the code bundle, for bundle.c (reads) and bundle_build.c (writes):
 * head, n_entries entries in byte order of their module names, then the bytes they point to. Native byte order: a
 * bundle never leaves its machine. */
#pragma once

#include "base/crypto.h"
#include "base/slice.h"

#define BUNDLE_MAGIC "CHOWKLUA"
#define BUNDLE_VERSION 1u
#define BUNDLE_HASH_TEXT 12 /* hex digits shown to people */

struct bundle_range {
    uint64_t offset, len; /* from the start of the bundle */
};
struct bundle_entry {
    struct bundle_range module, chunk, code;
};
struct bundle_head {
    char magic[8];
    uint32_t version, n_entries;
    /* Of the sources, so that equal code has equal names: LuaJIT orders constants in bytecode by a random seed. */
    unsigned char source_hash[CRYPTO_SHA256_LEN];
    unsigned char payload_sum[CRYPTO_SHA256_LEN]; /* of all that follows the head */
};

static inline int bundle_name_order(struct slice a, struct slice b)
{
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}
