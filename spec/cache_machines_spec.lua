-- chowk.cache over workers, machines and Redis: one load per key and machine, one forget for all, whoever dies.
local fixture = require "spec.support.cache"
local server = require "spec.support.server"
local redis = require "spec.support.redis"
local exposition = require "spec.support.exposition"
local holder = require "spec.support.holder"
local http = require "spec.support.http"
local proxy = require "spec.support.proxy"
local socket = require "socket"

local eventually = server.eventually
local start, v = fixture.start, fixture.v
local n_loads, await_loads = fixture.n_loads, fixture.await_loads
local open_gate, close_gate = fixture.open_gate, fixture.close_gate

describe("chowk.cache over workers and machines", function()
  local a, b, node, n_processes

  setup(function()
    node = redis.start { args = "--appendonly yes --appendfsync no" } -- what it holds survives its death
    a = start { workers = 4, redis_url = node:url() }
    b = start { workers = 2, redis_url = node:url() }
  end)
  teardown(function()
    a:stop()
    b:stop()
    redis.stop_all()
  end)

  it("runs one loader for a thousand misses", function()
    close_gate(a, "one")
    local first, others = a:begin("GET", "/things/t1?gate=one"), {}
    await_loads(a, "t1", 1)
    for i = 1, 1000 do others[i] = a:begin("GET", "/things/t1") end
    eventually("all of them wait", function() return a:get("/stats").json.misses_l1 >= 1001 end)
    open_gate(a, "one")
    assert.equal(200, first().status)
    for i = 1, 1000 do assert.equal(200, others[i]().status) end
    assert.equal(1, n_loads(a, "t1"))
  end)

  it("lets none of a thousand wait while one loads what has gone stale", function()
    local list = {}
    assert.equal(0, v(a, "t14", "?ttl=0.05&stale=600"))
    a:post("/raw/t14", { json = { v = 1 } })
    socket.sleep(0.06)                -- the ttl itself
    close_gate(a, "stale")
    for i = 1, 1000 do list[i] = { "GET", "/things/t14?ttl=600&stale=600&gate=stale" } end
    for _, answer in ipairs(a:parallel(list)) do assert.same({ 200, 0 }, { answer.status, answer.json.v }) end
    eventually("a load", function() return n_loads(a, "t14") >= 2 end) -- which the gate still holds
    open_gate(a, "stale")
    eventually("the new value", function() return v(a, "t14") == 1 end)
    -- A second one, not one a reader; a worker that got no core for a second is taken for dead, and overtaken.
    assert.truthy(n_loads(a, "t14") <= 4, n_loads(a, "t14"))
  end)

  it("finds in Redis what another machine has loaded", function()
    assert.equal(0, v(a, "t2"))
    assert.equal(0, v(b, "t2"))       -- b has a database of its own: it did not ask it
    assert.equal(0, n_loads(b, "t2"))
  end)

  it("forgets on the other machine", function()
    assert.equal(0, v(a, "t3"))
    for _ = 1, 8 do assert.equal(0, v(b, "t3")) end
    a:put("/things/t3", { json = { v = 1 } })
    assert.equal(1, v(a, "t3"))
    eventually("the new value on b", function() return v(b, "t3") == 1 end)
    for _ = 1, 8 do assert.equal(1, v(b, "t3")) end
  end)

  it("keeps no old value anywhere when the loader runs on another machine", function()
    close_gate(b, "far")
    local old = b:begin("GET", "/things/t4?gate=far")
    await_loads(b, "t4", 1)
    b:post("/raw/t4", { json = { v = 1 } })
    a:post("/raw/t4", { json = { v = 1 } })
    a:delete("/things/t4")
    open_gate(b, "far")
    assert.equal(0, old().json.v)
    for _, s in ipairs { a, b } do
      for _ = 1, 8 do assert.equal(1, v(s, "t4")) end
    end
  end)

  it("hands the load of a killed worker on", function()
    close_gate(a, "kill")
    n_processes = #a:processes()
    local before = a:get("/stats").json.misses_l1
    local doomed = a:begin("GET", "/things/t5?gate=kill")
    await_loads(a, "t5", 1)
    local waiting = {}
    for i = 1, 40 do waiting[i] = a:begin("GET", "/things/t5") end
    eventually("they wait", function() return a:get("/stats").json.misses_l1 >= before + 41 end)
    assert.truthy(a:logged(": loading t5"))
    local worker = tonumber(a:log():match("worker (%d+): loading t5")) -- they were started in this order
    server.sh("kill -9 " .. a:processes()[worker + 1])
    assert.equal(0, doomed().status)
    local n_ok = 0
    for i = 1, 40 do if waiting[i]().status == 200 then n_ok = n_ok + 1 end end
    assert.truthy(n_ok > 0, "nobody was answered") -- though the gate is still closed to the one who died
    assert.equal(0, v(a, "t5"))
    eventually("its claim is gone", function() return a:get("/stats").json.in_flight == 0 end)
    open_gate(a, "kill")
  end)

  it("hands on at once what somebody was to load who goes away", function()
    local p = proxy.start("127.0.0.1:" .. node.port)
    local c = start { workers = 1, redis_url = "redis://127.0.0.1:" .. p.port }
    finally(function() c:stop() p:stop() end)
    local function in_flight() return c:get("/stats").json.in_flight end
    assert.equal(0, v(c, "t20"))      -- the connection and its scripts are there
    eventually("nothing under way", function() return in_flight() == 0 end)
    p:tell("halve thing:t30")         -- of three answers one arrives: the order to load
    local _, sock = c:begin("GET", "/many?ids=t30,t31,t32")
    eventually("half an answer", function() return p:tell("trapped") == "1" end)
    sock:setoption("linger", { on = true, timeout = 0 }) -- a reset, not a half-close, before Redis is given up
    sock:close()
    eventually("nothing under way", function() return in_flight() == 0 end)
  end)

  it("stalls nobody when a process dies, or stands still, with all its locks in hand", function()
    local c = start { workers = 2 }
    finally(function() c:stop() end)
    local function all_answer()
      for i = 1, 50 do assert.equal(0, v(c, "t" .. i)) end
    end
    local function figure(name) return c:get("/stats").json[name] end
    all_answer()
    assert.truthy(holder.die(c, "chowk-cache") > 0)
    all_answer()                      -- its parts are emptied, and filled anew
    assert.truthy(figure "orphaned_shards" > 0)
    local held = holder.stop(c, "chowk-cache")
    assert.truthy(held.n_locks > 0)
    all_answer()                      -- a lock that is not had in time is a miss
    assert.truthy(figure "busy_locks" > 0)
    held:kill()
    all_answer()
    local n = figure "loads"
    all_answer()
    assert.equal(n, figure "loads")   -- and it keeps what it is given once more
  end)

  it("answers the operator", function()
    local function chowk(args)
      return server.sh("cd " .. a.dir .. " && " .. os.getenv "CHOWK" .. " cache " .. args)
    end
    assert.equal(0, v(a, "t10", "?tag=cli"))
    assert.equal(0, v(a, "t11", "?tag=cli"))
    local out, code = chowk("")
    assert.equal(0, code, out)
    assert.truthy(out:find("\nloads +%d+\n") and out:find("\nl2 +yes\n"), out)
    assert.truthy(chowk("stats --json"):find('^{"hits_l1":%d+,'))
    for _, id in ipairs { "t10", "t11" } do
      for _, s in ipairs { a, b } do s:post("/raw/" .. id, { json = { v = 1 } }) end
    end
    out, code = chowk("purge thing:t10")
    assert.same({ "purged\n", 0 }, { out, code })
    assert.equal(1, v(a, "t10", "?tag=cli"))
    assert.equal(0, v(a, "t11", "?tag=cli"))
    chowk("purge --tag cli")
    assert.equal(1, v(a, "t11", "?tag=cli"))
    for _, s in ipairs { a, b } do s:post("/raw/t11", { json = { v = 2 } }) end
    chowk("purge --all")
    assert.equal(2, v(a, "t11", "?tag=cli"))
    eventually("b has heard of it", function() return v(b, "t11", "?tag=cli") == 2 end)
    for _, wrong in ipairs { "purge", "purge --all x", "purge --tag", "drop", "stats x" } do
      out, code = chowk(wrong)
      assert.equal(2, code, wrong .. ": " .. out)
    end
    assert.equal(1, select(2, chowk("purge --tag 'a b'")))
  end)

  it("is counted by layer", function()
    local function metric(name, labels)
      local text = http.request("127.0.0.1", a.admin_port, "GET", "/metrics").body
      return exposition.value(exposition.parse(text), name, labels) or 0
    end
    assert.equal(0, v(b, "t13"))
    assert.equal(0, v(a, "t13"))   -- from where b put it
    eventually("the figures", function()
      return metric("cache_lookups_total", { layer = "l1", result = "miss" }) > 0
        and metric("cache_lookups_total", { layer = "l2", result = "hit" }) > 0
        and metric("cache_loads_total", { result = "ok" }) > 0 and metric("cache_l1_items") > 0
    end)
    local stats = a:get("/stats").json -- the memory is one, however many workers there are
    assert.equal(stats.bytes, metric("cache_l1_bytes"))
  end)

  it("goes on without Redis, and forgets what it missed", function()
    eventually("the workers are back", function() return #a:processes() == n_processes end)
    assert.equal(0, v(a, "t6"))
    assert.equal(0, v(b, "t6"))
    assert.equal(0, v(b, "t7"))
    node:signal("STOP")               -- it accepts, and says nothing
    assert.equal(0, v(a, "t12"))
    assert.equal(204, a:delete("/things/t12").status)
    node:signal("CONT")
    node:kill()
    assert.equal(0, v(a, "t6"))       -- L1
    assert.equal(0, v(a, "t8"))       -- the loader
    assert.equal(204, a:put("/things/t6", { json = { v = 1 } }).status)
    assert.equal(1, v(a, "t6"))
    assert.equal(204, a:delete("/things/t8").status)
    assert.equal(0, v(b, "t7"))
    node:start()                      -- with the old t6
    b:post("/raw/t6", { json = { v = 1 } })
    eventually("b has heard of it", function() return v(b, "t6") == 1 end)
    for _ = 1, 8 do assert.equal(1, v(a, "t6")) end
    eventually("no record is left", function() return a:sql("SELECT count(*) AS n FROM cache_forget")[1].n == 0 end)
  end)
end)
