-- A helper process that ends with its standard input, so that no spec leaves one behind.
--
--   local p = process.start("luajit tests/fault/dns.lua 127.0.0.9")   p.first_line   p:log()   p:stop()
local server = require "spec.support.server"

local M = {}
local Process = {}
Process.__index = Process

--- Waits for the first line it prints; raises with its log when there is none.
function M.start(command)
  local self = setmetatable({ dir = server.sh("mktemp -d /tmp/chowk-process.XXXXXX"):match("%S+") }, Process)
  server.sh("mkfifo " .. self.dir .. "/in")
  self.pipe = io.popen("echo $$; exec " .. command .. " <" .. self.dir .. "/in 2>" .. self.dir .. "/log")
  self.input = assert(io.open(self.dir .. "/in", "w"))
  self.pid = tonumber(self.pipe:read("*l"))
  self.first_line = self.pipe:read("*l")
  if not self.first_line then error(command .. " did not start:\n" .. self:log(), 2) end
  return self
end

function Process:log()
  local f = assert(io.open(self.dir .. "/log"))
  local text = f:read("*a")
  f:close()
  return text
end

function Process:stop()
  self.input:close() -- which is not its end: processes started meanwhile have inherited it
  server.sh("kill " .. self.pid)
  self.pipe:close() -- waits for its end
  server.sh("rm -rf " .. self.dir)
end

return M
