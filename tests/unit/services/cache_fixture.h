/* A cache segment, as two processes of one machine see it. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "services/cache_l1.h"

enum { SIZE = 2 << 20, MAX_VALUE = 64 << 10, HOUR_MS = 3600000 };

struct machine {
    int fd;
    struct cache_shm one, two;
};

static inline int machine_set_up(void **state)
{
    static struct machine m;
    struct err err = {0};
    m = (struct machine){.fd = cache_shm_create(SIZE, MAX_VALUE, &err)};
    *state = &m;
    return m.fd < 0 || cache_shm_open(&m.one, m.fd, SIZE, MAX_VALUE, &err) != OK ||
           cache_shm_open(&m.two, m.fd, SIZE, MAX_VALUE, &err) != OK;
}

static inline int machine_tear_down(void **state)
{
    struct machine *m = *state;
    cache_shm_close(&m->one);
    cache_shm_close(&m->two);
    close(m->fd);
    return 0;
}

static inline uint64_t count_of(const struct cache_shm *shm, enum cache_counter counter)
{
    uint64_t counters[CACHE_N_COUNTERS];
    cache_shm_sum(shm, counters);
    return counters[counter];
}

/* Stores text with the stamps of now. */
static inline bool put_text(const struct cache_shm *shm, const char *key, struct slice value, uint64_t life_ms)
{
    struct cache_name name = cache_name(shm, slice_str(key));
    struct cache_stamp stamps[] = {cache_stamp_all(shm), cache_stamp_key(shm, &name)};
    struct cache_l1_item item = {.name = name,
                                 .kind = CACHE_RAW,
                                 .value = value,
                                 .fresh_until_ms = clock_ms() + life_ms,
                                 .dead_at_ms = clock_ms() + 2 * life_ms,
                                 .stamps = stamps,
                                 .n_stamps = ARRAY_LEN(stamps)};
    return cache_l1_put(shm, &item);
}

static inline bool get_text(const struct cache_shm *shm, const char *key, uint64_t at_ms, struct buf *out,
                            bool *is_stale)
{
    struct cache_name name = cache_name(shm, slice_str(key));
    struct cache_l1_found found = {.is_stale = false};
    buf_clear(out);
    bool is_there = cache_l1_get(shm, &name, at_ms, out, &found);
    *is_stale = found.is_stale;
    return is_there;
}

static inline bool has(const struct cache_shm *shm, const char *key)
{
    struct buf out = {0};
    bool is_stale, is_there = get_text(shm, key, clock_ms(), &out, &is_stale);
    buf_free(&out);
    return is_there;
}

/* A process that has the lock of that key, and dies or stops with it. Returns its pid; a dead one is reaped. */
static inline pid_t start_holder(const struct cache_shm *shm, const char *key, bool dies)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct cache_name name = cache_name(shm, slice_str(key));
        cache_l1_hold_for_test(shm, &name);
        kill(getpid(), dies ? SIGKILL : SIGSTOP);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, dies ? 0 : WUNTRACED), pid);
    return pid;
}
