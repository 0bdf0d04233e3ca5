-- The operator's socket as a person meets it: `chowk stop`, what it says, and what it says when none runs.
local socket = require "socket"
local server = require "spec.support.server"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app, task = require "chowk.app", require "chowk.task"
local routes = app.routes()
routes:get("/healthz", function() return "ok" end)
routes:get("/slow", function() task.sleep(30); return { slow = true } end)
return routes
]]

describe("the operator's socket", function()
  local s

  local function chowk(arguments) return server.sh(("cd %s && %s %s"):format(s.dir, CHOWK, arguments)) end

  after_each(function()
    if s then s:stop() end
    s = nil
  end)

  it("belongs to the server's user alone", function()
    s = server.start { app = APP }
    assert.equal("600 socket\n", (server.sh("stat -c '%a %F' " .. s.dir .. "/var/run/chowk.sock")))
  end)

  it("stops the server and waits until it is gone", function()
    s = server.start { app = APP, config = { workers = 2 } }
    local out, code = chowk "stop"
    assert.equal(0, code, out)
    assert.equal(("stopping\nstopped: pid %d\n"):format(s.pid), out)
    assert.falsy(s:is_alive())
    assert.truthy(s:logged("chowk stop"), s:log())
    assert.is_nil(io.open(s.dir .. "/var/run/chowk.sock"))
    out, code = chowk "stop"
    assert.equal(1, code)
    assert.equal("no chowk serves this directory (nobody answers at var/run/chowk.sock)\n", out)
  end)

  it("says what a stop waits for, and cuts it with --now", function()
    s = server.start { app = APP }
    local busy = assert(socket.connect("127.0.0.1", s.port))
    busy:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert.equal(200, s:get("/healthz").status) -- so the one worker has read what came before
    server.sh(("{ cd %s; %s stop >stop.out; echo $? >stop.code; } >/dev/null 2>&1 &"):format(s.dir, CHOWK))
    local function said() return (server.sh("cat " .. s.dir .. "/stop.out 2>/dev/null")) end
    server.eventually("a line about who is still busy", function() return said():find("1 worker still finishing") end)
    local out, code = chowk "stop --now"
    assert.equal(0, code, out)
    assert.equal("stopping now\nstopped: pid " .. s.pid .. "\n", out)
    busy:close()
    server.eventually("the first one's end", function()
      return said():find("stopped: pid " .. s.pid, 1, true) and server.sh("cat " .. s.dir .. "/stop.code") == "0\n"
    end)
  end)

  it("is found from outside, through a long path, and with a broken configuration", function()
    s = server.start { app = APP }
    s:kill("TERM")
    s:wait_exit()
    local long = ("/%s"):rep(3, "x"):gsub("%%s", ("directory-of-a-long-name-"):rep(3))
    s.env.CHOWK_RUN_DIR = s.dir .. long
    s:start_process()
    assert.truthy(#(s.dir .. long) > 107)
    server.sh("echo 'return { nonsense = 1 }' >" .. s.dir .. "/conf/chowk.lua")
    local out, code = server.sh(("cd / && CHOWK_RUN_DIR=%s %s stop %s"):format(s.env.CHOWK_RUN_DIR, CHOWK, s.dir))
    assert.equal(0, code, out)
    assert.falsy(s:is_alive())
  end)

  it("replaces what a killed server left behind", function()
    s = server.start { app = APP }
    s:kill("KILL")
    s:wait_exit()
    local out, code = chowk "stop"
    assert.equal(1, code)
    assert.truthy(out:find("^no chowk serves this directory"), out)
    s:start_process()
    out, code = chowk "stop"
    assert.equal(0, code, out)
  end)

  it("tells misuse from failure", function()
    s = server.start { app = APP }
    local out, code = chowk "stop --never"
    assert.equal(2, code)
    assert.truthy(out:find("unknown option --never", 1, true))
    out, code = chowk "stop /nowhere"
    assert.equal(1, code)
    assert.equal("/nowhere: No such file or directory\n", out)
  end)
end)
