-- What the soak suites share: an application whose answers say which worker and which code they come from, wrk beside
-- the load that counts (spec/support/load), and a look at the processes.
local server = require "spec.support.server"
local socket = require "socket"

local M = { seconds = tonumber(os.getenv "SOAK_SECONDS") or 60, n_reloads = tonumber(os.getenv "SOAK_RELOADS") or 1000 }

M.WORKERS = 4

local APP = [[
local app, task, seq, ffi = require "chowk.app", require "chowk.task", require "chowk.seq", require "ffi"
ffi.cdef "int getpid(void);"
local part = require "part"
local N = 0
local routes = app.routes()
local function who() return ffi.C.getpid() .. " " .. N .. " " .. part.n end
routes:get("/", who)
routes:get("/work", function() task.sleep(0.002) return who() end)
routes:get("/long", function() task.sleep(1) return who() end)
routes:get("/number", function() return who() .. " " .. seq.value("order") end)
routes:get("/stuck", function() while true do end end)
return routes
]]

function M.say(...) io.stderr:write("   ", string.format(...), "\n") end

local function write(s, name, text)
  local f = assert(io.open(s.dir .. "/" .. name, "w"))
  f:write(text)
  f:close()
end

--- Writes the application's generation n, in both of its files.
function M.save(s, n)
  write(s, "part.lua", "return { n = " .. n .. " }\n")
  write(s, "app.lua", (APP:gsub("local N = 0", "local N = " .. n)))
end

function M.start(config)
  config = config or {}
  config.workers, config.jobs = config.workers or M.WORKERS, { workers = 0 }
  config.reload = { watch = false }
  config.sandbox = { allow = { "ffi" } }
  config.seq = { periods = { order = "none" } }
  config.log = { access = false }
  local s = server.start { app = APP, files = { ["part.lua"] = "return { n = 0 }\n" }, config = config, start = false }
  local sql = io.open("migrations/0003_orders.sql"):read("*a")
  s:exec(sql:match("CREATE TABLE sequences.-;[^\n]*\n") .. sql:match("CREATE FUNCTION get_next_order_sequence.-%$%$;"))
  s:start_process()
  return s
end

--- What production asks for. Idle connections have a second there to hear that they should go, not a fifth of one: a
-- client that the machine holds up for as long does not lose them.
function M.production(config)
  config = config or {}
  config.environment = "production"
  config.razorpay = { key_id = "x", key_secret = "x", webhook_secrets = { "x" } }
  config.stop = config.stop or { lame_duck = 0 }
  return config
end

--- Its output; fails unless it exits with 0.
function M.chowk(s, arguments)
  local out, code = server.sh(("cd %s && %s %s"):format(s.dir, os.getenv "CHOWK", arguments))
  if code ~= 0 then error(arguments .. ": " .. out, 2) end
  return out
end

function M.workers(s)
  local list = {}
  for pid in server.sh("pgrep -P " .. s.pid .. " -f -- --worker"):gmatch("%d+") do list[#list + 1] = tonumber(pid) end
  return list
end

--- Bytes of its own memory (not of shared segments), and how many descriptors.
function M.footprint(pid)
  local f = assert(io.open("/proc/" .. pid .. "/status"))
  local anon = f:read("*a"):match("RssAnon:%s+(%d+) kB")
  f:close()
  return tonumber(anon) * 1024, tonumber((server.sh("ls /proc/" .. pid .. "/fd | wc -l"):match("%d+")))
end

M.is_alive = server.is_alive

--- wrk in the background for so many seconds → function: waits for its end → {rps, p99_ms, failed, text}
function M.wrk(port, path, seconds, connections)
  local command = "wrk -t1 -c%d -d%ds --latency http://127.0.0.1:%d%s 2>&1"
  local pipe = io.popen(command:format(connections, seconds, port, path))
  return function()
    local text = pipe:read("*a")
    pipe:close()
    local value, unit = text:match("99%%%s+([%d.]+)(%a+)")
    local failed = tonumber(text:match("Non%-2xx or 3xx responses: (%d+)") or 0)
    for n in (text:match("Socket errors: ([^\n]*)") or ""):gmatch("%d+") do failed = failed + tonumber(n) end
    local rps = tonumber(text:match("Requests/sec:%s+([%d.]+)"))
    if not value or not rps then error("wrk: " .. text, 2) end
    local in_ms = { us = 0.001, ms = 1, s = 1000 }
    return { rps = rps, p99_ms = tonumber(value) * in_ms[unit], failed = failed, text = text }
  end
end

function M.median(list)
  table.sort(list)
  return list[math.floor(#list / 2) + 1]
end

M.now = socket.gettime
return M
