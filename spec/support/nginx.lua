-- A private nginx for one spec, as the other side of a call.
--
--   local web = nginx.start { files = dir, server = "listen 127.0.0.1:PORT ssl http2; …" }   web.port   web:stop()
-- PORT in the text is its own; relative paths are below `files`.
local server = require "spec.support.server"

local M = {}
local Nginx = {}
Nginx.__index = Nginx

function M.start(opts)
  local self = setmetatable({ port = server.free_port() }, Nginx)
  self.dir = server.sh("mktemp -d /tmp/chowk-nginx.XXXXXX"):match("%S+")
  local f = assert(io.open(self.dir .. "/nginx.conf", "w"))
  f:write("daemon off; worker_processes 1; pid ", self.dir, "/pid; error_log ", self.dir, "/log;\n")
  f:write("events {}\nhttp {\n")
  for _, name in ipairs { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" } do
    f:write(name, "_temp_path ", self.dir, "/", name, ";\n")
  end
  local text = opts.server:gsub("PORT", tostring(self.port)):gsub("FILES", opts.files or "")
  f:write("access_log off;\nserver {\n", text, "\n}\n}\n")
  f:close()
  self.pid = tonumber((server.sh("{ nginx -e " .. self.dir .. "/log -c " .. self.dir .. "/nginx.conf >>" .. self.dir
    .. "/log 2>&1 & echo $!; }"):match("%d+")))
  server.eventually("nginx on port " .. self.port, function()
    return require("socket").connect("127.0.0.1", self.port) ~= nil
  end)
  return self
end

function Nginx:stop()
  server.sh("kill " .. self.pid)
  server.eventually("end of nginx", function() return not server.is_alive(self.pid) end)
  server.sh("rm -rf " .. self.dir)
end

return M
