-- The connection to Redis that all requests share: no command of one of them may reach another (T1).
local server = require "spec.support.server"

local APP = [==[
local app, redis = require "chowk.app", require "chowk.redis"
local routes = app.routes()
routes:get("/neighbour/:id", {}, function(req)
  local id = req.params.id
  redis.set("k" .. id, id)
  return { id = redis.get("k" .. id), n = redis.incr("n") }
end)
routes:post("/run", {}, function(req)
  local words = {}
  for word in req:body():gmatch("%S+") do words[#words + 1] = word end
  local ok, err = pcall(redis.call, unpack(words))
  local piped, why = pcall(redis.pipeline, { { "SET", "untouched", 1 }, words })
  local multi, because = pcall(redis.multi, { { "SET", "untouched", 1 }, words })
  return { code = not ok and err.code, message = not ok and err.message, pipeline = not piped and why.code,
    multi = not multi and because.code }
end)
routes:get("/id", {}, function() return { id = redis.client("ID"), untouched = redis.get("untouched") } end)
return routes
]==]

local REFUSED = { "SELECT 3", "WATCH k1", "UNWATCH", "MULTI", "EXEC", "DISCARD", "SUBSCRIBE c", "UNSUBSCRIBE",
  "PSUBSCRIBE c*", "PUNSUBSCRIBE", "SSUBSCRIBE c", "SUNSUBSCRIBE", "MONITOR", "SYNC", "PSYNC ? -1", "REPLCONF ACK 1",
  "QUIT", "RESET", "HELLO 3", "AUTH x", "READONLY", "READWRITE", "ASKING", "CLIENT REPLY OFF", "CLIENT REPLY SKIP",
  "CLIENT NO-EVICT on", "CLIENT TRACKING on", "CLIENT PAUSE 1000", "CLIENT SETNAME other", "CLIENT KILL TYPE normal",
  "client  reply off", "select 3", "WAIT 1 0", "SHUTDOWN", "SAVE", "DEBUG SLEEP 1", "SCRIPT DEBUG YES" }

describe("the shared Redis connection", function()
  local s
  local n = 0

  setup(function() s = server.start { app = APP, config = { workers = 1 } } end)
  teardown(function() s:stop() end)

  for _, command in ipairs(REFUSED) do
    it("refuses, with 100 neighbours in flight: " .. command, function()
      local before, calls = s:get("/id").json, {}
      for i = 1, 100 do calls[i] = { "GET", "/neighbour/" .. i } end
      table.insert(calls, 51, { "POST", "/run", { body = command } })
      local answers, seen = s:parallel(calls), {}
      local refused = table.remove(answers, 51).json
      assert.same({ "refused", "refused", "refused" }, { refused.code, refused.pipeline, refused.multi }, command)
      assert.truthy(#refused.message > #command + 20, refused.message) -- it says why, and what to write
      for i, answer in ipairs(answers) do
        assert.equal(200, answer.status, answer.body)
        assert.equal(tostring(i), answer.json.id)
        seen[answer.json.n] = true
      end
      for i = n + 1, n + 100 do assert.is_true(seen[i], i .. " is missing") end
      n = n + 100
      assert.same({ id = before.id }, s:get("/id").json) -- the same connection, in the same state
    end)
  end
end)
