#include <stdio.h>

#include "server/cli.h"
#include "server/loaded.h"

static int max_of(int a, size_t b)
{
    return (int)b > a ? (int)b : a;
}

static void print_routes(const struct http_router *router)
{
    size_t n = http_router_count(router);
    int pattern_width = 0, origin_width = 0;
    for (size_t i = 0; i < n; i++) {
        const struct http_route *route = http_router_at(router, i);
        pattern_width = max_of(pattern_width, strlen(route->pattern));
        origin_width = max_of(origin_width, strlen(route->origin ? route->origin : ""));
    }
    for (size_t i = 0; i < n; i++) {
        const struct http_route *route = http_router_at(router, i);
        printf("%-7s %-*s  %-*s  %s\n", http_method_name(route->method), pattern_width, route->pattern, origin_width,
               route->origin ? route->origin : "", route->summary ? route->summary : "");
    }
}

int cmd_routes(struct cli_args *args)
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
        print_routes(vm_router(loaded.host.vm));
        loaded_close(&loaded);
    }
    app_close(&app);
    return status == OK ? CLI_OK : cli_fail(&err);
}
