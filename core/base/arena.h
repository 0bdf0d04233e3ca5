/* Bump allocator that lives as long as one request (or one load): nothing in it is freed singly.
 * Things with destructors attach one with arena_defer; they run newest first at reset/destroy.
 * Chunks come from a small per-process free list (off under sanitizers). Not thread-safe. */
#pragma once

#include "base/slice.h"

struct arena_chunk;
struct arena_defer;

struct arena {
    struct arena_chunk *chunk; /* newest */
    char *pos, *end;
    struct arena_defer *defers;
    size_t used; /* bytes handed out, for limits and tests */
};

void arena_create(struct arena *arena);  /* allocates nothing yet */
void arena_destroy(struct arena *arena); /* runs defers, gives the chunks back; reusable after */

void *arena_alloc(struct arena *arena, size_t size);          /* 16-byte aligned, not zeroed; aborts on OOM */
void *arena_zalloc(struct arena *arena, size_t size);         /* zeroed */
struct slice arena_copy(struct arena *arena, struct slice s); /* copy is also NUL-terminated */
char *arena_printf(struct arena *arena, const char *fmt, ...) PRINTF_LIKE(2, 3);
void arena_defer(struct arena *arena, void (*fn)(void *data), void *data);

size_t arena_live(void); /* arenas holding chunks now, process-wide: the leak check of the harness */
