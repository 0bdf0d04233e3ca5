-- Starts tests/fault/proxy.lua for one spec file.
--
--   local proxy = require "spec.support.proxy"
--   local p = proxy.start(target)          -- "127.0.0.1:5432" or the path of a Unix socket
--   p.port   p:tell("drop")   p:tell("trap seen COMMIT")   p:stop()
local socket = require "socket"

local M = {}
local Proxy = {}
Proxy.__index = Proxy

function M.start(target)
  local self = setmetatable({ pipe = io.popen("exec luajit tests/fault/proxy.lua '" .. target .. "'") }, Proxy)
  local line = self.pipe:read("*l")
  local port, control_port = assert(line, "the proxy did not start"):match("^(%d+) (%d+)$")
  self.port = tonumber(port)
  self.control = assert(socket.connect("127.0.0.1", tonumber(control_port)))
  self.control:settimeout(20)
  return self
end

--- One command; returns its answer.
function Proxy:tell(command)
  assert(self.control:send(command .. "\n"))
  return assert(self.control:receive("*l"))
end

function Proxy:stop()
  self.control:send("stop\n") -- a process started meanwhile has inherited the socket: closing it would say nothing
  self.control:close()
  self.pipe:close() -- waits for its end
end

return M
