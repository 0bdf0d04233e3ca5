-- redis.multi and redis.script in a real server: all or nothing, nobody in between, and scripts that Redis forgets.
local server = require "spec.support.server"

local APP = [==[
local app, redis = require "chowk.app", require "chowk.redis"
local routes = app.routes()
local take = redis.script [[
  local left = tonumber(redis.call("GET", KEYS[1]) or "0")
  if left < tonumber(ARGV[1]) then return false end
  return redis.call("DECRBY", KEYS[1], ARGV[1]) ]]
local tests = {}

function tests.multi()
  local list = redis.multi { { "SET", "a", 1 }, { "INCR", "a" }, { "GET", "nothing" }, { "LPUSH", "a", "x" } }
  local recorded = redis.multi(function(m)
    m.set("b", "x")
    m:append("b", "y")
    m.call("GET", "b")
  end)
  return { list[1], list[2], list[3] == nil, list[4].code, list[4].message, recorded[2], recorded[3],
    #redis:multi(function() end) }
end

function tests.multi_refused()
  local out = {}
  for name, list in pairs {
    unknown = { { "SET", "never", 1 }, { "NOSUCHCOMMAND" } }, watch = { { "WATCH", "k" } },
    blocks = { { "BLPOP", "l", 0 } },
  } do
    local value, err = try(redis.multi, list)
    out[name] = { value = value == nil, code = err.code, message = err.message }
  end
  out.never = redis.get("never") == nil
  out.direct = select(2, try(redis.watch, "k")).message
  local ok, text = pcall(redis.multi, function(m) m.set("k", nil) end)
  out.nil_argument = { ok, text }
  return out
end

-- Two counters that must never be seen apart, under other requests' commands.
function tests.together()
  local apart = 0
  for _ = 1, 50 do
    redis.multi { { "INCR", "left" }, { "INCR", "right" } }
    local seen = redis.multi { { "GET", "left" }, { "GET", "right" } }
    if seen[1] ~= seen[2] then apart = apart + 1 end
  end
  return { apart = apart }
end

function tests.script()
  redis.set("stock", 5)
  local out = { take({ "stock" }, 2), take({ "stock" }, 3), take({ "stock" }, 1) == nil }
  redis.call("SCRIPT", "FLUSH")
  redis.set("stock", 10)
  out[4] = take({ "stock" }, 1)
  redis.call("SCRIPT", "FLUSH")
  local list = redis.pipeline {
    { "SET", "stock", 20 }, { take, { "stock" }, 5 }, { take, { "stock" }, 5 }, { "GET", "stock" },
  }
  redis.call("SCRIPT", "FLUSH")
  local both = redis.multi { { take, { "stock" }, 4 }, { "GET", "stock" } }
  out[5] = { list[1], list[2], list[3], list[4], both[1], both[2] }
  local value, err = try(redis.script "return redis.call('NOSUCH')", {})
  out[6] = { value == nil, err.code }
  out[7] = redis.script("return {KEYS[2], ARGV[1]}")({ "x", "y" }, 0.5)
  return out
end

function tests.script_misuse()
  local out = {}
  for i, fn in ipairs { function() redis.script() end, function() take("stock", 1) end,
    function() take({ "k" }, {}) end, function() redis.pipeline { { take, "stock" } } end } do
    local ok, text = pcall(fn)
    out[i] = { ok, text }
  end
  return out
end

routes:get("/:name", function(req) return tests[req.params.name]() end)
return routes
]==]

describe("redis.multi and redis.script", function()
  local s

  setup(function() s = server.start { app = APP } end)
  teardown(function() s:stop() end)

  local function ask(name)
    local answer = s:get("/" .. name)
    assert.equal(200, answer.status, answer.body .. s:log())
    return answer.json
  end

  it("runs a transaction as one batch, errors in their place", function()
    local wrong = "WRONGTYPE Operation against a key holding the wrong kind of value"
    assert.same({ "OK", 2, true, "redis_error", wrong, 2, "xy", 0 }, ask "multi")
  end)

  it("runs none when one is refused, by Redis or by us", function()
    local r = ask "multi_refused"
    assert.same({ true, "redis_error" }, { r.unknown.value, r.unknown.code })
    assert.truthy(r.unknown.message:find("NOSUCHCOMMAND", 1, true), r.unknown.message)
    assert.is_true(r.never)
    assert.equal("refused", r.watch.code)
    assert.truthy(r.watch.message:find("redis.script", 1, true) and r.direct:find("redis.script", 1, true))
    assert.equal("refused", r.blocks.code)
    assert.is_false(r.nil_argument[1])
    assert.truthy(r.nil_argument[2]:find("^app%.lua:%d+: redis SET: argument 2 is nil"), r.nil_argument[2])
  end)

  it("lets nobody in between", function()
    local requests = {}
    for i = 1, 20 do requests[i] = { "GET", "/together" } end
    for _, answer in ipairs(s:parallel(requests)) do
      assert.equal(200, answer.status, answer.body)
      assert.equal(0, answer.json.apart)
    end
    assert.equal("1000", s:redis "get left")
  end)

  it("sends scripts by hash, and by text when Redis forgot them", function()
    local r = ask "script"
    assert.same({ 3, 0, true, 9 }, { r[1], r[2], r[3], r[4] })
    assert.same({ "OK", 15, 10, "10", 6, "6" }, r[5])
    assert.same({ true, "redis_error" }, r[6])
    assert.same({ "y", "0.5" }, r[7])
    assert.truthy(tonumber(s:redis("info commandstats"):match("cmdstat_evalsha:calls=(%d+)")) >= 3)
  end)

  it("names file and line of a misused script", function()
    local texts = { "redis.script: expected the script's text, got nil", "expected the list of keys first",
      "redis script: argument 1 must be a string", "a script in a list is { script, { keys… }, args… }" }
    for i, r in ipairs(ask "script_misuse") do
      assert.is_false(r[1])
      assert.truthy(r[2]:find("^app%.lua:%d+: ") and r[2]:find(texts[i], 1, true), r[2])
    end
  end)
end)
