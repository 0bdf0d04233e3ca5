-- chowk.redis in a real server: commands, pipelines, what is refused, and a connection that is cut.
local server = require "spec.support.server"

local APP = [==[
local app, redis, json = require "chowk.app", require "chowk.redis", require "chowk.json"
local routes = app.routes()
local tests = {}

function tests.types()
  local arrays = redis.eval("return {1, false, 'x', {2}, 100000000000000}", 0)
  return {
    status = redis.set("k", "v"), value = redis.get("k"), method = redis:get("k"), called = redis.call("get", "k"),
    integer = redis.incr("n"), big = redis.incrby("n", 9007199254740992), missing = redis.get("nothing") == nil,
    ping = redis.ping(), method_ping = redis:ping(),
    first = arrays[1], hole = arrays[2] == nil, third = arrays[3], nested = arrays[4][1], exact = arrays[5],
  }
end

function tests.numbers()
  redis.rpush("l", 1, 1.5, 0.1, 123456789012345, 9007199254740991, -3, 1e21)
  return { items = redis.lrange("l", 0, -1) }
end

function tests.bytes()
  local all = {}
  for i = 0, 255 do all[#all + 1] = string.char(i) end
  local s = table.concat(all) .. "\r\n$3\r\n"
  redis.set("bytes", s)
  return { same = redis.get("bytes") == s, len = redis.strlen("bytes") }
end

function tests.pipeline()
  local list = redis.pipeline { { "SET", "a", 1 }, { "LPUSH", "a", "x" }, { "GET", "nothing" }, { "INCR", "a" } }
  local as_method = redis:pipeline { { "GET", "a" } }
  return { list[1], list[2].code, list[2].message, list[3] == nil, list[4], as_method[1] }
end

local MISUSE = {
  multi = function() redis.call("MULTI") end,
  select = function() redis.select(3) end,
  in_pipeline = function() redis.pipeline { { "SET", "untouched", "1" }, { "BLPOP", "l", 0 } } end,
  no_value = function() redis.set("k", nil) end,
  a_table = function() redis.set("k", {}) end,
  nan = function() redis.set("k", 0 / 0) end,
  no_command = function() redis.pipeline { "GET" } end,
  empty = function() redis.pipeline {} end,
}
function tests.misuse()
  local out = {}
  for name, fn in pairs(MISUSE) do
    local ok, err = pcall(fn)
    out[name] = { ok = ok, code = type(err) == "table" and err.code or nil, text = tostring(err) }
  end
  out.untouched = redis.get("untouched") == nil
  return out
end

function tests.error()
  redis.set("k", "v")
  local value, err = try(redis.lpush, "k", "x")
  return { value = value == nil, code = err.code, message = err.message, retryable = err.retryable }
end

function tests.cut()
  local before = redis.client("ID")
  return { id = before }
end

function tests.together()
  local seen = {}
  for i = 1, 200 do seen[i] = redis.incr("shared") end
  return { last = seen[200] }
end

function tests.coroutines()
  local fetch = coroutine.wrap(function()
    coroutine.yield(redis.set("c", 1))
    coroutine.yield(redis.incr("c"))
  end)
  return { fetch(), fetch() }
end

routes:get("/:name", function(req) return tests[req.params.name]() end)
return routes
]==]

describe("chowk.redis", function()
  local s

  setup(function() s = server.start { app = APP } end)
  teardown(function() s:stop() end)

  local function ask(name)
    local answer = s:get("/" .. name)
    assert.equal(200, answer.status, answer.body .. s:log())
    return answer.json
  end

  it("gives every type of reply its Lua type", function()
    local r = ask "types"
    assert.same({ "OK", "v", "v", "v" }, { r.status, r.value, r.method, r.called })
    assert.same({ 1, "9007199254740993", true }, { r.integer, r.big, r.missing })
    assert.same({ "PONG", "PONG" }, { r.ping, r.method_ping })
    assert.same({ 1, true, "x", 2, "100000000000000" }, { r.first, r.hole, r.third, r.nested, r.exact })
  end)

  it("writes numbers so that they read back", function()
    assert.same({ "1", "1.5", "0.1", "123456789012345", "9007199254740991", "-3", "1e+21" }, ask("numbers").items)
  end)

  it("is binary safe", function() assert.same({ same = true, len = 262 }, ask "bytes") end)

  it("returns a pipeline's replies in order, errors in their place", function()
    local wrong = "WRONGTYPE Operation against a key holding the wrong kind of value"
    assert.same({ "OK", "redis_error", wrong, true, 2, "2" }, ask "pipeline")
  end)

  it("refuses what would disturb the shared connection, with advice", function()
    local r = ask "misuse"
    for _, name in ipairs { "multi", "select", "in_pipeline" } do
      assert.is_false(r[name].ok)
      assert.equal("refused", r[name].code)
    end
    assert.truthy(r.multi.text:find("redis.multi", 1, true))
    assert.truthy(r.select.text:find("redis.url", 1, true))
    assert.is_true(r.untouched)
  end)

  it("names file and line of a bad argument", function()
    local r = ask "misuse"
    for name, text in pairs {
      no_value = "redis SET: argument 2 must be a string, a number or raw JSON, got nil",
      a_table = "got table (write json.encode(t))", nan = "got a number that is not finite",
      no_command = 'item 1 must be a command such as {"GET", key}', empty = "expected a list of 1..10000 commands",
    } do
      assert.is_false(r[name].ok)
      assert.truthy(r[name].text:find("^app%.lua:%d+: "), r[name].text)
      assert.truthy(r[name].text:find(text, 1, true), r[name].text)
    end
  end)

  it("raises what Redis says, for `try` to catch", function()
    local r = ask "error"
    assert.same({ true, "redis_error", false }, { r.value, r.code, r.retryable })
    assert.truthy(r.message:find "^WRONGTYPE ")
  end)

  it("waits inside a user's coroutine", function() assert.same({ "OK", 2 }, ask "coroutines") end)

  it("shares one connection among requests without mixing replies", function()
    local requests = {}
    for i = 1, 20 do requests[i] = { "GET", "/together" } end
    local last = 0
    for _, answer in ipairs(s:parallel(requests)) do
      assert.equal(200, answer.status)
      last = math.max(last, answer.json.last)
    end
    assert.equal(4000, last)
    assert.equal("4000", s:redis "get shared")
  end)

  it("heals when the connection is cut", function()
    local id = ask("cut").id
    s:redis("client kill id " .. id)
    server.eventually("a new connection", function()
      local answer = s:get("/cut")
      return answer.status == 200 and answer.json.id ~= id
    end)
  end)
end)
