-- A process that holds every lock of a shared segment of a server (tests/fault/holder.lua).
--
--   local holder = require "spec.support.holder"
--   holder.die(s, "chowk-limit") → how many locks its death has left behind
--   local h = holder.stop(s, "chowk-limit")   h.n_locks   h:kill()   h:continue(): it unlocks them
local server = require "spec.support.server"

local M = {}
local Holder = {}
Holder.__index = Holder

local function run(s, segment, how)
  local file, out, pid, n = s.dir .. "/holder", "", nil, nil
  server.sh(("luajit tests/fault/holder.lua %d %s %s >%s 2>&1 &"):format(s.pid, segment, how, file))
  server.eventually("a holder of the locks", function()
    local f = io.open(file)
    out = f and f:read("*a") or ""
    if f then f:close() end
    pid, n = out:match("^(%d+)%s+(%d+)\n")
    return out:find("\n")
  end)
  if not pid then error(out, 3) end
  return setmetatable({ pid = tonumber(pid), n_locks = tonumber(n) }, Holder)
end

local function state_of(pid)
  local f = io.open("/proc/" .. pid .. "/status")
  local text = f and f:read("*a") or ""
  if f then f:close() end
  return text:match("State:%s+(%a)") or "gone"
end

local function await(pid, states)
  server.eventually("the holder of the locks", function() return states:find(state_of(pid), 1, true) end)
end

function M.die(s, segment)
  local h = run(s, segment, "kill")
  await(h.pid, "Z gone")
  return h.n_locks
end

function M.stop(s, segment)
  local h = run(s, segment, "stop")
  await(h.pid, "T")
  return h
end

function Holder:kill()
  server.sh("kill -9 " .. self.pid)
  await(self.pid, "Z gone")
end

--- Lets go of the locks, and what they guard is as it was.
function Holder:continue()
  server.sh("kill -CONT " .. self.pid)
  await(self.pid, "Z gone")
end

return M
