#include <stdio.h>

#include "server/cli.h"
#include "server/loaded.h"

int cmd_check(struct cli_args *args)
{
    struct err err = {0};
    struct app app;
    struct loaded loaded;
    bool development = cli_take_flag(args, "--dev");
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    enum status status = app_open(&app, args->argc ? args->argv[0] : NULL, development, "--dev", &err);
    if (status == OK)
        status = loaded_open(&loaded, &app, false, &err);
    if (status == OK) {
        printf("ok: %zu route%s, code %s\n", http_router_count(vm_router(loaded.host.vm)),
               http_router_count(vm_router(loaded.host.vm)) == 1 ? "" : "s", bundle_hash(loaded.host.bundle));
        loaded_close(&loaded);
    }
    app_close(&app);
    return status == OK ? CLI_OK : cli_fail(&err);
}
