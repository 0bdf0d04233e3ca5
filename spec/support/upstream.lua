-- Starts tests/fault/upstream.lua for one spec file.
--
--   local upstream = require "spec.support.upstream"
--   local up = upstream.start()      up.port   up:url("/echo")   up:counts() → { ["GET /echo"] = 1 }   up:stop()
local http = require "spec.support.http"
local process = require "spec.support.process"

local M = {}
local Upstream = {}
Upstream.__index = Upstream

function M.start()
  local self = setmetatable({ process = process.start "luajit tests/fault/upstream.lua" }, Upstream)
  self.port, self.dir = tonumber(self.process.first_line), self.process.dir
  return self
end

function Upstream:url(path) return "http://127.0.0.1:" .. self.port .. path end

function Upstream:counts() return http.request("127.0.0.1", self.port, "GET", "/count").json end

function Upstream:stop() self.process:stop() end

return M
