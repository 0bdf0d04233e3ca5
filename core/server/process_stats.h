/* What the kernel says of a process: /proc, read when asked. Blocks for microseconds. */
#pragma once

#include <sys/types.h>

#include "base/base.h"

struct process_stats {
    uint64_t cpu_us;         /* user and system */
    uint64_t resident_bytes; /* shared memory included */
    uint64_t virtual_bytes;
    uint64_t open_fds;
    uint64_t threads;
    int64_t started_wall_ms;
};
/* False: there is no such process. */
bool process_stats_read(pid_t pid, struct process_stats *out) MUST_CHECK;
/* For how long its first thread could have run but had no core, in µs; 0: the kernel does not say. */
uint64_t process_stats_waited_us(pid_t pid);
/* Memory of this process that no other shares, in bytes; 0: not known. */
uint64_t process_stats_own_bytes(void);
