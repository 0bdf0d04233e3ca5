-- `chowk status`: a table for people, JSON for programs, and a clear word when there is nothing to show.
local server = require "spec.support.server"
local jobs = require "spec.support.jobs"
local json = require "dkjson"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app, pg, redis = require "chowk.app", require "chowk.pg", require "chowk.redis"
local routes = app.routes()
routes:get("/", function() return { n = pg.value("SELECT 1"), m = redis.incr("n") } end)
return routes
]]
local BUSY = [[
local app, cache, jobs = require "chowk.app", require "chowk.cache", require "chowk.jobs"
jobs.define("greet", function() end)
local routes = app.routes()
routes:get("/cached", { limit = "few" }, function()
  return cache.fetch("k", { ttl = "1h" }, function() return { v = 1 } end)
end)
routes:post("/greet", function() jobs.enqueue("greet", {}) return "queued" end)
return routes
]]

describe("chowk status", function()
  local s
  local function status(arguments, dir)
    return server.sh(("cd %s && %s status %s"):format(dir or s.dir, CHOWK, arguments or ""))
  end

  after_each(function()
    if s then s:stop() end
    s = nil
  end)

  it("prints a table", function()
    s = server.start { app = APP, config = { workers = 2 } }
    for _ = 1, 20 do assert.equal(200, s:get("/").status) end
    local out, code
    server.eventually("both workers and a rate", function()
      out, code = status()
      return out:find("worker 1 +%d+ +serving") and out:find("all +%d+ +%d+%.%d")
        and out:find("redis +[23] connected")
    end)
    assert.equal(0, code)
    assert.truthy(out:find("^chowk %d[^\n]+ development  http://127%.0%.0%.1:" .. s.port .. "  ready\n"), out)
    assert.truthy(out:find("\n  master      pid " .. s.pid .. ", up %d+ s\n"), out)
    assert.truthy(out:find("\n  generation  1 %(%x+%), %d+ s old\n"), out)
    assert.truthy(out:find("\n  reloads     0 ok, 0 failed\n"), out)
    assert.truthy(out:find("\n  worker 0 +%d+ +serving +%d+ s +1 +%d+ +%d+%.%d .- ms .- MiB +%d+ KiB\n"), out)
    assert.truthy(out:find("\n  postgresql  %d+ of %d+ connections busy, %d+ calls in flight, %d+ waiting;%s+%d+ "),
      out)
    assert.truthy(out:find("\n  process +pid state +up gen busy req/s +p50 +p99 memory +lua\n"), out)
    for row in out:gmatch("[^\n]+") do assert.is_true(#row <= 80, row) end
    assert.falsy(out:find("\027", 1, true))
    assert.falsy(out:find(" \n", 1, true))
  end)

  -- What a look-up, a limit and a job leave behind, in both forms.
  it("shows the cache, the limits and the jobs", function()
    s = jobs.start { app = BUSY, config = {
      workers = 2, limit = { mode = "on", classes = { few = { limit = 5, window = "15m", key = "ip" } } } } }
    for i = 1, 8 do assert.equal(i <= 5 and 200 or 429, s:get("/cached").status) end
    assert.equal(200, s:post("/greet").status)
    local now
    server.eventually("the numbers", function()
      now = json.decode((status("--json")))
      return now.cache.hits_l1 + now.cache.misses >= 5 and now.limits.refused == 3 and now.jobs.completed == 1
    end)
    local hits, misses = now.cache.hits_l1, now.cache.misses -- who waits for another's load has missed too
    assert.truthy(hits >= 1 and misses >= 1 and math.abs(now.cache.hit_ratio - hits / (hits + misses)) < 0.001)
    assert.same({ 1, 1 }, { now.cache.loads, now.cache.items })
    assert.same({ "on", 5, 0, 0 },
      { now.limits.mode, now.limits.allowed, now.limits.reported, now.limits.store_failures })
    assert.same({ 0, 0, 0 }, { now.jobs.running, now.jobs.failed, now.jobs.discarded })
    assert.equal(0, now.http_client.calls + now.mail.sent)
    local out = status()
    assert.truthy(out:find(("\n  cache       %.1f %% hits: %d in memory, 0 in redis, %d missed;\n"):format(
      now.cache.hit_ratio * 100, hits, misses), 1, true), out)
    assert.truthy(out:find("\n  limits      5 allowed, 3 refused, 0 reported (on)\n", 1, true), out)
    assert.truthy(out:find("\n  jobs        0 running; 1 completed, 0 to be tried again, 0 dead\n", 1, true), out)
    assert.truthy(out:find("worker 0 .-\n  worker 1 .-\n  jobs 0 "), out)
  end)

  it("tells programs the same", function()
    s = server.start { app = APP, config = { workers = 2 } }
    for _ = 1, 10 do s:get("/") end
    local out, code = status("--json")
    local now = assert(json.decode(out), out)
    assert.equal(0, code)
    assert.equal(s.pid, now.pid)
    assert.equal(1, now.generation.number)
    assert.truthy(now.requests.total >= 10)
    local names = {}
    for _, process in ipairs(now.processes) do names[process.name] = process end
    assert.truthy(names["worker 0"].pid and names["worker 1"].resident_bytes > 1000000)
  end)

  it("shows a reload that failed, and a worker that died", function()
    s = server.start { app = APP, config = { workers = 1, reload = { watch = false } } }
    local f = io.open(s.dir .. "/app.lua", "w")
    f:write("local x = \n")
    f:close()
    local _, code = server.sh(("cd %s && %s reload"):format(s.dir, CHOWK))
    assert.equal(1, code)
    server.sh("kill -KILL " .. json.decode((status("--json"))).processes[1].pid)
    local out
    server.eventually("both", function()
      out = status()
      return out:find("1 deaths", 1, true)
    end)
    assert.truthy(out:find("\n  reloads     0 ok, 1 failed\n", 1, true), out)
    assert.truthy(out:find("\n +failed %d+ s ago: app.lua:%d"), out)
  end)

  it("says that none runs", function()
    local dir = server.sh("mktemp -d /tmp/chowk-status.XXXXXX"):match("%S+")
    finally(function() server.sh("rm -rf " .. dir) end)
    local out, code = status("", dir)
    assert.equal(1, code)
    assert.truthy(out:find("no chowk serves this directory", 1, true), out)
    out, code = status("--nonsense", dir)
    assert.equal(2, code)
    assert.truthy(out:find("unknown option --nonsense", 1, true), out)
  end)
end)
