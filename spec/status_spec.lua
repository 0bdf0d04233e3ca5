-- `chowk status`: a table for people, JSON for programs, and a clear word when there is nothing to show.
local server = require "spec.support.server"
local json = require "dkjson"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app, pg, redis = require "chowk.app", require "chowk.pg", require "chowk.redis"
local routes = app.routes()
routes:get("/", function() return { n = pg.value("SELECT 1"), m = redis.incr("n") } end)
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
      return out:find("worker 1 +%d+  serving") and out:find("all +%d+ +%d+%.%d")
        and out:find("redis +[23] connected")
    end)
    assert.equal(0, code)
    assert.truthy(out:find("^chowk %d[^\n]+ development  http://127%.0%.0%.1:" .. s.port .. "  ready\n"), out)
    assert.truthy(out:find("\n  master      pid " .. s.pid .. ", up %d+ s\n"), out)
    assert.truthy(out:find("\n  generation  1 %(%x+%), %d+ s old\n"), out)
    assert.truthy(out:find("\n  reloads     0 ok, 0 failed\n"), out)
    assert.truthy(out:find("\n  worker 0 +%d+  serving +%d+ s +1 +%d+ +%d+%.%d .- ms .- MiB +%d+%.%d MiB\n"), out)
    assert.truthy(out:find("postgresql  %d+ idle and %d+ busy connections"), out)
    assert.falsy(out:find("\027", 1, true))
    assert.falsy(out:find(" \n", 1, true))
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
