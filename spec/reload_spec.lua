-- Hot reload on a real server: no request lost or answered by two generations, and whatever is wrong with new code, the
-- old goes on.
local server = require "spec.support.server"
local socket = require "socket"

local CHOWK = os.getenv "CHOWK"

local APP = [[
local app, task, log = require "chowk.app", require "chowk.task", require "chowk.log"
local part = require "part"
local N = 0
local routes = app.routes()
routes:get("/", function() return N .. " " .. part.n end)
routes:get("/slow", function() task.sleep(0.6) return "slow " .. N end) routes:get("/bug", function() error("bug") end)
routes:get("/stream", function()
  return app.stream(function(w)
    for i = 1, 8 do w:write(N .. "\n") task.sleep(0.1) end
  end)
end)
app.on_start(function() log.info("start " .. N) end)
app.on_stop(function() log.info("stop " .. N) end)
return routes
]]

local function config(more)
  local out = { workers = 2, jobs = { workers = 0 }, reload = { watch = false, timeout = "2s", max_memory = "32MiB" } }
  for k, v in pairs(more or {}) do out[k] = v end
  return out
end

local function start(more)
  return server.start { app = APP, files = { ["part.lua"] = "return { n = 0 }\n" }, config = config(more) }
end

local function write(s, name, text)
  local f = assert(io.open(s.dir .. "/" .. name, "w"))
  f:write(text)
  f:close()
end

local function save(s, n)
  write(s, "part.lua", "return { n = " .. n .. " }\n")
  write(s, "app.lua", (APP:gsub("local N = 0", "local N = " .. n)))
end

local function chowk(s, arguments)
  return server.sh(("cd %s && %s %s"):format(s.dir, CHOWK, arguments))
end

local function pids(s)
  return table.concat(s:processes "--worker", " ")
end

local function sum(s, what) -- over the workers
  local total = 0
  for pid in pids(s):gmatch("%d+") do
    local out = what == "fds" and server.sh("ls /proc/" .. pid .. "/fd | wc -l")
      or server.sh("grep VmRSS /proc/" .. pid .. "/status")
    total = total + tonumber(out:match("%d+"))
  end
  return total
end

describe("chowk reload", function()
  it("under load loses no request and mixes no generations", function()
    local s = start()
    finally(function() s:stop() end)
    local script = s.dir .. "/reloads.sh"
    write(s, "reloads.sh", ([[
      cd %s
      for n in $(seq 1 25); do
        echo "return { n = $n }" >part.lua
        sed -i "s/^local N = .*/local N = $n/" app.lua
        %s reload >>out 2>&1 || exit 1
        echo $n >committed.tmp && mv committed.tmp committed
      done
      echo over >over
    ]]):format(s.dir, CHOWK))
    local reloads = io.popen("sh " .. script)
    local function committed()
      local f = io.open(s.dir .. "/committed")
      local n = f and f:read("*n") or 0
      if f then f:close() end
      return n
    end
    local n_asked, n_answers, seen, asked, code_of = 0, 0, {}, {}, {}
    local until_s = socket.gettime() + 60
    s:flow(16, function()
      local f = io.open(s.dir .. "/over")
      if f then f:close() return nil end
      if socket.gettime() > until_s then return nil end
      n_asked = n_asked + 1
      asked[n_asked] = committed()
      return { "GET", "/" }
    end, function(i, a)
      n_answers = n_answers + 1
      local n, part = (a.body or ""):match("^(%d+) (%d+)$")
      assert.equal(200, a.status)
      assert.equal(n, part)                              -- two modules of one generation
      assert.truthy(tonumber(n) >= asked[i], n)          -- asked after a commit: nothing older
      local hash = a.headers["x-chowk-generation"]
      assert.equal(n, code_of[hash] or n)                -- and one hash is one code
      code_of[hash] = n
      seen[n] = true
    end)
    reloads:read("*a")
    reloads:close()
    assert.equal(25, committed())
    assert.equal("25 25", s:get("/").body)
    local n_seen = 0
    for _ in pairs(seen) do n_seen = n_seen + 1 end
    assert.truthy(n_seen > 10 and n_answers > 100, n_seen .. " generations, " .. n_answers .. " answers")
  end)

  it("leaves memory and descriptors as they were", function()
    local s = start()
    finally(function() s:stop() end)
    local function reload(from, to)
      for n = from, to do
        save(s, n)
        local out, code = chowk(s, "reload")
        assert.equal(0, code, out)
      end
      for _ = 1, 20 do s:get("/") end
    end
    reload(1, 10)
    local rss, fds = sum(s, "rss"), sum(s, "fds")
    reload(11, 60)
    server.eventually("the descriptors of before", function() return sum(s, "fds") == fds end)
    if CHOWK:find("asan", 1, true) then return end -- which keeps what is freed for a while
    assert.truthy(sum(s, "rss") < rss * 1.10 + 1024, sum(s, "rss") .. " KiB, was " .. rss)
  end)

  it("with something wrong changes nothing, and says where", function()
    local s = start()
    finally(function() s:stop() end)
    local before = pids(s)
    local function refused(name, text, expected)
      local old = name == "app.lua" and APP or "return { n = 0 }\n"
      if text then write(s, name, text) else os.remove(s.dir .. "/" .. name) end
      local out, code = chowk(s, "reload")
      write(s, name, old)
      assert.equal(1, code)
      assert.truthy(out:find(expected, 1, true), out)
      assert.equal("0 0", s:get("/").body)
      assert.equal(before, pids(s))
    end
    refused("part.lua", "return {\n  n = = 1 }", "part.lua:2: unexpected symbol near '='")
    refused("part.lua", "\nerror('no')", "part.lua:2: no")
    refused("part.lua", "while true do end", "part.lua:1: this still ran when the time for new code was over")
    refused("part.lua", "while true do pcall(function() while true do end end) end", "not checked within 2.0 s")
    refused("part.lua", "local t = {}\nfor i = 1, 1e9 do t[i] = {} end", "part.lua:2: loading needs more than")
    refused("part.lua", nil, "app.lua:2: module 'part' not found")
    refused("app.lua", APP:gsub("return routes\n$", 'routes:get("/", function() end)\nreturn routes\n'),
      "app.lua:14: GET / conflicts with GET / at app.lua:5")
    refused("app.lua", APP:gsub("return routes\n$", 'app.self_test(function() error("not well") end)\nreturn routes\n'),
      "app.lua:14: not well\nstack traceback:")
    assert.equal(0, select(2, chowk(s, "reload")))
  end)

  it("goes back, and a worker that dies comes back with what is committed", function()
    local s = start()
    finally(function() s:stop() end)
    local out, code = chowk(s, "reload --rollback")
    assert.same({ 1 }, { code }, out)
    save(s, 1)
    assert.equal(0, select(2, chowk(s, "reload")))
    write(s, "part.lua", "broken by now")
    local before = pids(s)
    server.sh("kill -9 " .. before)
    server.eventually("new workers", function()
      local ok, a = pcall(s.get, s, "/")
      return ok and a.status == 200 and pids(s) ~= before and #pids(s) == #before
    end)
    for _ = 1, 10 do assert.equal("1 1", s:get("/").body) end
    assert.equal(0, select(2, chowk(s, "reload --rollback")))
    for _ = 1, 10 do assert.equal("0 0", s:get("/").body) end
  end)

  it("lets requests and streams end in the code they began in", function()
    local s = start()
    finally(function() s:stop() end)
    local slow = io.popen("curl -s http://127.0.0.1:" .. s.port .. "/slow")
    local stream = io.popen("curl -sN http://127.0.0.1:" .. s.port .. "/stream")
    assert.equal("0", stream:read("*l"))
    save(s, 1)
    assert.equal(0, select(2, chowk(s, "reload")))
    assert.equal("1 1", s:get("/").body)
    assert.equal("slow 0", slow:read("*a"))
    assert.equal(("0\n"):rep(7), stream:read("*a"))
    slow:close()
    stream:close()
    assert.truthy(s:logged("start 1") and s:logged("stop 0"))
    local log = s:log()
    assert.truthy(log:find("start 0", 1, true) and log:find("stop 0", 1, true) and log:find("start 1", 1, true))
  end)

  it("is what HUP does", function()
    local s = start()
    finally(function() s:stop() end)
    save(s, 3)
    s:kill("HUP")
    server.eventually("the new code", function() return s:get("/").body == "3 3" end)
    assert.truthy(s:get("/").headers["x-chowk-generation"])
  end)

  it("happens by itself when a file is saved, in development", function()
    local s = start { reload = { watch = true } }
    finally(function() s:stop() end)
    save(s, 5)
    server.eventually("the new code", function() return s:get("/").body == "5 5" end)
    write(s, "part.lua", "oops(")
    server.eventually("the error", function() return s:log():find("part.lua:1:", 1, true) end)
    assert.equal("5 5", s:get("/").body)
    local page = s:get("/bug", { headers = { Accept = "text/html" } }).body
    assert.truthy(page:find("the last reload failed. part.lua:1:", 1, true), page)
    server.sh("mkdir -p " .. s.dir .. "/deep/er")
    write(s, "deep/er/part.lua", "return { n = 6 }\n")
    write(s, "part.lua", 'return require "deep.er.part"\n')
    server.eventually("the new file", function() return s:get("/").body == "5 6" end)
    page = s:get("/bug", { headers = { Accept = "text/html" } }).body
    assert.falsy(page:find("the last reload failed", 1, true), page)
  end)
end)
