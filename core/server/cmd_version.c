#include <stdio.h>

#include "server/cli.h"

int cmd_version(struct cli_args *args)
{
    if (cli_check_operands(args, 0, 0) != OK)
        return CLI_MISUSE;
    puts("chowk " CHOWK_VERSION);
    return CLI_OK;
}
