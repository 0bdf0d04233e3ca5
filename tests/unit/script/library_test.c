/* The Lua library where it needs no server: each route is a list of checks that returns "ok", or dies with its line. */
#include "fixture.h"

#define HEAD                                                                                                           \
    "local function is(a, b) if a ~= b then error(('got %s, expected %s'):format(tostring(a), tostring(b)), 2) end "   \
    "end\n"                                                                                                            \
    "local function fails(want, fn, ...) local ok, e = pcall(fn, ...) e = tostring(e)\n"                               \
    "  if ok or not e:find(want, 1, true) then error(('got %s, expected %s'):format(e, want), 2) end end\n"            \
    "local r = require 'chowk.app'.routes()\n"                                                                         \
    "r:get('/checks', function()\n"

static void check(const char *config, const char *text)
{
    char all[8192];
    struct fixture f = {.env.config_json = slice_str(config)};
    snprintf(all, sizeof all, "%s%s\nreturn 'ok' end)\nreturn r", HEAD, text);
    fixture_load_one(&f, all);
    assert_string_equal(f.err.message, "");
    fixture_expect(&f, "/checks", "ok ok");
    fixture_unload(&f);
}

static void test_time(void **state)
{
    (void)state;
    check("",
          "local time = require 'chowk.time'\n"
          "is(time.seconds('200ms'), 0.2) is(time.seconds('15m'), 900) is(time.seconds('1h30m'), 5400)\n"
          "is(time.seconds(2.5), 2.5) is(time.seconds('7d'), 604800)\n"
          "fails('\"15 minutes\" is not a duration', time.seconds, '15 minutes')\n"
          "fails('is not a duration', time.seconds, '15') fails('expected a duration', time.seconds, nil)\n"
          "fails('expected a duration', time.seconds, -1)\n"
          "is(time.parse('1970-01-01T00:00:00Z'), 0) is(time.parse('2026-11-23T11:49:16.123+05:30'), 1795414756.123)\n"
          "is(time.parse('2000-02-29T00:00:00Z'), 951782400) is(time.parse('2100-02-29T00:00:00Z'), nil)\n"
          "is(time.parse('2026-13-01T00:00:00Z'), nil) is(time.parse('2026-01-01T24:00:00Z'), nil)\n"
          "is(time.parse('2026-01-01'), nil) is(time.parse('2026-01-01T00:00:00'), nil)\n"
          "is(time.parse('2026-01-01T00:00:00.Z'), nil) is(time.parse('2026-01-01T00:00:00+99:00'), nil)\n"
          "is(time.format(1795414756.123), '2026-11-23T06:19:16.123Z')\n"
          "is(time.format(1795414756.123, 'Asia/Kolkata'), '2026-11-23T11:49:16.123+05:30')\n");
}

static void test_time_zones_and_clocks(void **state)
{
    (void)state;
    check("", "local time = require 'chowk.time'\n"
              "is(time.format(86400, '-03:30'), '1970-01-01T20:30:00.000-03:30')\n"
              "fails('unknown zone \"Mars\"', time.format, 0, 'Mars')\n"
              "is(time.parse(time.now()) ~= nil, true) is(time.unix() % 1, 0)\n"
              "local a = time.mono_ms() is(time.mono_ms() >= a, true)\n"
              "is(math.abs(time.unix_ms() / 1000 - os.time()) < 5, true)");
}

static void test_crypto(void **state)
{
    (void)state;
    check("", "local c = require 'chowk.crypto'\n"
              "is(c.hex(c.sha256('abc')), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')\n"
              "is(c.hex(c.hmac_sha256('key', 'The quick brown fox jumps over the lazy dog')),\n"
              "  'f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8')\n"
              "is(c.unhex('0aFF'), '\\10\\255') is(c.unhex('0'), nil) is(c.unhex('zz'), nil)\n"
              "is(c.base64('\\255\\254a'), '//5h') is(c.base64url('\\255\\254'), '__4') is(c.unbase64url('__4'), "
              "'\\255\\254')\n"
              "is(c.unbase64('!'), nil) is(c.equal('a', 'a'), true) is(c.equal('a', 'b'), false)\n"
              "is(#c.random(10), 10) is(#c.token(), 32) is(c.token() ~= c.token(), true)\n"
              "is(c.uuid():match('^%x+%-%x+%-4%x%x%x%-[89ab]%x%x%x%-%x+$') ~= nil, true) is(#c.uuid(), 36)\n"
              "fails('crypto.random: expected a whole number', c.random, 0)\n"
              "fails('lua/app.lua:', c.sha256, nil)");
}

static void test_json(void **state)
{
    (void)state;
    check("", "local json = require 'chowk.json'\n"
              "is(json.encode({a = json.null}), '{\"a\":null}') is(json.encode(json.array()), '[]')\n"
              "is(json.encode(json.decode('[]')), '[]') is(json.decode('null'), json.null)\n"
              "is(json.encode({json.raw('[1, 2]')}), '[[1, 2]]') is(tostring(json.raw('1')), '1')\n"
              "is(json.is_array(json.decode('[1]')), true) is(json.is_array({1}), false)\n"
              "local v, e = try(json.decode, '{x}') is(v, nil) is(e.code, 'invalid') is(e.retryable, false)\n"
              "fails('invalid: ', json.raw, '{') fails('NaN', json.encode, 0/0)\n"
              "fails('json.decode: expected a string, got nil', json.decode, nil)\n"
              "fails('json.array: expected a table', json.array, 1)");
}

static void test_schema_scalars(void **state)
{
    (void)state;
    check("",
          "local t = require 'chowk.schema'\n"
          "local function good(s, v, want) is(t.validate(s, v), want) end\n"
          "local function bad(s, v, why) fails('422 invalid: ' .. why, t.validate, s, v) end\n"
          "good(t.integer(), 5, 5) bad(t.integer(), 5.5, 'must be a whole number') bad(t.integer(), '5', 'must be a "
          "whole')\n"
          "bad(t.integer{min = 1, max = 9}, 0, 'must be at least 1') bad(t.integer{max = 9}, 10, 'must be at most 9')\n"
          "bad(t.integer(), 0/0, 'must be a whole') bad(t.integer(), 2^60, 'must be a whole') bad(t.number(), 0/0, "
          "'must be a number')\n"
          "good(t.number(), 0.5, 0.5) bad(t.number(), 1/0, 'must be a number') good(t.boolean(), false, false)\n"
          "bad(t.boolean(), 1, 'must be true or false') good(t.string{min = 1, max = 3}, 'नमस', 'नमस')\n"
          "bad(t.string{min = 1}, '', 'must not be empty') bad(t.string{max = 2}, 'abc', 'must have at most 2')\n"
          "bad(t.string{pattern = '^a'}, 'b', 'has the wrong form') bad(t.string(), nil, 'is required')\n"
          "good(t.slug(), 'blue-mug-2', 'blue-mug-2') bad(t.slug(), 'Blue', 'must be lower-case') bad(t.slug(), "
          "'a--b', 'must')\n"
          "bad(t.slug(), 'a-', 'must') bad(t.slug(), '-a', 'must') good(t.email(), 'a.b+c@x.co.in', 'a.b+c@x.co.in')\n"
          "for _, e in ipairs{'a', 'a@b', 'a b@c.de', '@c.de', 'a@c..de', 'a@@c.de', 'a@.de'} do bad(t.email(), e, "
          "'must be an e-mail') end\n"
          "good(t.uuid(), '0F8FAD5B-D9CB-469F-A165-70867728950E', '0f8fad5b-d9cb-469f-a165-70867728950e')\n"
          "bad(t.uuid(), '0f8fad5b-d9cb-469f-a165-70867728950', 'must') good(t.paise(), 0, 0) bad(t.paise(), -1, 'must "
          "be at least 0')\n"
          "good(t.enum{'a', 'b'}, 'b', 'b') bad(t.enum{'a', 'b'}, 'c', 'must be one of: a, b') good(t.any(), 7, 7)\n"
          "good(t.integer{default = 3}, nil, 3) good(t.optional(t.integer()), nil, nil)\n"
          "fails('t.integer: unknown option \"mn\"', t.integer, {mn = 1})\n"
          "fails('t.integer: min: expected a number, got string', t.integer, {min = '1'})\n"
          "fails('t.string: min is 5, above max, which is 2', t.string, {min = 5, max = 2})\n"
          "fails('t.string: pattern: expected a Lua pattern, got number', t.string, {pattern = 1})\n"
          "bad(t.paise(), 1e14, 'must be at most 99999999999999')");
}

static void test_schema_trees(void **state)
{
    (void)state;
    check(
        "",
        "local t, json = require 'chowk.schema', require 'chowk.json'\n"
        "local s = t.object{tags = t.array(t.string(), {default = {}}), deep = t.optional(t.object{n = t.integer()})}\n"
        "is(json.encode(t.validate(s, {}).tags), '[]')\n"
        "is(json.encode(t.validate(s, {tags = {}}).tags), '[]')\n"
        "is(t.validate(s, {deep = json.null}).deep, nil)\n"
        "local ok, p = pcall(t.validate, s, {tags = {1, 'x', 2}, deep = {n = 'x', m = 1}, more = 1})\n"
        "is(ok, false) is(p.status, 422) is(p.code, 'invalid') is(#p.extra.errors, 5)\n"
        "local at = {} for i, e in ipairs(p.extra.errors) do at[i] = e.pointer end\n"
        "is(table.concat(at, ' '), '/deep/n /deep/m /tags/0 /tags/2 /more')\n"
        "fails('must be an object', t.validate, s, {1}) fails('must be an object', t.validate, s, json.array{})\n"
        "fails('must be a list', t.validate, t.array(t.any()), {a = 1})\n"
        "fails('must have at most 1 item', t.validate, t.array(t.any(), {max = 1}), {1, 2})\n"
        "local d = t.validate(t.object{l = t.any{default = {1}}}, {}).l d[1] = 2\n"
        "is(t.validate(t.object{l = t.any{default = {1}}}, {}).l[1], 1)\n"
        "fails('t.array: expected a type', t.array, 'string') fails('x is not a type', t.object, {x = 1})");
}

static void test_razorpay(void **state)
{
    static const char config[] =
        "{\"razorpay.key_secret\":\"topsecret\",\"razorpay.webhook_secrets\":[\"new\",\"old\"]}";
    (void)state;
    check(config,
          "local rp, c = require 'chowk.razorpay', require 'chowk.crypto'\n"
          "local sig = c.hex(c.hmac_sha256('topsecret', 'order_1|pay_1'))\n"
          "is(select('#', rp.verify_checkout{order_id = 'order_1', payment_id = 'pay_1', signature = sig}), 0)\n"
          "local _, e = try(rp.verify_checkout, {order_id = 'order_2', payment_id = 'pay_1', signature = sig})\n"
          "is(e.code, 'bad_signature')\n"
          "rp.verify_webhook('{}', c.hex(c.hmac_sha256('old', '{}')))\n"
          "local _, e2 = try(rp.verify_webhook, '{}', nil) is(e2.code, 'bad_signature')\n"
          "fails('order_id must be a string', rp.verify_checkout, {})");
    check("{\"razorpay.key_secret\":null,\"razorpay.webhook_secrets\":[]}",
          "local rp = require 'chowk.razorpay'\n"
          "local _, e = try(rp.verify_webhook, '{}', ('0'):rep(64)) is(e.code, 'refused')");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time),           cmocka_unit_test(test_time_zones_and_clocks),
        cmocka_unit_test(test_crypto),         cmocka_unit_test(test_json),
        cmocka_unit_test(test_schema_scalars), cmocka_unit_test(test_schema_trees),
        cmocka_unit_test(test_razorpay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
