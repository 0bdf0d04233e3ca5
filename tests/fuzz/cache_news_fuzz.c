/* services/cache_l2.h: messages of other nodes. Every name lies within the payload, and reading comes to an end. */
#include "fuzz.h"

#include "services/cache_l2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size), name;
    struct cache_news news;
    bool is_tag;
    if (!cache_news_read(text, &news))
        return 0;
    for (size_t left = news.names.len; cache_news_next(&news, &is_tag, &name); left = news.names.len) {
        CHECK(news.names.len < left);
        CHECK(name.len <= CACHE_KEY_MAX);
        CHECK(name.ptr >= text.ptr && name.ptr + name.len <= text.ptr + text.len);
    }
    return 0;
}
