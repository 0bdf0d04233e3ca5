-- Commands that wait inside Redis, in a real server: on connections of their own, within the deadline.
local server = require "spec.support.server"
local socket = require "socket"

local APP = [==[
local app, redis, task = require "chowk.app", require "chowk.redis", require "chowk.task"
local routes = app.routes()

app.on_start(function()
  task.spawn(function() -- without a deadline, for ever
    while true do
      local item = redis.blpop("work", 0)
      redis.rpush("done", item[2])
    end
  end)
end)

routes:get("/quick", function() return { redis.ping() } end)
routes:get("/pop/:key/:timeout", { deadline = "2s" }, function(req)
  local item = redis.blpop(req.params.key, req.params.timeout)
  return { got = item and item[2], none = item == nil }
end)
routes:get("/push/:key/:value", function(req) -- once somebody waits besides the task above
  while tonumber(redis.info("clients"):match("blocked_clients:(%d+)")) < 2 do task.sleep("5ms") end
  return { redis.rpush(req.params.key, req.params.value) }
end)
routes:get("/short/:key", { deadline = "300ms" }, function(req)
  return { got = redis.blpop(req.params.key, 0) }
end)
routes:get("/zpop", function()
  return { redis.bzpopmin("z", 0.05) == nil, redis.blmpop(0.05, 1, "l", "LEFT") == nil }
end)
routes:get("/stream", function()
  local id = redis.xadd("s", "*", "field", "value")
  local seen = redis.xread("BLOCK", 100, "STREAMS", "s", "0")
  return { seen[1][2][1][1] == id, redis.xread("BLOCK", 50, "STREAMS", "s", "$") == nil }
end)
routes:get("/misuse", function()
  local out = {}
  for i, fn in ipairs { function() redis.blpop("l") end, function() redis.blpop("l", "x") end,
    function() redis.pipeline { { "GET", "a" }, { "BLPOP", "l", 0 } } end } do
    local _, err = try(fn)
    out[i] = { err.code, err.message }
  end
  return out
end)
return routes
]==]

describe("blocking redis commands", function()
  local s

  setup(function()
    s = server.start { app = APP, config = { jobs = { workers = 0 }, redis = { blocking_connections = 3 } } }
  end)
  teardown(function() s:stop() end)

  it("give nil when nothing came, beside the others", function()
    local answers = s:parallel { { "GET", "/pop/slow/1" }, { "GET", "/quick" }, { "GET", "/quick" } }
    assert.same({ 200, 200, 200 }, { answers[1].status, answers[2].status, answers[3].status })
    assert.is_true(answers[1].json.none)
  end)

  it("get what comes while they wait, and hold nobody up", function()
    local answers = s:parallel { { "GET", "/pop/queue/1.9" }, { "GET", "/push/queue/item" } }
    assert.equal("item", answers[1].json.got, answers[1].body)
    s:redis "rpush work a b c"
    server.eventually("the task of on_start", function()
      return s:redis "llen done" == "3"
    end)
    assert.equal("a\nb\nc", s:redis "lrange done 0 -1")
  end)

  it("end just before the deadline, so that nothing is popped for nobody", function()
    for _ = 1, 5 do
      local answer = s:get("/short/lost")
      assert.equal(503, answer.status, answer.body)
      assert.truthy(answer.body:find("deadline", 1, true), answer.body)
    end
    s:redis "rpush lost kept"
    socket.sleep(0.1)
    assert.equal("1", s:redis "llen lost")
  end)

  it("queue for the few connections there are", function()
    local requests = {}
    for i = 1, 8 do requests[i] = { "GET", "/pop/crowd/1.5" } end
    for i = 1, 8 do s:redis("rpush crowd " .. i) end
    local seen = {}
    for _, answer in ipairs(s:parallel(requests)) do
      assert.equal(200, answer.status, answer.body)
      seen[answer.json.got] = true
    end
    for i = 1, 8 do assert.is_true(seen[tostring(i)]) end
    local clients = select(2, s:redis("client list"):gsub("name=chowk", ""))
    assert.is_true(clients <= 2 + 3, clients .. " connections") -- shared, cache news, three
  end)

  it("know every form of timeout", function()
    assert.same({ true, true }, s:get("/zpop").json)
    assert.same({ true, true }, s:get("/stream").json)
  end)

  it("are refused clearly", function()
    local r = s:get("/misuse").json
    assert.same({ "redis_error", "redis_error", "refused" }, { r[1][1], r[2][1], r[3][1] })
    assert.truthy(r[2][2]:find("timeout", 1, true), r[2][2])
    assert.truthy(r[3][2]:find("call it alone", 1, true), r[3][2])
  end)
end)
