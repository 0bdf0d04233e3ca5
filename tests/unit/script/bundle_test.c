/* The code bundle: what goes in, what is refused, that damage is seen. */
#include "fixture.h"

struct built {
    char dir[64];
    struct buf bytes;
    struct err err;
    enum status rc;
};

static struct built build(const struct fixture_file *files, const char *root)
{
    struct built b = {0};
    snprintf(b.dir, sizeof b.dir, "/tmp/chowk-script-test-XXXXXX");
    assert_non_null(mkdtemp(b.dir));
    for (; files->path; files++)
        fixture_write(b.dir, files->path, files->text);
    b.rc = bundle_build(b.dir, root, &b.bytes, &b.err);
    fixture_remove(b.dir);
    return b;
}

static struct bundle *open_bytes(struct slice bytes, struct err *err)
{
    int fd = shm_seal("test", bytes, err);
    assert_true(fd >= 0);
    struct bundle *bundle = bundle_open(fd, err);
    close(fd);
    return bundle;
}

static void expect_module(const struct bundle *bundle, const char *module, const char *chunk)
{
    struct slice name, code = bundle_find(bundle, slice_str(module), &name);
    if (!chunk) {
        assert_null(code.ptr);
        return;
    }
    assert_non_null(code.ptr);
    assert_memory_equal(code.ptr, "\x1bLJ", 3);
    assert_int_equal(name.len, strlen(chunk));
    assert_memory_equal(name.ptr, chunk, name.len);
}

static void test_names_and_exclusions(void **state)
{
    const struct fixture_file files[] = {
        {"app.lua", "return 1"},          {"store/init.lua", "return 2"}, {"store/routes/orders.lua", "return 3"},
        {"var/x.lua", "return 1"},        {"spec/x_spec.lua", "=bad="},   {"node_modules/a/b.lua", "=bad="},
        {".hidden/x.lua", "=bad="},       {"conf/chowk.lua", "=bad="},    {"chowk/app.lua", "=bad="},
        {"store/conf/x.lua", "return 4"}, {"readme.txt", "=bad="},        {NULL, NULL}};
    (void)state;
    struct built b = build(files, ".");
    assert_string_equal(b.err.message, "");
    struct bundle *bundle = open_bytes(buf_as_slice(&b.bytes), &b.err);
    assert_non_null(bundle);
    expect_module(bundle, "app", "app.lua");
    expect_module(bundle, "store", "store/init.lua");
    expect_module(bundle, "store.routes.orders", "store/routes/orders.lua");
    expect_module(bundle, "store.conf.x", "store/conf/x.lua");
    expect_module(bundle, "var.x", NULL);
    expect_module(bundle, "conf.chowk", NULL);
    expect_module(bundle, "chowk.app", NULL);
    expect_module(bundle, "", NULL);
    assert_int_equal(strlen(bundle_hash(bundle)), 12);
    bundle_free(bundle);
    buf_free(&b.bytes);
}

static void test_hash_is_of_the_sources(void **state)
{
    const struct fixture_file one[] = {{"a.lua", "return {x=1,y=2,z=3}"}, {"b.lua", "return 2"}, {NULL, NULL}};
    const struct fixture_file same[] = {{"b.lua", "return 2"}, {"a.lua", "return {x=1,y=2,z=3}"}, {NULL, NULL}};
    const struct fixture_file other[] = {{"a.lua", "return {x=1,y=2,z=4}"}, {"b.lua", "return 2"}, {NULL, NULL}};
    const struct fixture_file *sets[] = {one, same, other};
    char hash[3][16];
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct built b = build(sets[i], ".");
        struct bundle *bundle = open_bytes(buf_as_slice(&b.bytes), &b.err);
        snprintf(hash[i], sizeof hash[i], "%s", bundle_hash(bundle));
        bundle_free(bundle);
        buf_free(&b.bytes);
    }
    assert_string_equal(hash[0], hash[1]);
    assert_string_not_equal(hash[0], hash[2]);
}

static void test_errors_name_the_file(void **state)
{
    const struct fixture_file syntax[] = {{"lua/a.lua", "\nlocal = 1"}, {NULL, NULL}};
    const struct fixture_file bytecode[] = {{"lua/a.lua", "\x1bLJ\x02"}, {NULL, NULL}};
    const struct fixture_file twins[] = {{"lua/a.lua", ""}, {"lua/a/init.lua", ""}, {NULL, NULL}};
    const struct fixture_file none[] = {{"x/a.lua", ""}, {NULL, NULL}};
    static const char *const expected[] = {
        "lua/a.lua:2: '<name>' expected near '='", "attempt to load chunk with wrong mode",
        "lua/a.lua and lua/a/init.lua are both module \"a\"", "No such file or directory"};
    const struct fixture_file *sets[] = {syntax, bytecode, twins, none};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        struct built b = build(sets[i], "lua");
        assert_int_equal(b.rc, ERR);
        if (!strstr(b.err.message, expected[i]))
            assert_string_equal(b.err.message, expected[i]);
        buf_free(&b.bytes);
    }
}

static void test_links_out_of_the_application_are_not_followed(void **state)
{
    char dir[] = "/tmp/chowk-script-test-XXXXXX", path[128];
    struct buf bytes = {0};
    struct err err = {0};
    (void)state;
    assert_non_null(mkdtemp(dir));
    fixture_write(dir, "app/lua/real.lua", "return 1");
    fixture_write(dir, "outside.lua", "return 'stolen'");
    snprintf(path, sizeof path, "%s/app/lua/out.lua", dir);
    assert_int_equal(symlink("../../outside.lua", path), 0);
    snprintf(path, sizeof path, "%s/app/lua/in.lua", dir);
    assert_int_equal(symlink("real.lua", path), 0);
    snprintf(path, sizeof path, "%s/app", dir);
    assert_int_equal(bundle_build(path, "lua", &bytes, &err), OK);
    struct bundle *bundle = open_bytes(buf_as_slice(&bytes), &err);
    expect_module(bundle, "real", "lua/real.lua");
    expect_module(bundle, "in", "lua/in.lua");
    expect_module(bundle, "out", NULL);
    bundle_free(bundle);
    buf_free(&bytes);
    fixture_remove(dir);
}

static void test_damage_is_seen(void **state)
{
    const struct fixture_file files[] = {{"a.lua", "return 1"}, {NULL, NULL}};
    (void)state;
    struct built b = build(files, ".");
    for (size_t at = 0; at < b.bytes.len; at += 7) {
        if (at >= 16 && at < 48) /* the shown hash is a name, not a check */
            continue;
        b.bytes.ptr[at] ^= 1;
        assert_null(open_bytes(buf_as_slice(&b.bytes), &b.err));
        b.bytes.ptr[at] ^= 1;
    }
    for (size_t len = 0; len < b.bytes.len; len += 11)
        assert_null(open_bytes(slice_of(b.bytes.ptr, len), &b.err));
    buf_free(&b.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_exclusions),
        cmocka_unit_test(test_hash_is_of_the_sources),
        cmocka_unit_test(test_errors_name_the_file),
        cmocka_unit_test(test_links_out_of_the_application_are_not_followed),
        cmocka_unit_test(test_damage_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
