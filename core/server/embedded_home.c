/* Where an embedded server lives: the log and the lock below var, the socket in a short directory below /tmp (a
 * socket's path has at most 107 bytes), the data in var or, when the server's unprivileged user cannot get there, below
 * /var/tmp with a link from var (T21). /tmp and /var/tmp belong to everybody, so what is found there is looked at,
 * never trusted: it must be a directory of our own, not a link. */
#include "server/embedded_priv.h"

#include <errno.h>
#include <ftw.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crypto.h"

static enum status make_dirs(const char *path, struct err *err)
{
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return err_set(err, ERR_SYSTEM, "%s: the path is too long", path);
    for (char *slash = part + 1; *slash; slash++) {
        if (*slash != '/')
            continue;
        *slash = '\0';
        (void)mkdir(part, 0755);
        *slash = '/';
    }
    if (mkdir(part, 0755) != 0 && errno != EEXIST)
        return err_errno(err, errno, "%s", path);
    return OK;
}

static enum status find_user(struct embedded_home *home, const char *user, struct err *err)
{
    home->uid = geteuid();
    home->gid = getegid();
    home->drops = home->uid == 0;
    if (!home->drops)
        return OK;
    const struct passwd *entry = getpwnam(user);
    if (!entry)
        entry = getpwnam("nobody");
    if (!entry || entry->pw_uid == 0)
        return err_set(err, ERR_SYSTEM, "there is no user \"%s\" to run as, and no \"nobody\"", user);
    home->uid = entry->pw_uid;
    home->gid = entry->pw_gid;
    home->n_groups = EMBEDDED_MAX_GROUPS;
    if (getgrouplist(entry->pw_name, entry->pw_gid, home->groups, &home->n_groups) < 0)
        home->n_groups = EMBEDDED_MAX_GROUPS;
    return OK;
}

enum status embedded_home_open(struct embedded_home *home, const struct embedded_kind *kind, const char *var_dir,
                               struct err *err)
{
    *home = (struct embedded_home){0};
    if (make_dirs(var_dir, err) != OK || find_user(home, kind->user, err) != OK)
        return ERR;
    char *real = realpath(var_dir, NULL);
    if (!real)
        return err_errno(err, errno, "%s", var_dir);
    bool fits = snprintf(home->var_dir, sizeof home->var_dir, "%s", real) < (int)sizeof home->var_dir;
    free(real);
    if (!fits)
        return err_set(err, ERR_SYSTEM, "%s: the path is too long", var_dir);
    unsigned char hash[CRYPTO_SHA256_LEN];
    crypto_sha256(slice_str(home->var_dir), hash);
    crypto_hex(slice_of((const char *)hash, 6), home->hash);
    snprintf(home->socket_dir, sizeof home->socket_dir, "/tmp/chowk-%s/%s", home->hash, kind->name);
    snprintf(home->lock_path, sizeof home->lock_path, "%s/%s.lock", home->var_dir, kind->name);
    snprintf(home->data_link, sizeof home->data_link, "%s/%s", home->var_dir, kind->name);
    snprintf(home->log_path, sizeof home->log_path, "%s/log", home->var_dir);
    if (make_dirs(home->log_path, err) != OK)
        return ERR;
    snprintf(home->log_path, sizeof home->log_path, "%s/log/%s.log", home->var_dir, kind->name);
    return OK;
}

/* A directory of `uid` that nobody else can write to. */
static enum status own_dir(const char *path, uid_t uid, gid_t gid, mode_t mode, struct err *err)
{
    struct stat st;
    if (mkdir(path, mode) != 0 && errno != EEXIST)
        return err_errno(err, errno, "%s", path);
    if (lstat(path, &st) != 0)
        return err_errno(err, errno, "%s", path);
    if (!S_ISDIR(st.st_mode) || (st.st_uid != uid && st.st_uid != geteuid()))
        return err_set(err, ERR_SYSTEM, "%s: is not a directory of ours; remove it", path);
    if (st.st_uid != uid && chown(path, uid, gid) != 0)
        return err_errno(err, errno, "%s: chown", path);
    if ((st.st_mode & 07777) != mode && chmod(path, mode) != 0)
        return err_errno(err, errno, "%s: chmod", path);
    return OK;
}

enum status embedded_home_own_dir(const struct embedded_home *home, const char *path, struct err *err)
{
    return own_dir(path, home->uid, home->gid, 0700, err);
}

static void socket_parent(const struct embedded_home *home, char out[sizeof home->socket_dir])
{
    snprintf(out, sizeof home->socket_dir, "%s", home->socket_dir);
    *strrchr(out, '/') = '\0';
}

enum status embedded_home_make_socket_dir(const struct embedded_home *home, struct err *err)
{
    char parent[sizeof home->socket_dir];
    socket_parent(home, parent);
    /* Twice, for the other kind's end may take the empty parent away in between. */
    for (int i = 0;; i++) {
        if (own_dir(parent, geteuid(), getegid(), home->drops ? 0755 : 0700, err) != OK)
            return ERR;
        if (embedded_home_own_dir(home, home->socket_dir, err) == OK)
            return OK;
        if (i > 0 || access(parent, F_OK) == 0)
            return ERR;
    }
}

void embedded_home_remove_socket_dir(const struct embedded_home *home)
{
    char parent[sizeof home->socket_dir];
    embedded_remove_tree(home->socket_dir);
    socket_parent(home, parent);
    (void)rmdir(parent); /* unless the other kind is still there */
}

/* Asked of the kernel by a child that has become that user: modes, ACLs and mounts all have their say. */
static bool user_can_enter(const struct embedded_home *home, const char *dir)
{
    if (!home->drops)
        return true;
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = setgroups((size_t)home->n_groups, home->groups) == 0 && setgid(home->gid) == 0 &&
                  setuid(home->uid) == 0 && chdir(dir) == 0;
        _exit(ok ? 0 : 1);
    }
    int status = 1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static enum status link_elsewhere(const struct embedded_home *home, char path[PATH_MAX], struct err *err)
{
    char parent[64];
    snprintf(parent, sizeof parent, "/var/tmp/chowk-%s", home->hash);
    if (own_dir(parent, geteuid(), getegid(), 0755, err) != OK)
        return ERR;
    snprintf(path, PATH_MAX, "%s/%s", parent, strrchr(home->data_link, '/') + 1);
    if (symlink(path, home->data_link) != 0)
        return err_errno(err, errno, "%s", home->data_link);
    return OK;
}

enum status embedded_home_locate(const struct embedded_home *home, char path[PATH_MAX], struct err *err)
{
    struct stat st;
    if (lstat(home->data_link, &st) == 0 && S_ISLNK(st.st_mode)) {
        ssize_t len = readlink(home->data_link, path, PATH_MAX - 1);
        if (len < 0)
            return err_errno(err, errno, "%s", home->data_link);
        path[len] = '\0';
        char parent[64];
        snprintf(parent, sizeof parent, "/var/tmp/chowk-%s", home->hash);
        /* After a reboot that emptied /var/tmp the link dangles: begin anew where it should point. */
        if (access(path, F_OK) == 0 || strncmp(path, parent, strlen(parent)) == 0)
            return own_dir(parent, geteuid(), getegid(), 0755, err);
        return err_set(err, ERR_SYSTEM, "%s: points to %s, which is gone; remove the link", home->data_link, path);
    }
    if (access(home->data_link, F_OK) != 0 && !user_can_enter(home, home->var_dir))
        return link_elsewhere(home, path, err);
    snprintf(path, PATH_MAX, "%s", home->data_link);
    return OK;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    (void)remove(path);
    return 0;
}

void embedded_remove_tree(const char *path)
{
    (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
