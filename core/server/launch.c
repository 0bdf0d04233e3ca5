#include "server/launch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Once per process, like the argument vector it copies (cli.c shifts the original). */
static struct {
    char **argv;
    char dir[PATH_MAX];
} launch;

static void forget(void)
{
    for (int i = 0; launch.argv && launch.argv[i]; i++)
        free(launch.argv[i]);
    free(launch.argv);
}

void launch_remember(int argc, char **argv)
{
    forget();
    launch.argv = xalloc(((size_t)argc + 1) * sizeof(char *));
    for (int i = 0; i < argc; i++)
        launch.argv[i] = xstrndup(argv[i], strlen(argv[i]));
    if (!getcwd(launch.dir, sizeof(launch.dir)))
        snprintf(launch.dir, sizeof(launch.dir), "/");
}

static bool is_runnable(const char *path)
{
    return access(path, X_OK) == 0;
}

static bool find_in_path(const char *name, char *out, size_t size)
{
    const char *path = getenv("PATH");
    for (const char *p = path ? path : "/usr/local/bin:/usr/bin:/bin"; *p;) {
        int len = (int)strcspn(p, ":");
        int written = snprintf(out, size, "%.*s/%s", len, p, name);
        if (len > 0 && *p == '/' && written > 0 && (size_t)written < size && is_runnable(out))
            return true;
        p += len;
        p += *p == ':';
    }
    return false;
}

enum status launch_path(char *out, size_t size, struct err *err)
{
    const char *name = launch.argv && launch.argv[0] ? launch.argv[0] : "chowk";
    if (!strchr(name, '/'))
        return find_in_path(name, out, size) ? OK
                                             : err_set(err, ERR_UNAVAILABLE, "there is no %s in PATH any more", name);
    int len = name[0] == '/' ? snprintf(out, size, "%s", name) : snprintf(out, size, "%s/%s", launch.dir, name);
    if (len < 0 || (size_t)len >= size)
        return err_set(err, ERR_INVALID, "the path of the binary is too long");
    return is_runnable(out) ? OK : err_errno(err, errno, "cannot run %s", out);
}

const char *const *launch_argv(void)
{
    return (const char *const *)launch.argv;
}

const char *launch_dir(void)
{
    return launch.dir;
}
