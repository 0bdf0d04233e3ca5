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
        CHECK(memchr(url.at.host, 0, sizeof url.at.host) && memchr(url.path, 0, sizeof url.path));
        CHECK(memchr(url.login.user, 0, sizeof url.login.user));
        CHECK(memchr(url.login.password, 0, sizeof url.login.password));
        CHECK(memchr(url.primary, 0, sizeof url.primary) && memchr(url.ca, 0, sizeof url.ca));
        CHECK(url.n_sentinels <= REDIS_URL_MAX_SENTINELS);
        CHECK((url.at.host[0] != 0) + (url.path[0] != 0) + (url.n_sentinels > 0) == 1);
        if (url.path[0])
            CHECK(url.path[0] == '/');
        if (url.at.host[0])
            CHECK(url.at.port > 0 && url.at.port <= 65535);
        CHECK(url.db >= 0);
        return 0;
    }
    CHECK(err.code == ERR_INVALID);
    const char *secret = memmem(text.ptr, text.len, "SECRET", 6); /* corpus and dictionary put it in passwords */
    CHECK(!secret || !strstr(err.message, "SECRET"));
    return 0;
}
