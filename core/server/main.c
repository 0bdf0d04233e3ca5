/* One binary, several roles: the command line, and the worker that a master starts from itself. */
#include <string.h>

#include "server/cli.h"
#include "server/worker.h"

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], WORKER_ROLE) == 0)
        return worker_main(argc, argv);
    return cli_main(argc, argv);
}
