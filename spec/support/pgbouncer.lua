-- A PgBouncer in transaction mode before a spec.support.postgres server.
--
--   local pgbouncer = require "spec.support.pgbouncer"
--   local pooler = pgbouncer.start(pg, { default_pool_size = 4 })
--   server.start{ pg = pg, url = function(name) return pooler:url(name) end, config = { pg = { pool_mode = … } } }
--   pooler:stop()   pooler:spawn()   pooler:destroy()
local socket = require "socket"
local server = require "spec.support.server"

local M = {}
local Pooler = {}
Pooler.__index = Pooler

local function must(command)
  local out, code = server.sh(command)
  if code ~= 0 then error(command .. "\n" .. out, 3) end
  return out
end

function M.start(pg, settings)
  local self = setmetatable({ dir = must("mktemp -d /tmp/chowk-pool.XXXXXX"):match("%S+"), as = pg.as }, Pooler)
  local ini = { "[databases]", "* = host=" .. pg.sock_dir .. " port=5432 user=chowk", "[pgbouncer]",
    "listen_addr =", "listen_port = 6432", "unix_socket_dir = " .. self.dir, "auth_type = any",
    "pool_mode = transaction", "max_client_conn = 300", "logfile = " .. self.dir .. "/log",
    "pidfile = " .. self.dir .. "/pid" }
  for name, value in pairs(settings or {}) do ini[#ini + 1] = name .. " = " .. value end
  local f = assert(io.open(self.dir .. "/ini", "w"))
  f:write(table.concat(ini, "\n") .. "\n")
  f:close()
  if self.as ~= "" then must("chown -R postgres " .. self.dir) end
  self:spawn()
  return self
end

function Pooler:url(name) return "postgresql:///" .. name .. "?host=" .. self.dir .. "&port=6432&user=chowk" end

function Pooler:pid()
  local f = io.open(self.dir .. "/pid")
  local pid = f and tonumber(f:read("*a"):match("%d+"))
  if f then f:close() end
  return pid
end

function Pooler:spawn()
  must("cd / && " .. self.as .. "/usr/sbin/pgbouncer -d " .. self.dir .. "/ini")
  server.eventually("PgBouncer's socket", function()
    return select(2, server.sh("test -S " .. self.dir .. "/.s.PGSQL.6432")) == 0
  end)
end

function Pooler:stop()
  local pid = self:pid()
  if not pid then return end
  must("kill -TERM " .. pid) -- at once
  local deadline = socket.gettime() + 20
  while select(2, server.sh("kill -0 " .. pid)) == 0 do
    if socket.gettime() > deadline then error("PgBouncer did not stop", 2) end
    socket.sleep(0.02)
  end
  server.sh("rm -f " .. self.dir .. "/pid")
end

function Pooler:destroy()
  self:stop()
  must("rm -rf " .. self.dir)
end

return M
