/* Lua values to JSON and back, failure objects, positions. The Lua side is driven through a loaded module. */
#include "fixture.h"

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    f = (struct fixture){0};
    fixture_load_one(&f, "");
    assert_string_equal(f.err.message, "");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_unload(&f);
    return 0;
}

/* Evaluates an expression in the raw state; the value is left on the stack. */
static lua_State *push(const char *expression)
{
    lua_State *L = vm_state(f.vm);
    char chunk[1024];
    lua_settop(L, 0);
    snprintf(chunk, sizeof chunk, "local null, array, row, raw = ... ; return %s", expression);
    assert_int_equal(luaL_loadstring(L, chunk), 0);
    lua_pushlightuserdata(L, NULL);
    lua_newtable(L);
    lx_set_array_meta(L, -1);
    lua_newtable(L);
    lx_push_row_meta(L, (struct slice[]){SLICE("id"), SLICE("name"), SLICE("price")}, 3);
    lua_setmetatable(L, -2);
    lx_push_raw(L, SLICE("{\"r\":1}"));
    assert_int_equal(lua_pcall(L, 4, 1, 0), 0);
    return L;
}

static void expect_json(const char *expression, const char *json)
{
    struct buf buf = {0};
    struct err err = {0};
    lua_State *L = push(expression);
    if (lx_json_encode(L, -1, &buf, &err) != OK)
        buf_printf(&buf, "error: %s", err.message);
    buf_byte(&buf, '\0');
    assert_string_equal(buf.ptr, json);
    assert_int_equal(lua_gettop(L), 1);
    buf_free(&buf);
}

static void test_encode_values(void **state)
{
    (void)state;
    expect_json("nil", "null");
    expect_json("null", "null");
    expect_json("true", "true");
    expect_json("'a\"\\n'", "\"a\\\"\\n\"");
    expect_json("0", "0");
    expect_json("-0.0", "0");
    expect_json("-42", "-42");
    expect_json("99999999999999", "99999999999999");
    expect_json("9007199254740992", "9007199254740992");
    expect_json("0.1", "0.1");
    expect_json("1e300", "1e+300");
    expect_json("raw", "{\"r\":1}");
}

static void test_encode_tables(void **state)
{
    (void)state;
    expect_json("{}", "{}");
    expect_json("array", "[]");
    expect_json("{1, 'x', false, null}", "[1,\"x\",false,null]");
    expect_json("{a = {b = {}}}", "{\"a\":{\"b\":{}}}");
    expect_json("{raw, {raw}}", "[{\"r\":1},[{\"r\":1}]]");
    expect_json("(function() local t = {} for i = 9, 1, -1 do t[i] = i end return t end)()", "[1,2,3,4,5,6,7,8,9]");
    expect_json("(function() local t = {} t[2] = 'b' t[1] = 'a' return {t} end)()", "[[\"a\",\"b\"]]");
}

static void test_encode_rows(void **state)
{
    (void)state;
    expect_json("row", "{\"id\":null,\"name\":null,\"price\":null}");
    expect_json("(function() row.name = 'x' row.id = 0 return row end)()", "{\"id\":0,\"name\":\"x\",\"price\":null}");
    expect_json("(function() row.extra = {1} return {row} end)()",
                "[{\"id\":null,\"name\":null,\"price\":null,\"extra\":[1]}]");
}

static void test_encode_errors_name_the_path(void **state)
{
    (void)state;
    expect_json("0/0", "error: NaN has no JSON form");
    expect_json("{items = {1, 2, {price = 0/0}}}", "error: items[3].price: NaN has no JSON form");
    expect_json("{a = {1/0}}", "error: a[1]: infinity has no JSON form");
    expect_json("{f = print}", "error: f: a function has no JSON form");
    expect_json("{1, 2, x = 3}",
                "error: a table is an array or an object, not both (keys are mixed, or there are holes)");
    expect_json("{x = {[5] = 1}}", "error: x: an object's keys must be strings");
    expect_json("{[true] = 1}", "error: an object's keys must be strings");
    expect_json("(function() row.id = {coroutine.create(print)} return {row} end)()",
                "error: [1].id[1]: a coroutine or cdata has no JSON form");
    struct buf buf = {0};
    struct err err = {0};
    lua_State *L = push("(function() local t = {} t.t = t return t end)()");
    buf_lit(&buf, "before");
    assert_int_equal(lx_json_encode(L, -1, &buf, &err), ERR);
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "nested deeper than 64 levels (a cycle?)"));
    assert_int_equal(buf.len, 6); /* what was there stays */
    buf_free(&buf);
}

static void expect_round_trip(const char *text)
{
    lua_State *L = vm_state(f.vm);
    struct buf buf = {0};
    struct err err = {0};
    lua_settop(L, 0);
    assert_int_equal(lx_json_decode(L, slice_str(text), &err), OK);
    assert_int_equal(lua_gettop(L), 1);
    assert_int_equal(lx_json_encode(L, -1, &buf, &err), OK);
    buf_byte(&buf, '\0');
    assert_string_equal(buf.ptr, text);
    buf_free(&buf);
}

static void test_decode(void **state)
{
    static const char *const bad[] = {"",    "{",        "[1,]",  "{\"a\":1,\"a\":2}", "01",
                                      "NaN", "\"\x80\"", "[1] x", "9007199254740993"};
    lua_State *L = vm_state(f.vm);
    struct err err = {0};
    (void)state;
    expect_round_trip("[]");
    expect_round_trip("{}");
    expect_round_trip("[[],{},[1,null,true,\"x\"]]");
    expect_round_trip("{\"a\":[{\"b\":null}]}");
    expect_round_trip("9007199254740992");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        lua_settop(L, 0);
        assert_int_equal(lx_json_decode(L, slice_str(bad[i]), &err), ERR);
        assert_int_equal(err.code, ERR_INVALID);
        assert_int_equal(lua_gettop(L), 0);
    }
    char deep[200];
    memset(deep, '[', 64);
    memset(deep + 64, ']', 64);
    deep[128] = '\0';
    expect_round_trip(deep);
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    assert_int_equal(lx_json_decode(L, slice_of(deep, 130), &err), ERR);
}

static void test_failures_survive_lua(void **state)
{
    lua_State *L = vm_state(f.vm);
    struct err err = {.code = ERR_PG, .sqlstate = "40001", .message = "could not serialize", .detail = "a hint"}, back;
    (void)state;
    lua_settop(L, 0);
    lx_push_err(L, &err);
    assert_true(lx_is_err(L, 1));
    assert_true(lx_to_err(L, 1, &back));
    assert_int_equal(back.code, ERR_PG);
    assert_string_equal(back.sqlstate, "40001");
    assert_string_equal(back.message, "could not serialize");
    assert_string_equal(back.detail, "a hint");
    lua_getfield(L, 1, "retryable");
    assert_true(lua_toboolean(L, -1));
    assert_string_equal(lx_to_text(L, 1), "pg_error: could not serialize");
    lua_newtable(L);
    assert_false(lx_is_err(L, -1));
    lua_pushlightuserdata(L, L); /* a forged tag is none */
    lua_rawseti(L, -2, 1);
    lua_newtable(L);
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
    assert_int_equal(lx_kind_of(L, -1), LX_PLAIN);
    struct slice raw;
    assert_false(lx_to_raw(L, -1, &raw));
    lx_push_raw(L, SLICE("[1]"));
    assert_true(lx_to_raw(L, -1, &raw));
    assert_true(slice_eq(raw, SLICE("[1]")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_encode_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encode_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encode_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encode_errors_name_the_path, setup, teardown),
        cmocka_unit_test_setup_teardown(test_decode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures_survive_lua, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
