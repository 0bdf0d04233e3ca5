-- Sentinel, as clients must use it: three real sentinels, a primary, two replicas, and failovers under load.
local server = require "spec.support.server"
local redis = require "spec.support.redis"
local socket = require "socket"

local APP = [==[
local app, redis = require "chowk.app", require "chowk.redis"
local routes = app.routes()
local gaps, heard = 0, 0

app.on_start(function()
  redis.subscribe("news", function(message)
    if message.gap then gaps = gaps + 1 else heard = heard + 1 end
  end)
end)

routes:get("/where", function()
  return { port = redis.config("GET", "port")[2], role = redis.role()[1], gaps = gaps, heard = heard }
end)
routes:get("/work", { deadline = "3s" }, function()
  local number = redis.incr("counter")
  return { number = number, read = try(redis.get, "counter") }
end)
routes:get("/pop", { deadline = "2s" }, function() return { redis.blpop("nothing", 1) == nil } end)
routes:get("/publish", function() return { redis.publish("news", "x") } end)
return routes
]==]

local LOGIN = "--requirepass hush --masterauth hush"

describe("Sentinel", function()
  local s, nodes, sentinels
  local may_be_done = 0 -- increments acknowledged, and those of which nobody can know

  setup(function()
    nodes = { redis.start { args = LOGIN, cli = "--no-auth-warning -a hush" } }
    for i = 2, 3 do
      nodes[i] = redis.start { args = LOGIN .. " --replicaof 127.0.0.1 " .. nodes[1].port, cli = nodes[1].cli_args }
    end
    server.eventually("replicas in step", function()
      return select(2, nodes[1]:cli("info replication"):gsub("state=online", "")) == 2
    end)
    sentinels = redis.sentinels(nodes[1], 3, { cli = "-a watch --no-auth-warning",
      config = "sentinel auth-pass shop hush\nrequirepass watch\nsentinel sentinel-pass watch\n" })
  end)
  teardown(function()
    if s then s:stop() end
    redis.stop_all()
  end)

  -- The first host named is dead: the next is tried, and knows the third.
  local function url(name)
    return "redis+sentinel://:hush@127.0.0.1:" .. server.free_port() .. ",127.0.0.1:" .. sentinels[1].port .. "/"
      .. (name or "shop") .. "/0?sentinel_password=watch"
  end
  local function node_at(port)
    for _, node in ipairs(nodes) do
      if node.port == tonumber(port) then return node end
    end
  end
  local function count(answer)
    local is_unknown = answer.status == 503 and answer.json.code == "outcome_unknown"
    may_be_done = may_be_done + ((answer.status == 200 or is_unknown) and 1 or 0)
  end
  local function is_healed()
    local answer = s:get("/work", { timeout = 10 })
    count(answer)
    return answer.status == 200
  end
  -- A primary that dies may take acknowledged writes with it (they are copied later); it may not make more of them.
  local function assert_none_doubled()
    local answer = s:get("/work")
    count(answer)
    assert.truthy(answer.json.number <= may_be_done, answer.json.number .. " of " .. may_be_done .. " were done")
  end

  -- Requests one after the other from here, each answered within its deadline, until `fn` says so.
  local function under_load(fn)
    local statuses, slowest, until_ms = {}, 0, socket.gettime() + 30
    repeat
      local from = socket.gettime()
      local requests = {}
      for i = 1, 10 do requests[i] = { "GET", "/work" } end
      requests[11] = { "GET", "/pop" }
      for i, answer in ipairs(s:parallel(requests, 10)) do
        if i <= 10 then count(answer) end
        statuses[answer.status] = (statuses[answer.status] or 0) + 1
      end
      slowest = math.max(slowest, socket.gettime() - from)
    until fn() or socket.gettime() > until_ms
    return statuses, slowest
  end

  it("leads to the primary", function()
    s = server.start { app = APP, redis_url = url() }
    local where = s:get("/where").json
    assert.same({ tostring(nodes[1].port), "master" }, { where.port, where.role })
    assert.is_true(is_healed())
    assert.equal(0, where.gaps)
  end)

  it("follows a failover that the sentinels were asked for", function()
    assert.equal("OK", sentinels[1]:cli("sentinel failover shop"))
    local statuses, slowest = under_load(function()
      local answer = s:get("/where")
      return answer.status == 200 and answer.json.port ~= tostring(nodes[1].port) and answer.json.role == "master"
    end)
    assert.is_true(slowest < 6, "slowest " .. slowest)
    for status in pairs(statuses) do assert.truthy(status == 200 or status == 503, status) end
    server.eventually("work again", is_healed)
    assert_none_doubled()
    server.eventually("the subscriber knows of the gap", function() return s:get("/where").json.gaps >= 1 end)
    local heard = s:get("/where").json.heard
    server.eventually("the subscriber hears again", function()
      s:get "/publish"
      return s:get("/where").json.heard > heard
    end)
  end)

  it("survives the death of the primary, and of the sentinel that was asked", function()
    server.eventually("a settled set", function() -- the old primary has become a replica
      local text = sentinels[2]:cli("sentinel master shop")
      return text:find("num%-slaves\n2") and not text:find("failover_in_progress", 1, true)
        and select(2, node_at(s:get("/where").json.port):cli("info replication"):gsub("state=online", "")) == 2
    end, 60)
    local before = s:get("/where").json.port
    local dead = node_at(before)
    dead:kill()
    local statuses, slowest = under_load(function()
      local answer = s:get("/where", { timeout = 10 })
      return answer.status == 200 and answer.json.port ~= before and answer.json.role == "master"
    end)
    assert.is_true(slowest < 6, "slowest " .. slowest)
    for status in pairs(statuses) do assert.truthy(status == 200 or status == 503, status) end
    server.eventually("work again", is_healed)
    assert_none_doubled()
    sentinels[1]:kill() -- the others are known from it
    local id = node_at(s:get("/where").json.port)
    id:cli("client kill type normal skipme yes")
    server.eventually("reconnected through another sentinel", is_healed)
    assert.is_true(s:is_alive())
  end)

  it("says whether the sentinels are away or do not know the name", function()
    local unknown = url("nobody"):gsub(tostring(sentinels[1].port), sentinels[2].port)
    local other = server.start { app = APP, redis_url = unknown }
    local answer = other:get("/work")
    assert.equal(503, answer.status)
    assert.truthy(other:logged('name unknown: no sentinel knows a primary "nobody"'), other:log())
    other:stop()
    other = server.start { app = APP, redis_url = "redis+sentinel://127.0.0.1:" .. server.free_port() .. "/shop" }
    assert.equal(503, other:get("/work").status)
    assert.truthy(other:logged("sentinels unreachable"), other:log())
    other:stop()
    other = server.start { app = APP, redis_url = "redis+sentinel://127.0.0.1:" .. sentinels[2].port .. "/shop" }
    assert.equal(503, other:get("/work").status)
    assert.truthy(other:logged("NOAUTH"), other:log())
    other:stop()
  end)
end)
