/* The private PostgreSQL: which installed version, initdb on first use, its settings. initdb works on <data>.new, which
 * is renamed when it is whole, so a start that was killed half-way is simply done again. */
#include "server/embedded_priv.h"

#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "data/pg_admin.h"

#define PG_ROOT "/usr/lib/postgresql/"
#define INITDB_MS 60000

/* The major version of the data, or 0: there is none yet. */
static int data_version(const char *data)
{
    char path[PATH_MAX + 16], line[16] = "";
    snprintf(path, sizeof path, "%s/PG_VERSION", data);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    bool got = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    return got ? atoi(line) : 0;
}

/* The newest installed version, or exactly `wanted`. */
static int installed_version(int wanted)
{
    glob_t found = {0};
    int best = 0;
    if (glob(PG_ROOT "*/bin/postgres", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++) {
            int version = atoi(found.gl_pathv[i] + strlen(PG_ROOT));
            if (version > best && (wanted == 0 || version == wanted))
                best = version;
        }
    globfree(&found);
    return best;
}

static enum status choose_version(const char *data, int *version, struct err *err)
{
    int wanted = data_version(data);
    *version = installed_version(wanted);
    if (*version != 0)
        return OK;
    if (wanted == 0)
        return err_set(err, ERR_UNAVAILABLE,
                       "PostgreSQL is not installed: apt install postgresql, or set DATABASE_URL");
    return err_set(err, ERR_UNAVAILABLE,
                   "%s holds data of PostgreSQL %d: apt install postgresql-%d, or drop it with `make clean-data`", data,
                   wanted, wanted);
}

static enum status run_initdb(const struct embedded_home *home, int version, const char *dir, struct err *err)
{
    struct embedded_args args = {0};
    embedded_args_addf(&args, PG_ROOT "%d/bin/initdb", version);
    embedded_args_addf(&args, "--pgdata=%s", dir);
    embedded_args_add(&args, "--username=chowk");
    embedded_args_add(&args, "--encoding=UTF8");
    embedded_args_add(&args, "--locale=C.UTF-8");
    embedded_args_add(&args, "--auth-local=trust"); /* the socket's directory is the lock */
    embedded_args_add(&args, "--auth-host=reject");
    long log_offset = embedded_log_size(home);
    pid_t pid = embedded_spawn(home, &args, SIGKILL, err);
    if (pid < 0)
        return ERR;
    int exit_code = EMBEDDED_EXIT_UNKNOWN;
    if (!embedded_wait(pid, INITDB_MS, &exit_code)) {
        (void)kill(-pid, SIGKILL);
        (void)embedded_wait(pid, 1000, NULL);
    }
    if (exit_code == 0)
        return OK;
    char tail[256];
    embedded_log_tail(home, log_offset, tail, sizeof tail);
    return err_set(err, ERR_UNAVAILABLE, "initdb failed: %s (%s)", tail, home->log_path);
}

static enum status make_data(const struct embedded_home *home, int version, const char *data, struct err *err)
{
    char fresh[PATH_MAX + 8];
    snprintf(fresh, sizeof fresh, "%s.new", data);
    embedded_remove_tree(fresh);
    if (embedded_home_own_dir(home, fresh, err) != OK)
        return ERR;
    log_info("creating the private PostgreSQL", LOG_S("data", data));
    if (run_initdb(home, version, fresh, err) != OK)
        return ERR;
    if (rename(fresh, data) != 0)
        return err_errno(err, errno, "%s", data);
    return OK;
}

/* PostgreSQL clears a stale postmaster.pid itself, unless its pid now belongs to some other process of the same user,
 * as pids after a reboot of a container do. One whose directory is not our data is no postmaster of ours. */
static enum status clear_stale_pid(const char *data, struct err *err)
{
    char path[PATH_MAX + 16], proc[48], cwd[PATH_MAX], real[PATH_MAX];
    int pid = 0;
    snprintf(path, sizeof path, "%s/postmaster.pid", data);
    FILE *file = fopen(path, "re");
    if (!file)
        return OK;
    bool got = fscanf(file, "%d", &pid) == 1;
    fclose(file);
    if (!got || pid <= 1 || kill(pid, 0) != 0)
        return OK;
    snprintf(proc, sizeof proc, "/proc/%d/cwd", pid);
    ssize_t len = readlink(proc, cwd, sizeof cwd - 1);
    cwd[len > 0 ? len : 0] = '\0';
    if (realpath(data, real) && strcmp(cwd, real) == 0)
        return err_set(err, ERR_UNAVAILABLE, "%s is in use by another PostgreSQL, process %d", data, pid);
    return unlink(path) == 0 ? OK : err_errno(err, errno, "%s", path);
}

static enum status prepare(const struct embedded_home *home, const struct embedded_opts *opts,
                           struct embedded_args *args, struct err *err)
{
    char data[PATH_MAX];
    int version;
    if (embedded_home_locate(home, data, err) != OK || choose_version(data, &version, err) != OK)
        return ERR;
    if (data_version(data) == 0 && make_data(home, version, data, err) != OK)
        return ERR;
    if (clear_stale_pid(data, err) != OK)
        return ERR;
    embedded_args_addf(args, PG_ROOT "%d/bin/postgres", version);
    embedded_args_add(args, "-D");
    embedded_args_addf(args, "%s", data);
    static const char *const settings[] = {"listen_addresses=", "port=5432",        "max_connections=200",
                                           "timezone=UTC",      "log_timezone=UTC", "logging_collector=off",
                                           "cluster_name=chowk"};
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        embedded_args_add(args, "-c");
        embedded_args_add(args, settings[i]);
    }
    embedded_args_add(args, "-c");
    embedded_args_addf(args, "unix_socket_directories=%s", home->socket_dir);
    for (size_t i = 0; opts->settings && opts->settings[i]; i++) {
        embedded_args_add(args, "-c");
        embedded_args_add(args, opts->settings[i]);
    }
    return OK;
}

/* The port is part of the socket's name; without it a PGPORT of the caller's would count. */
static void url(const struct embedded_home *home, char *out, size_t cap)
{
    snprintf(out, cap, "postgresql:///chowk?host=%s&port=5432&user=chowk", home->socket_dir);
}

static struct pg_admin *try_connect(const struct embedded_home *home, const char *database)
{
    char text[256];
    struct err err;
    snprintf(text, sizeof text, "postgresql:///%s?host=%s&port=5432&user=chowk&connect_timeout=5", database,
             home->socket_dir);
    return pg_admin_open(text, &err);
}

static void create_database(struct pg_admin *admin)
{
    int position;
    struct err err;
    /* That it exists already is what usually happens. */
    if (pg_admin_exec(admin, "CREATE DATABASE chowk", &position, &err) != OK && strcmp(err.sqlstate, "42P04") != 0)
        log_warn("the database chowk was not created", LOG_S("error", err.message));
}

static bool is_ready(const struct embedded_home *home, bool finish)
{
    char path[sizeof home->socket_dir + 24];
    snprintf(path, sizeof path, "%s/.s.PGSQL.5432", home->socket_dir);
    if (access(path, F_OK) != 0)
        return false;
    struct pg_admin *admin = try_connect(home, "chowk");
    bool is_there = admin != NULL;
    if (!admin && finish && (admin = try_connect(home, "postgres")) != NULL)
        create_database(admin); /* the next look finds it */
    pg_admin_close(admin);
    return is_there;
}

const struct embedded_kind embedded_pg = {.name = "pg",
                                          .title = "PostgreSQL",
                                          .user = "postgres",
                                          .stop_signal = SIGINT, /* fast: roll back, flush, leave */
                                          .kill_signal = SIGQUIT,
                                          .prepare = prepare,
                                          .url = url,
                                          .is_ready = is_ready};
