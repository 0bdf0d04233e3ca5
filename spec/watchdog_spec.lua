-- What holds a worker's loop is named and ended, what takes its memory is told no, and a crash says where it was; the
-- other workers serve on.
local server = require "spec.support.server"
local socket = require "socket"

local APP = [[
local app, task = require "chowk.app", require "chowk.task"
local routes = app.routes()
routes:get("/", function() return "ok" end)
routes:get("/compiled", function()
  local x = 0
  while true do x = x + 1 end
end)
routes:get("/interpreted", function()
  local t = {}
  while true do t[#t % 100] = pcall(load, "return 1") end
end)
routes:get("/in-c", function() return (("x"):rep(60)):find(("x*"):rep(30) .. "y") and "a" or "b" end)
routes:get("/memory", function()
  local t = {}
  for i = 1, 1e9 do t[i] = { i } end
end)
routes:get("/slow-turn", function()
  local ends = os.clock() + 0.4
  while os.clock() < ends do end
  return "slow"
end)
routes:get("/wait", function() task.sleep(30) return "late" end)
return routes
]]

local STALL = 1.0

describe("a worker", function()
  local s
  before_each(function()
    s = server.start { app = APP, config = { workers = 2, jobs = { workers = 0 },
      worker = { stall = "1s", lua_heap = "48MiB", slow_turn = "100ms" } } }
  end)
  after_each(function() s:stop() end)

  local function pids()
    return table.concat(s:processes "--worker", " ")
  end
  local function logged(...)
    for _, text in ipairs { ... } do
      server.eventually(text, function() return s:log():find(text, 1, true) end)
    end
  end

  for path, position in pairs { ["/compiled"] = "compiled code, trace from app.lua:6", ["/interpreted"] = "app.lua:10",
    ["/in-c"] = "C function 'find' < app.lua:12" } do
    it("stuck in " .. path .. " is named, killed and replaced, and nobody else waits", function()
      local before = pids()
      local stuck = io.popen("curl -s -m 30 -H 'X-Request-Id: culprit-1' http://127.0.0.1:" .. s.port .. path)
      socket.sleep(0.05) -- until the request is with its worker; what follows holds without it, too
      local begun = socket.gettime()
      for _ = 1, 40 do -- both listeners: a sibling accepts for the one that stands still
        assert.equal("ok", s:get("/").body)
      end
      assert.truthy(socket.gettime() - begun < 10 * (STALL + 1))
      stuck:read("*a")
      stuck:close()
      logged("it did not return to its loop", "GET " .. path, "culprit-1", position)
      server.eventually("its successor", function() return #pids() >= #before and pids() ~= before end)
    end)
  end

  it("that runs out of memory answers 500 to that request and serves on", function()
    local before = pids()
    local function run_out()
      local a = s:get("/memory")
      assert.same({ 500, "internal_error" }, { a.status, a.json.code })
      for _ = 1, 5 do assert.equal("ok", s:get("/").body) end
    end
    for _ = 1, 2 do run_out() end
    assert.equal(before, pids())
    logged("not enough memory", "the Lua heap is at its cap")
    for _ = 1, 3 do run_out() end -- one of two has had three by now, within the minute
    logged("three activities in a minute ran out of memory", "worker is replaced")
    for _ = 1, 5 do assert.equal("ok", s:get("/").body) end
    assert.falsy(s:log():find("worker died", 1, true))
  end)

  it("whose Lua holds the loop for a while is told", function()
    assert.equal("slow", s:get("/slow-turn").body)
    logged("slow turn", "GET /slow-turn")
  end)

  it("that crashes says what it ran, and where", function()
    local waiting = io.popen("curl -s -m 30 http://127.0.0.1:" .. s.port .. "/compiled")
    local victim
    local n_busy = {} -- how often in a row: a sound one runs now and then
    server.eventually("a busy worker", function()
      for pid in pids():gmatch("%d+") do
        local stat = io.open("/proc/" .. pid .. "/stat")
        local text = stat and stat:read("*a") or ""
        if stat then stat:close() end
        n_busy[pid] = text:find("%) R ") and (n_busy[pid] or 0) + 1 or 0
        if n_busy[pid] == 5 then victim = pid end
      end
      return victim
    end)
    server.sh("kill -ABRT " .. victim) -- a real fault is in where_test: here a sanitizer would be first
    waiting:read("*a")
    waiting:close()
    logged("crashed: signal 6 (Aborted)", "GET /compiled", "generation 1")
    server.eventually("an answer", function() return pcall(s.get, s, "/") end)
  end)
end)
