-- Under systemd: what it is told over a life, and a socket that it made. The spec plays systemd: a datagram socket
-- hears the words, tests/fault/activate.py passes a listener.
local server = require "spec.support.server"
local socket = require "socket"
local unix = require "socket.unix"

local CHOWK = os.getenv "CHOWK"
local APP = [[
local app = require "chowk.app"
local routes = app.routes()
routes:get("/", function() return "old" end)
return routes
]]

describe("under systemd", function()
  local s, ears, dir

  local function start(opts)
    opts.app, opts.config = APP, { workers = 2, jobs = { workers = 0 }, reload = { watch = false } }
    opts.env = { NOTIFY_SOCKET = dir .. "/notify", WATCHDOG_USEC = "400000" }
    s = server.start(opts)
  end

  local function save(text)
    local f = assert(io.open(s.dir .. "/app.lua", "w"))
    f:write(text)
    f:close()
  end

  before_each(function()
    dir = server.sh("mktemp -d /tmp/chowk-systemd.XXXXXX"):match("%S+")
    ears = assert(unix.dgram())
    assert(ears:bind(dir .. "/notify"))
  end)
  after_each(function()
    s:stop()
    ears:close()
    server.sh("rm -rf " .. dir)
  end)

  -- The next one that is no ping and no text for people.
  local function next_word()
    repeat
      ears:settimeout(20)
      local word = assert(ears:receive())
      if word ~= "WATCHDOG=1" and not word:find("^STATUS=") then return word end
    until false
  end

  -- Every 200 ms, half of what was asked for: eight of them cannot come sooner. A slow reader proves nothing.
  local function await_pings(since_s)
    local n = 0
    while n < 8 do
      ears:settimeout(20)
      local word = assert(ears:receive())
      if word == "WATCHDOG=1" then n = n + 1
      else assert.truthy(word:find("^STATUS="), word) end
    end
    assert.truthy(socket.gettime() - since_s >= 1.35, socket.gettime() - since_s)
  end

  it("says ready, pings, reloading, the new main process, stopping", function()
    local since_s = socket.gettime()
    start {}
    assert.equal("READY=1", next_word())
    await_pings(since_s)

    for _, code in ipairs { 0, 1 } do
      local before_us = tonumber(server.sh("cut -d' ' -f1 /proc/uptime"):match("%S+")) * 1e6
      assert.equal(code, select(2, server.sh("cd " .. s.dir .. " && " .. CHOWK .. " reload")))
      local at_us = tonumber((next_word():match("^RELOADING=1\nMONOTONIC_USEC=(%d+)$")))
      assert.truthy(at_us > before_us - 2e4 and at_us < before_us + 600e6, at_us)
      assert.equal("READY=1", next_word())
      save "no Lua" -- for the second time: ready it is all the same
    end
    save((APP:gsub("old", "new")))

    since_s = socket.gettime()
    assert.equal(0, select(2, server.sh("cd " .. s.dir .. " && " .. CHOWK .. " upgrade")))
    s.pid = tonumber(io.open(s.dir .. "/var/run/chowk.pid"):read("*l"):match("pid (%d+)"))
    assert.equal("MAINPID=" .. s.pid, next_word())
    assert.equal("READY=1", next_word()) -- the new one's: systemd would not have heard it before
    await_pings(since_s) -- one of the two pings, not both
    assert.equal("new", s:get("/").body)

    s:kill "TERM"
    assert.equal("STOPPING=1", next_word())
    s:wait_exit()
  end)

  it("serves on its socket, and leaves it open", function()
    start { wrap = "python3 " .. server.sh("pwd"):match("%S+") .. "/tests/fault/activate.py " .. dir }
    for _ = 1, 10 do assert.equal("old", s:get("/").body) end
    assert.equal(0, select(2, server.sh("cd " .. s.dir .. " && " .. CHOWK .. " upgrade")))
    s.pid = tonumber(io.open(s.dir .. "/var/run/chowk.pid"):read("*l"):match("pid (%d+)"))
    for _ = 1, 10 do assert.equal("old", s:get("/").body) end
    s:kill "TERM"
    s:wait_exit()
    assert.truthy(socket.connect("127.0.0.1", s.port)) -- it waits for the next start
  end)
end)
