#include <stdio.h>

#include "server/app.h"
#include "server/cli.h"
#include "server/config_dump.h"

static void print(struct buf *text)
{
    fwrite(text->ptr, 1, text->len, stdout);
    buf_free(text);
}

int cmd_config(struct cli_args *args)
{
    struct buf text = {0};
    struct err err = {0};
    struct app app;
    bool wants_keys = cli_take_flag(args, "--keys"), development = cli_take_flag(args, "--dev");
    if (cli_check_operands(args, 0, 1) != OK)
        return CLI_MISUSE;
    if (wants_keys) {
        config_dump_keys(&text);
        print(&text);
        return CLI_OK;
    }
    if (app_open(&app, args->argc ? args->argv[0] : NULL, development, "--dev", &err) != OK)
        return cli_fail(&err);
    config_dump(app.config, &text);
    print(&text);
    app_close(&app);
    return CLI_OK;
}
