/* data/redis_url.h: every field ends within its array, an accepted URL names one place, and no message says the
 * password. */
#include "fuzz.h"

#include "data/redis_url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    struct redis_url url;
    struct err err = {0};
    if (redis_url_parse(text, &url, &err) == OK) {
        CHECK(memchr(url.host, 0, sizeof url.host) && memchr(url.path, 0, sizeof url.path));
        CHECK(memchr(url.user, 0, sizeof url.user) && memchr(url.password, 0, sizeof url.password));
        CHECK((url.host[0] != 0) != (url.path[0] != 0));
        CHECK(url.path[0] ? url.path[0] == '/' : url.port > 0 && url.port <= 65535);
        CHECK(url.db >= 0);
        return 0;
    }
    CHECK(err.code == ERR_INVALID);
    const char *secret = memmem(text.ptr, text.len, "SECRET", 6); /* corpus and dictionary put it in passwords */
    CHECK(!secret || !strstr(err.message, "SECRET"));
    return 0;
}
