-- Master and workers: start, respawn, drain, what happens when either is killed, and who may bind.
local load = require "spec.support.load"
local server = require "spec.support.server"
local socket = require "socket"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app, log, task = require "chowk.app", require "chowk.log", require "chowk.task"
local routes = app.routes()
routes:get("/", function() return { hello = "world" } end)
routes:get("/stopping", function() return app.is_stopping() and 503 or 200, {} end)
local kept = {}
routes:get("/grow", function() for i = 1, 150 do kept[i] = ("x"):rep(1048576) .. i end return {} end)
routes:get("/slow", function() log.info "begun"; task.sleep(1); return { slow = true } end)
return routes
]]

-- Aborts at its start while there is a file "crash".
local CRASHES = APP:gsub("return routes", [[
app.on_start(function()
  if not io.open("crash") then return end
  local ffi = require "ffi"
  ffi.cdef "void abort(void);"
  ffi.C.abort()
end)
routes:get("/ready", function() return app.is_degraded() and 503 or 200, {} end)
return routes]])

local CONF = "return { workers = 2, stop = { lame_duck = 0 } }"

describe("processes", function()
  local dirs, pids, socks

  local function new_dir(app, conf)
    local dir = server.sh("mktemp -d /tmp/chowk-process.XXXXXX"):match("%S+")
    dirs[#dirs + 1] = dir
    server.sh("mkdir " .. dir .. "/conf")
    for name, text in pairs { ["app.lua"] = app or APP, ["conf/chowk.lua"] = conf or CONF } do
      local f = assert(io.open(dir .. "/" .. name, "w"))
      f:write(text)
      f:close()
    end
    return dir
  end

  local function read(path)
    local f = io.open(path)
    local text = f and f:read("*a") or ""
    if f then f:close() end
    return text
  end

  local is_alive = server.is_alive

  -- Starts chowk; its exit code is written to <dir>/exit when it ends.
  local function start(dir, port, command, admin)
    local out = server.sh(([[
      cd %s && rm -f pid exit
      unset DATABASE_URL REDIS_URL
      [ -z "%s" ] || export CHOWK_ADMIN_LISTEN=127.0.0.1:%s
      (PORT=%s sh -c 'echo $$ >pid; exec %s %s' >log 2>&1; echo $? >exit) >/dev/null 2>&1 &
      while ! [ -s pid ]; do sleep 0.01; done; cat pid]]):format(dir, admin or "", admin or "", tostring(port), CHOWK,
      command or "serve"))
    local pid = tonumber(out:match("%d+"))
    pids[#pids + 1] = pid
    return { pid = pid, dir = dir, port = port, log = function() return read(dir .. "/log") end }
  end

  local function get(port, path, timeout)
    local sock = socket.tcp()
    sock:settimeout(timeout or 10)
    if not sock:connect("127.0.0.1", port) then return nil end
    sock:send("GET " .. path .. " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    local answer, _, partial = sock:receive("*a")
    sock:close()
    return (answer or partial or ""):match("^HTTP/1.1 (%d+)")
  end

  local function serving(dir, command, admin)
    local s = start(dir, server.free_port(), command, admin)
    server.eventually("first answer", function() return get(s.port, "/") == "200" or not is_alive(s.pid) end)
    server.eventually("all workers", function() -- a death before that ends the start
      return command == "dev" or s.log():find('"msg":"serving"', 1, true) or not is_alive(s.pid)
    end)
    assert.truthy(is_alive(s.pid), s.log())
    return s
  end

  local function workers(s)
    local list = {}
    for pid in server.sh("pgrep -P " .. s.pid .. " -f -- --worker"):gmatch("%d+") do list[#list + 1] = tonumber(pid) end
    return list
  end

  local function worker(s, id)
    return tonumber(server.sh("pgrep -P " .. s.pid .. " -f -- '--worker " .. id .. "'"):match("%d+"))
  end

  -- A connection whose request is being answered.
  local function ask_slow(s)
    local sock = socket.connect("127.0.0.1", s.port)
    socks[#socks + 1] = sock -- it stays open
    sock:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    server.eventually("the request's arrival", function() return s.log():find('"msg":"begun"', 1, true) end)
    return sock
  end

  local function exit_code(s)
    server.eventually("exit", function() return read(s.dir .. "/exit"):find("\n") end)
    return tonumber(read(s.dir .. "/exit"))
  end

  before_each(function() dirs, pids, socks = {}, {}, {} end)
  after_each(function()
    for _, pid in ipairs(pids) do
      if is_alive(pid) then server.sh("kill -KILL " .. pid) end
    end
    local reports = ""
    for _, dir in ipairs(dirs) do
      local log = read(dir .. "/log")
      if log:find("Sanitizer", 1, true) or log:find("runtime error:", 1, true) then reports = reports .. log end
      server.sh("rm -rf " .. dir)
    end
    assert.equal("", reports)
  end)

  it("starts one worker per configured core and ends with 0 on TERM", function()
    local s = serving(new_dir())
    assert.equal(2, #workers(s))
    server.sh("kill -TERM " .. s.pid)
    assert.equal(0, exit_code(s))
    assert.equal("", read(s.dir .. "/var/run/chowk.pid"))
    assert.is_nil(get(s.port, "/"))
  end)

  it("gives a worker only its own descriptors", function()
    local s = serving(new_dir())
    for _, pid in ipairs(workers(s)) do
      local listening = 0
      for inode in server.sh("ls -l /proc/" .. pid .. "/fd"):gmatch("socket:%[(%d+)%]") do
        local _, found = read("/proc/net/tcp"):gsub((":%04X [^\n]- 0A [^\n]- "):format(s.port) .. inode .. " ", "")
        listening = listening + found
      end
      assert.equal(1, listening)
    end
  end)

  it("answers what is in flight before it stops", function()
    local s = serving(new_dir())
    local sock = ask_slow(s)
    server.sh("kill -TERM " .. s.pid)
    sock:settimeout(10)
    local answer = sock:receive("*l")
    assert.equal("HTTP/1.1 200 OK", answer)
    assert.equal(0, exit_code(s))
  end)

  it("takes a second TERM as now", function()
    local s = serving(new_dir((APP:gsub("sleep%(1%)", "sleep(60)"))))
    ask_slow(s)
    server.sh("kill -TERM " .. s.pid)
    socket.sleep(0.3)
    assert.truthy(is_alive(s.pid))
    server.sh("kill -TERM " .. s.pid)
    assert.equal(0, exit_code(s))
  end)

  it("cuts what is in flight at the drain deadline", function()
    local s = serving(new_dir((APP:gsub("sleep%(1%)", "sleep(60)")),
      "return { workers = 1, drain = '300ms', stop = { lame_duck = 0 } }"))
    ask_slow(s)
    server.sh("kill -TERM " .. s.pid)
    assert.equal(0, exit_code(s))
    assert.truthy(s.log():find("drain deadline passed", 1, true), s.log())
  end)

  it("goes on accepting as a lame duck, unready", function()
    local s = serving(new_dir(nil, "return { workers = 1, stop = { lame_duck = '2s' } }"))
    assert.equal("200", get(s.port, "/stopping"))
    server.sh("kill -TERM " .. s.pid)
    server.eventually("unreadiness", function() return get(s.port, "/stopping") == "503" end)
    assert.equal("200", get(s.port, "/"))
    assert.equal(0, exit_code(s))
  end)

  it("replaces a worker that was killed", function()
    local s = serving(new_dir())
    local before = workers(s)
    server.sh("kill -KILL " .. before[1])
    server.eventually("a new worker", function()
      local now = workers(s)
      return #now == 2 and now[1] ~= before[1] and now[2] ~= before[1]
    end)
    for _ = 1, 20 do assert.equal("200", get(s.port, "/")) end
    server.eventually("a word of it", function()
      return s.log():find("worker died", 1, true) and s.log():find("signal 9", 1, true)
    end)
  end)

  it("loses what a killed worker had in flight, and nothing else", function()
    local s = serving(new_dir([[
      local app, task, ffi = require "chowk.app", require "chowk.task", require "ffi"
      ffi.cdef "int getpid(void);"
      local routes = app.routes()
      routes:get("/", function() task.sleep(0.005) return tostring(ffi.C.getpid()) end)
      return routes]], "return { workers = 2, stop = { lame_duck = 0 }, sandbox = { allow = { 'ffi' } } }"))
    local l = load.start(s.port, 24, "/"):watch_owners()
    for _ = 1, 2 do
      local before = l.answered
      l:run(function() return l.answered > before + 200 end, 60)
      local pid = workers(s)[1]
      l:dies(pid)
      server.sh("kill -KILL " .. pid)
      l:run(function() return #workers(s) == 2 and workers(s)[1] ~= pid end, 60)
    end
    l:run(0.2)
    l:finish()
    assert.same({}, l.failed)
    assert.truthy(l.excused > 0 and l.excused <= l.n_open, l.excused .. " of " .. l.n_open)
    assert.equal(0, l.refused)
  end)

  it("is killed over and over and serves on", function()
    local s = serving(new_dir())
    local last
    for _ = 1, 10 do -- more than a crash loop has deaths
      server.eventually("the next one", function()
        local pid = worker(s, 0)
        local is_new = pid and pid ~= last
        last = pid or last
        return is_new
      end)
      server.sh("kill -KILL " .. last)
      for _ = 1, 5 do assert.equal("200", get(s.port, "/", 10)) end
    end
    server.eventually("its return", function() return worker(s, 0) and worker(s, 0) ~= last end)
    assert.falsy(s.log():find("crash loop", 1, true))
  end)

  it("serves on through a crash loop and the death of who serves for it, and new code ends it", function()
    local admin = server.free_port()
    local s = serving(new_dir(CRASHES, [[return { workers = 2, stop = { lame_duck = 0 },
      sandbox = { allow = { "io.open", "ffi" } } }]]), "serve", admin)
    server.eventually("readiness", function() return get(admin, "/readyz") == "200" end)
    server.sh("touch " .. s.dir .. "/crash && kill -KILL " .. worker(s, 0))
    server.eventually("the crash loop's end", function() return s.log():find("crash loop", 1, true) end, 60)
    assert.is_nil(worker(s, 0))
    assert.equal("503", get(admin, "/readyz"))
    for _ = 1, 20 do assert.equal("200", get(s.port, "/")) end
    assert.equal("503", get(s.port, "/ready"))
    server.sh("rm " .. s.dir .. "/crash && kill -KILL " .. worker(s, 1))
    for _ = 1, 20 do assert.equal("200", get(s.port, "/")) end
    assert.is_nil(worker(s, 0))
    local out, code = server.sh(("cd %s && %s reload"):format(s.dir, CHOWK))
    assert.equal(0, code, out)
    server.eventually("its return", function() return worker(s, 0) and get(admin, "/readyz") == "200" end)
    assert.equal("200", get(s.port, "/ready"))
  end)

  -- Many clients, each request on a connection of its own; what they are answered, sorted and counted.
  local function load_while(s, fn)
    local files = {}
    for i = 1, 4 do
      files[i] = s.dir .. "/load" .. i
      server.sh(([[(while ! [ -e %s/enough ]; do
        curl -s -m 30 -o /dev/null -w '%%{http_code}\n' http://127.0.0.1:%d/ || echo "curl: $?"
        done >%s; touch %s.done) >/dev/null 2>&1 &]]):format(s.dir, s.port, files[i], files[i]))
    end
    server.eventually("load", function() return #read(files[4]) > 0 end)
    fn()
    server.sh("touch " .. s.dir .. "/enough")
    server.eventually("its end", function()
      return server.sh("ls " .. s.dir .. "/*.done 2>/dev/null | wc -l"):match("%d+") == "4"
    end)
    return server.sh("sort -u " .. table.concat(files, " "))
  end

  it("replaces one that takes too much memory, and one that is told to go, without a lost request", function()
    local s = serving(new_dir(nil, [[return { workers = 1, stop = { lame_duck = 0 },
      worker = { max_memory = "100MiB" } }]]))
    local first = worker(s, 0)
    local sock = socket.connect("127.0.0.1", s.port)
    local seen = load_while(s, function()
      assert.equal("200", get(s.port, "/grow"))
      sock:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
      server.eventually("a successor", function() return s.log():find("worker is replaced", 1, true) end)
      server.eventually("the first one's end", function() return not is_alive(first) end)
      local second = worker(s, 0)
      server.sh("kill -TERM " .. second)
      server.eventually("another", function()
        return not is_alive(second) and get(s.port, "/") == "200" and #workers(s) == 1
      end)
    end)
    assert.equal("200\n", seen)
    sock:settimeout(10)
    assert.equal("HTTP/1.1 200 OK", (sock:receive("*l"))) -- was in flight with the one that left
    assert.truthy(s.log():find("worker.max_memory", 1, true))
    assert.falsy(s.log():find("worker died", 1, true), s.log())
  end)

  it("drains and ends its workers when the master is killed", function()
    local s = serving(new_dir())
    local left = workers(s)
    local sock = ask_slow(s)
    server.sh("kill -KILL " .. s.pid)
    sock:settimeout(10)
    assert.equal("HTTP/1.1 200 OK", (sock:receive("*l")))
    server.eventually("the workers' end", function() return not is_alive(left[1]) and not is_alive(left[2]) end)
  end)

  it("lets another server have the port while the workers of a killed master finish", function()
    local s = serving(new_dir((APP:gsub("task%.sleep%(1%)", [[
      io.open("begun", "w"):close()
      while not io.open("go") do task.sleep(0.02) end]])),
      "return { workers = 2, drain = '60s', http = { deadline = '60s' }, sandbox = { allow = { 'io.open' } } }"))
    local sock = socket.connect("127.0.0.1", s.port)
    sock:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    server.eventually("the request's arrival", function() return io.open(s.dir .. "/begun") end)
    server.sh("kill -KILL " .. s.pid)
    local second
    server.eventually("another server", function()
      if second and is_alive(second.pid) then return get(s.port, "/") == "200" end
      second = start(new_dir(), s.port)
    end)
    sock:settimeout(0)
    assert.equal("timeout", select(2, sock:receive("*l"))) -- the old one has not ended: it works on this
    server.sh("touch " .. s.dir .. "/go")
    sock:settimeout(20)
    assert.equal("HTTP/1.1 200 OK", (sock:receive("*l")))
  end)

  it("says where the master crashed, and leaves no core file", function()
    local s = serving(new_dir())
    local left = workers(s)
    for _, pid in ipairs { s.pid, left[1] } do
      assert.equal("0", read("/proc/" .. pid .. "/limits"):match("Max core file size +(%d+)"))
    end
    server.sh("kill -ABRT " .. s.pid)
    server.eventually("the workers' end", function() return not is_alive(left[1]) and not is_alive(left[2]) end)
    assert.truthy(s.log():find("chowk: the master crashed: signal 6, address 0x%x+; [%w.%-]+%+0x%x+ < "), s.log())
    assert.equal("", server.sh("ls " .. s.dir .. " | grep core"))
  end)

  it("refuses a second server on the same port, naming the first", function()
    local s = serving(new_dir())
    local second = start(new_dir(), s.port)
    assert.equal(1, exit_code(second))
    assert.equal(("listen: 127.0.0.1:%d is served already by pid %d (chowk)\n"):format(s.port, s.pid), second.log())
    assert.equal("200", get(s.port, "/"))
  end)

  it("refuses a second server of the same application", function()
    local s = serving(new_dir())
    local out, code = server.sh(("cd %s && PORT=%d %s serve"):format(s.dir, server.free_port(), CHOWK))
    assert.equal(1, code)
    assert.equal(("chowk already runs for this application: pid %d on 127.0.0.1:%d\n"):format(s.pid, s.port), out)
  end)

  it("ends with 1 and the place when the application does not load", function()
    for app, message in pairs {
      ["local app = require 'chowk.app'\nerror('broken')"] = "app.lua:2: broken\n",
      ["return {\n  1 2 }"] = "app.lua:2: ",
    } do
      local s = start(new_dir(app), server.free_port())
      assert.equal(1, exit_code(s))
      assert.equal(message, s.log():sub(1, #message))
      assert.equal(1, select(2, s.log():gsub("\n", "")), s.log())
      assert.is_nil(get(s.port, "/"))
    end
  end)

  it("ends with 1 and the place when the application does not end loading", function()
    for app, message in pairs {
      ["local x = 0\nwhile true do x = x + 1 end"] = "app.lua:2: this still ran when the time for new code was over "
        .. "(worker.start_timeout)\n",
      ["local x = ('x'):rep(60)\nx:find(('x*'):rep(30) .. 'y')"] = "worker 0: it was not ready in time "
        .. "(worker.start_timeout): ",
    } do
      local s = start(new_dir(app, "return { workers = 1, worker = { start_timeout = '100ms' } }"), server.free_port())
      assert.equal(1, exit_code(s))
      assert.equal(message, s.log():sub(1, #message))
    end
  end)

  it("can be stopped while it starts", function()
    local s = start(new_dir("local t = os.clock() while os.clock() - t < 3 do end\n" .. APP), server.free_port())
    server.eventually("a worker", function() return #workers(s) == 2 end)
    server.sh("kill -TERM " .. s.pid)
    assert.equal(0, exit_code(s))
    assert.falsy(s.log():find("worker died", 1, true))
  end)

  it("serves on a Unix socket and removes it", function()
    local dir = new_dir(nil, "return { workers = 2, listen = 'unix:sock', stop = { lame_duck = 0 } }")
    local s = start(dir, "", "serve") -- an empty PORT is no PORT
    local out = server.sh("cd " .. dir .. " && for i in $(seq 200); do [ -S sock ] && break; sleep 0.05; done; "
      .. "curl -sf --unix-socket sock http://x/")
    server.sh("kill -TERM " .. s.pid)
    assert.truthy(out:find('{"hello":"world"}', 1, true), out .. s.log())
    assert.equal(0, exit_code(s))
    assert.is_nil(io.open(dir .. "/sock"))
  end)

  it("starts an application without a database at once, in development", function()
    local s = serving(new_dir(), "dev")
    server.eventually("the banner", function() return s.log():find("http://127.0.0.1:" .. s.port, 1, true) end)
    server.eventually("the request's line", function() return s.log():find(" 200 GET +%d+%.%d ms +%d+ B  /\n") end)
    assert.falsy(io.open(s.dir .. "/var/pg"))
    server.sh("kill -INT " .. s.pid)
    assert.equal(0, exit_code(s))
  end)

  it("writes an access log of JSON lines in production, or none", function()
    local s = serving(new_dir())
    get(s.port, "/nowhere")
    local line
    server.eventually("the line", function()
      line = s.log():match('[^\n]*"status":404[^\n]*')
      return line
    end)
    local object = require("dkjson").decode(line)
    assert.equal("GET", object.method)
    assert.equal("127.0.0.0", object.ip)
    assert.truthy(object.request_id and object.ms >= 0 and object.bytes > 0)
    local quiet = serving(new_dir(nil, "return { workers = 1, log = { access = false } }"))
    assert.falsy(quiet.log():find('"status"', 1, true))
  end)
end)
