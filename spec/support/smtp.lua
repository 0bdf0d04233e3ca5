-- A mail server for specs (tests/fault/smtp.py).
--
--   local sink = smtp.start { tls = "starttls", cert = file, key = file, auth = "user:password" }
--   sink.port   sink:messages() → { { from, to, data, tls, user, connection }, … }   sink:stop()
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

local M = {}
local Sink = {}
Sink.__index = Sink

function M.start(opts)
  local self = setmetatable({ file = server.sh("mktemp /tmp/chowk-smtp.XXXXXX"):match("%S+") }, Sink)
  local args = {}
  for name, value in pairs(opts or {}) do args[#args + 1] = name .. "='" .. value .. "'" end
  self.process = process.start("/usr/bin/python3 tests/fault/smtp.py " .. self.file .. " " .. table.concat(args, " "))
  self.port = tonumber(self.process.first_line)
  return self
end

function Sink:messages()
  local list = {}
  for line in io.lines(self.file) do list[#list + 1] = json.decode(line) end
  return list
end

function Sink:stop()
  self.process:stop()
  os.remove(self.file)
end

return M
