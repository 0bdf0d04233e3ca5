/* Between embedded.c (the life of a server), embedded_home.c (where it lives), embedded_proc.c (its process), and the
 * two kinds, embedded_pg.c and embedded_redis.c. Nobody else includes it. */
#pragma once

#include <limits.h>
#include <sys/types.h>

#include "base/err.h"
#include "server/embedded.h"

#define EMBEDDED_MAX_GROUPS 32
#define EMBEDDED_MAX_ARGS 64

/* Where a server lives and who it runs as. Paths end with a NUL and fit, or embedded_home_open fails. */
struct embedded_home {
    char var_dir[PATH_MAX / 2]; /* real path */
    char lock_path[PATH_MAX];
    char log_path[PATH_MAX];
    char data_link[PATH_MAX]; /* var/pg */
    char socket_dir[64];      /* /tmp/chowk-<hash>/pg */
    char hash[13];            /* of var_dir */
    bool drops;               /* we are root: it runs as uid, gid, groups */
    uid_t uid;
    gid_t gid, groups[EMBEDDED_MAX_GROUPS];
    int n_groups;
};

struct embedded_args {
    const char *argv[EMBEDDED_MAX_ARGS]; /* ends with NULL; [0] is the path of the binary */
    size_t n;
    char text[4096]; /* of arguments that had to be built */
    size_t used;
};

/* What differs between PostgreSQL and Redis. */
struct embedded_kind {
    const char *name;  /* "pg": names of files */
    const char *title; /* "PostgreSQL": for people */
    const char *user;  /* when started by root; else nobody */
    int stop_signal, kill_signal;
    /* Data and arguments. Called by the owner only, before each start. */
    enum status (*prepare)(const struct embedded_home *home, const struct embedded_opts *opts,
                           struct embedded_args *args, struct err *err);
    void (*url)(const struct embedded_home *home, char *out, size_t cap);
    /* True: it takes connections. `finish` is true for the owner, who also creates what is missing. */
    bool (*is_ready)(const struct embedded_home *home, bool finish);
};
extern const struct embedded_kind embedded_pg, embedded_redis;

/* embedded_home.c */
enum status embedded_home_open(struct embedded_home *home, const struct embedded_kind *kind, const char *var_dir,
                               struct err *err) MUST_CHECK;
enum status embedded_home_make_socket_dir(const struct embedded_home *home, struct err *err) MUST_CHECK;
void embedded_home_remove_socket_dir(const struct embedded_home *home);
/* A directory that belongs to the server's user, 0700; an existing one must be his or ours, and no link. */
enum status embedded_home_own_dir(const struct embedded_home *home, const char *path, struct err *err) MUST_CHECK;
/* Where var/<name> really is, as `path`: created if missing is not its job, but the parent and the link are. */
enum status embedded_home_locate(const struct embedded_home *home, char path[PATH_MAX], struct err *err) MUST_CHECK;
void embedded_remove_tree(const char *path);

/* embedded_proc.c */
void embedded_args_add(struct embedded_args *args, const char *text /* borrowed */);
void embedded_args_addf(struct embedded_args *args, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Starts argv as the home's user, output appended to its log, dying by `death_signal` with this thread. -1: err. */
pid_t embedded_spawn(const struct embedded_home *home, const struct embedded_args *args, int death_signal,
                     struct err *err);
#define EMBEDDED_EXIT_UNKNOWN (-1)                               /* killed, or reaped by somebody else */
bool embedded_has_exited(pid_t pid, int *exit_code);             /* reaps a child; exit_code may be NULL */
bool embedded_wait(pid_t pid, uint32_t wait_ms, int *exit_code); /* child or not; false: still there */
bool embedded_is_running(pid_t pid, const char *mark);           /* alive, and its command line contains mark */
void embedded_pause(uint32_t ms);
#define EMBEDDED_LOOK_MS 20 /* between two looks */
/* The last line of the log written since `offset`, preferring one that says FATAL. */
void embedded_log_tail(const struct embedded_home *home, long offset, char *out, size_t cap);
long embedded_log_size(const struct embedded_home *home);
