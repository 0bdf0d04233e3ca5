/* Chunks are 4 KiB, linked newest first; what is too large for one gets a chunk of its own, placed behind
 * the newest so that the rest of that one is still used. Ordinary chunks return to a short free list per
 * thread, because a request takes one or two and ends within microseconds; one arena still belongs to one
 * thread at a time.
 *
 * Under AddressSanitizer there is no free list and each allocation has its own exact chunk, so that an
 * overrun or a use after arena_destroy is seen at once. */
#include "base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define ARENA_ALIGN 16
#define ARENA_CHUNK_SIZE 4096
#define ARENA_LARGE 1024   /* what does not fit and is larger has its own chunk */
#define ARENA_MAX_FREE 256 /* 1 MiB per thread */

#ifdef __SANITIZE_ADDRESS__
static const bool is_pooled = false;
#else
static const bool is_pooled = true;
#endif

struct arena_chunk {
    alignas(ARENA_ALIGN) struct arena_chunk *next;
    size_t size; /* bytes after this header */
};

struct arena_defer {
    struct arena_defer *next;
    void (*fn)(void *data);
    void *data;
};

#define CHUNK_ROOM (ARENA_CHUNK_SIZE - sizeof(struct arena_chunk))

static _Thread_local struct arena_chunk *free_chunks;
static _Thread_local size_t n_free_chunks;
static _Atomic size_t n_live;

static struct arena_chunk *chunk_new(size_t size)
{
    struct arena_chunk *chunk = free_chunks;
    if (size == CHUNK_ROOM && chunk) {
        free_chunks = chunk->next;
        n_free_chunks--;
        return chunk;
    }
    chunk = xrealloc(NULL, sizeof *chunk + size);
    chunk->size = size;
    return chunk;
}

static void chunk_free(struct arena_chunk *chunk)
{
    if (!is_pooled || chunk->size != CHUNK_ROOM || n_free_chunks >= ARENA_MAX_FREE) {
        free(chunk);
        return;
    }
    chunk->next = free_chunks;
    free_chunks = chunk;
    n_free_chunks++;
}

void arena_create(struct arena *arena)
{
    *arena = (struct arena){0};
}

void arena_destroy(struct arena *arena)
{
    while (arena->defers) {
        struct arena_defer *defer = arena->defers;
        arena->defers = defer->next;
        defer->fn(defer->data);
    }
    if (arena->chunk)
        atomic_fetch_sub_explicit(&n_live, 1, memory_order_relaxed);
    for (struct arena_chunk *chunk = arena->chunk, *next; chunk; chunk = next) {
        next = chunk->next;
        chunk_free(chunk);
    }
    *arena = (struct arena){0};
}

static void chunk_link(struct arena *arena, struct arena_chunk *chunk)
{
    if (!arena->chunk)
        atomic_fetch_add_explicit(&n_live, 1, memory_order_relaxed);
    chunk->next = arena->chunk;
    arena->chunk = chunk;
}

static void *alloc_large(struct arena *arena, size_t size)
{
    struct arena_chunk *newest = arena->chunk, *chunk = chunk_new(size);
    if (newest) {
        chunk->next = newest->next;
        newest->next = chunk;
    } else {
        chunk_link(arena, chunk);
    }
    return chunk + 1;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    CHECK(size <= SIZE_MAX / 2);
    arena->used += size;
    if (!is_pooled)
        return alloc_large(arena, size);
    size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (size > (size_t)(arena->end - arena->pos)) {
        if (size > ARENA_LARGE)
            return alloc_large(arena, size);
        chunk_link(arena, chunk_new(CHUNK_ROOM));
        arena->pos = (char *)(arena->chunk + 1);
        arena->end = arena->pos + CHUNK_ROOM;
    }
    void *ptr = arena->pos;
    arena->pos += size;
    return ptr;
}

void *arena_zalloc(struct arena *arena, size_t size)
{
    return memset(arena_alloc(arena, size), 0, size);
}

struct slice arena_copy(struct arena *arena, struct slice s)
{
    char *copy = arena_alloc(arena, s.len + 1);
    if (s.len > 0)
        memcpy(copy, s.ptr, s.len);
    copy[s.len] = '\0';
    return slice_of(copy, s.len);
}

char *arena_printf(struct arena *arena, const char *fmt, ...)
{
    char small[256];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    CHECK(len >= 0);
    char *text = arena_alloc(arena, (size_t)len + 1);
    if ((size_t)len < sizeof small)
        return memcpy(text, small, (size_t)len + 1);
    va_start(args, fmt);
    vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return text;
}

void arena_defer(struct arena *arena, void (*fn)(void *data), void *data)
{
    struct arena_defer *defer = arena_alloc(arena, sizeof *defer);
    *defer = (struct arena_defer){.next = arena->defers, .fn = fn, .data = data};
    arena->defers = defer;
}

size_t arena_live(void)
{
    return atomic_load_explicit(&n_live, memory_order_relaxed);
}
