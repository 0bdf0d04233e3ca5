-- redis.subscribe in a real server: messages, patterns, slow readers, interruptions.
local server = require "spec.support.server"

local APP = [==[
local app, redis, task = require "chowk.app", require "chowk.redis", require "chowk.task"
local routes = app.routes()
local seen, gaps, subs = {}, 0, {}

app.on_start(function()
  redis.subscribe("news", function(message)
    if message.gap then gaps = gaps + 1 return end
    if message.payload == "boom" then error "a bug" end
    seen[#seen + 1] = message.payload
  end)
end)

routes:get("/seen", function() return { seen = seen, gaps = gaps } end)
routes:get("/publish/:channel/:text", function(req) return { redis.publish(req.params.channel, req.params.text) } end)

routes:get("/patterns", function()
  local sub = redis.psubscribe({ "order.*", "user.?" })
  redis.publish("order.1", "paid")
  redis.publish("other", "no")
  redis:publish("user.7", "in")
  local first, second = sub:next("1s"), sub:next(1)
  local none = sub:next(0.05)
  sub:close()
  return { first.channel, first.payload, first.pattern, second.channel, second.pattern, none == nil }
end)

routes:get("/iterate", function()
  local sub, out = redis.subscribe { "a", "b" }, {}
  redis.publish("a", 1)
  redis.publish("b", 2)
  redis.publish("a", "end")
  for message in sub:messages() do
    if message.payload == "end" then break end
    out[#out + 1] = message.channel .. message.payload
  end
  task.spawn(function() sub:close() end)
  out[3] = sub:next() == nil -- closed by another while it waits
  local ok, text = pcall(sub.next, sub)
  out[4] = { ok, text }
  return out
end)

routes:get("/slow", function()
  local sub = redis.subscribe("flood", nil, { max_messages = 10 })
  local list = {}
  for i = 1, 11 do list[i] = { "PUBLISH", "flood", i } end
  redis.pipeline(list)
  task.sleep("50ms")
  local value, err = try(sub.next, sub)
  local again = select(2, try(sub.next, sub, 1))
  return { value == nil, err.code, err.message, again.code }
end)

routes:get("/open", function() subs[#subs + 1] = redis.subscribe("gone") return {} end)
routes:get("/next", function()
  local message = subs[1]:next("2s")
  return { gap = message and message.gap, payload = message and message.payload }
end)
routes:get("/close", function() subs[1]:close() subs = {} return {} end)
return routes
]==]

describe("redis.subscribe", function()
  local s

  setup(function() s = server.start { app = APP } end)
  teardown(function() s:stop() end)

  local function ask(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body .. s:log())
    return answer.json
  end
  local function n_listeners(channel) return tonumber(s:redis("pubsub numsub " .. channel):match("%d+$")) end

  it("calls a function for each message, and outlives its bugs", function()
    server.eventually("a listener", function() return n_listeners "news" >= 1 end)
    s:redis "publish news one"
    s:redis "publish news boom"
    s:redis "publish news two"
    server.eventually("both messages", function() return #ask("/seen").seen == 2 end)
    assert.same({ "one", "two" }, ask("/seen").seen)
    assert.truthy(s:logged("a bug"))
  end)

  it("sees what is published after it returned, by pattern too", function()
    assert.same({ "order.1", "paid", "order.*", "user.7", "user.?", true }, ask "/patterns")
  end)

  it("iterates, and ends when closed", function()
    local r = ask "/iterate"
    assert.same({ "a1", "b2", true }, { r[1], r[2], r[3] })
    assert.is_false(r[4][1])
    assert.truthy(r[4][2]:find("subscription is closed", 1, true), r[4][2])
    server.eventually("no listener left", function() return n_listeners "a" == 0 end)
  end)

  it("drops a reader that is too slow", function()
    local r = ask "/slow"
    assert.same({ true, "queue_full", "queue_full" }, { r[1], r[2], r[4] })
    assert.truthy(r[3]:find("too slow", 1, true))
    server.eventually("it was unsubscribed", function() return n_listeners "flood" == 0 end)
  end)

  it("subscribes again after an interruption, and says that there was a gap", function()
    ask "/open"
    local gaps = ask("/seen").gaps
    s:redis "client kill type pubsub"
    server.eventually("both listen again", function() return n_listeners "gone" == 1 and n_listeners "news" >= 1 end)
    assert.is_true(ask("/next").gap)
    s:redis "publish gone back"
    assert.equal("back", ask("/next").payload)
    server.eventually("the other was told too", function() return ask("/seen").gaps > gaps end)
    ask "/close"
  end)
end)
