/* net/addr.h: what is accepted has a text that is accepted and is its own text; the text fits where it is put. */
#include "fuzz.h"

#include "net/addr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    struct addr addr, again;
    struct err err = {0};
    char shown[ADDR_TEXT_MAX], shown_again[ADDR_TEXT_MAX], ip[ADDR_TEXT_MAX];
    if (addr_parse(text, &addr, &err) != OK) {
        CHECK(err.code == ERR_INVALID && err.message[0]);
        return 0;
    }
    CHECK(addr.len > 0 && addr.len <= sizeof addr.sa);
    addr_text(&addr, shown);
    CHECK(strlen(shown) < ADDR_TEXT_MAX - 1);
    CHECK(addr_parse(slice_str(shown), &again, &err) == OK);
    addr_text(&again, shown_again);
    CHECK(strcmp(shown, shown_again) == 0);
    addr_ip(&addr, ip);
    CHECK((addr.sa.ss_family == AF_UNIX) == (strcmp(ip, "unix") == 0));
    return 0;
}
