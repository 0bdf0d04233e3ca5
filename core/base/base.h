/* What every file of the core may lean on: attributes, outcomes, assertions, container-of.
 * Nothing here allocates, logs or knows of any other header. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Three outcomes, never mixed. AGAIN (would block, try later) is not an error. */
enum status { OK = 0, AGAIN = 1, ERR = -1 };

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))
#define UNUSED __attribute__((unused))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Prints where and why to stderr and aborts: bugs only, never what a peer or operator can cause. */
NORETURN void base_wrong(const char *file, int line, const char *what);

/* Also in release builds. */
#define CHECK(cond) ((cond) ? (void)0 : base_wrong(__FILE__, __LINE__, #cond))
#define WRONG(what) base_wrong(__FILE__, __LINE__, what)

/* First field of every long-lived struct is `unsigned magic`; CAST_OBJ proves a void * is one. */
#define CAST_OBJ(to, from, type_magic)                                                                                 \
    do {                                                                                                               \
        (to) = (from);                                                                                                 \
        CHECK((to) && (to)->magic == (type_magic));                                                                    \
    } while (0)
#define CHECK_OBJ(obj, type_magic) CHECK((obj) && (obj)->magic == (type_magic))

/* Small allocations abort on out-of-memory; what a peer can size uses try_alloc (may return NULL). */
void *xalloc(size_t size);                    /* zeroed; returns owned */
void *xrealloc(void *ptr, size_t size);       /* returns owned */
char *xstrndup(const char *text, size_t len); /* NUL-terminated; returns owned */
void *try_alloc(size_t size) MUST_CHECK;      /* not zeroed; returns owned or NULL */
