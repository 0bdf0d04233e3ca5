/* One binary, several roles: the command line, and the workers that a master starts from itself. */
#include <string.h>
#include <sys/prctl.h>

#include "server/check.h"
#include "server/cli.h"
#include "server/launch.h"
#include "server/worker.h"

int main(int argc, char **argv)
{
    launch_remember(argc, argv);
    prctl(PR_SET_NAME, "chowk"); /* a worker is started from /proc/self/exe: top would call it "exe" */
    if (argc > 1 && (strcmp(argv[1], WORKER_ROLE) == 0 || strcmp(argv[1], WORKER_ROLE_JOBS) == 0))
        return worker_main(argc, argv);
    if (argc > 1 && strcmp(argv[1], CHECK_ROLE) == 0)
        return check_main(argc, argv);
    return cli_main(argc, argv);
}
