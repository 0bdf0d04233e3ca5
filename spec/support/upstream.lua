-- Starts tests/fault/upstream.lua for one spec file.
--
--   local upstream = require "spec.support.upstream"
--   local up = upstream.start()      up.port   up:url("/echo")   up:counts() → { ["GET /echo"] = 1 }   up:stop()
local http = require "spec.support.http"
local server = require "spec.support.server"

local M = {}
local Upstream = {}
Upstream.__index = Upstream

function M.start()
  local self = setmetatable({ dir = server.sh("mktemp -d /tmp/chowk-upstream.XXXXXX"):match("%S+") }, Upstream)
  server.sh("mkfifo " .. self.dir .. "/in")
  self.pipe = io.popen("exec luajit tests/fault/upstream.lua <" .. self.dir .. "/in 2>" .. self.dir .. "/log")
  self.input = assert(io.open(self.dir .. "/in", "w"))
  self.port = assert(tonumber(self.pipe:read("*l")), "the upstream did not start")
  return self
end

function Upstream:url(path) return "http://127.0.0.1:" .. self.port .. path end

function Upstream:counts() return http.request("127.0.0.1", self.port, "GET", "/count").json end

function Upstream:stop()
  self.input:close()
  self.pipe:close() -- waits for its end
  server.sh("rm -rf " .. self.dir)
end

return M
