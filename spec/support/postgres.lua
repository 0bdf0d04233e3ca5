-- A PostgreSQL of a spec's own, that may be stopped, killed and started again without harming its neighbours.
--
--   local postgres = require "spec.support.postgres"
--   local pg = postgres.start{ max_connections = 12 }     -- server settings
--   server.start{ app = …, pg = pg }                      -- see spec/support/server.lua
--   pg:stop("fast")   pg:start()   pg:restart("immediate")   pg.socket   pg:destroy()
local socket = require "socket"

local M = {}
local Postgres = {}
Postgres.__index = Postgres

local function sh(command)
  local pipe = io.popen("{ " .. command .. "\n} 2>&1; echo \"\n$?\"")
  local out, code = pipe:read("*a"):match("^(.*)\n(%d+)\n$")
  pipe:close()
  if code ~= "0" then error(command .. "\n" .. out, 3) end
  return out
end

local function read(path)
  local f = io.open(path)
  if not f then return nil end
  local text = f:read("*a")
  f:close()
  return text
end

local SIGNALS = { smart = "TERM", fast = "INT", immediate = "QUIT" }
-- Commits must be real for "nothing acknowledged is lost"; the machine itself does not crash, so no fsync.
local DEFAULTS = { fsync = "off", synchronous_commit = "on", shared_buffers = "16MB", max_connections = 60,
  listen_addresses = "", log_min_messages = "fatal", port = 5432 }

function M.start(settings)
  local self = setmetatable({ dir = sh("mktemp -d /tmp/chowk-pg.XXXXXX"):match("%S+") }, Postgres)
  self.sock_dir, self.data = self.dir .. "/sock", self.dir .. "/data"
  self.socket = self.sock_dir .. "/.s.PGSQL.5432"
  local is_root = sh("id -u"):match("%d+") == "0"
  self.bin = sh("dirname $(ls /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)"):match("%S+")
  self.as = is_root and "setpriv --reuid=postgres --regid=postgres --init-groups " or ""
  sh(("mkdir %s %s && chmod 755 %s"):format(self.sock_dir, self.data, self.dir))
  if is_root then sh(("chown postgres %s %s %s"):format(self.dir, self.sock_dir, self.data)) end
  sh(("cd / && %s%s/initdb -D %s -U chowk -A trust -E UTF8 --locale=C --no-sync"):format(self.as, self.bin, self.data))
  self.options = { "-k " .. self.sock_dir }
  for name, default in pairs(DEFAULTS) do
    if not settings or settings[name] == nil then self:set(name, default) end
  end
  for name, value in pairs(settings or {}) do self:set(name, value) end
  self:start()
  return self
end

--- A server setting, from the next start on.
function Postgres:set(name, value) self.options[#self.options + 1] = ("-c %s='%s'"):format(name, value) end

function Postgres:pid() return tonumber((read(self.data .. "/postmaster.pid") or ""):match("^(%d+)")) end

function Postgres:is_ready()
  local command = "psql -X -q -A -t -h %s -U chowk postgres -c 'SELECT 1' >/dev/null 2>&1 && echo yes || echo no"
  return sh(command:format(self.sock_dir)):match("yes") ~= nil
end

--- Starts it and does not wait.
function Postgres:spawn()
  sh(("cd / && { exec %s%s/postgres -D %s %s >>%s/log 2>&1 & }"):format(self.as, self.bin, self.data,
    table.concat(self.options, " "), self.dir))
end

function Postgres:start()
  self:spawn()
  local deadline = socket.gettime() + 60
  while not self:is_ready() do
    if socket.gettime() > deadline then error("PostgreSQL did not start:\n" .. (read(self.dir .. "/log") or ""), 2) end
    socket.sleep(0.05)
  end
end

--- Asks it to stop and does not wait. how: "fast" (default; sessions are told), "immediate" (as a crash), "smart".
function Postgres:signal(how)
  local pid = self:pid()
  if pid then sh("kill -" .. SIGNALS[how or "fast"] .. " " .. pid) end
  return pid
end

function Postgres:stop(how)
  local pid = self:signal(how)
  if not pid then return end
  local deadline = socket.gettime() + 60
  while read("/proc/" .. pid .. "/stat") and not read("/proc/" .. pid .. "/stat"):find("%) Z ") do
    if socket.gettime() > deadline then error("PostgreSQL did not stop", 2) end
    socket.sleep(0.02)
  end
end

function Postgres:restart(how)
  self:stop(how)
  self:start()
end

function Postgres:sql(statement)
  return sh(("psql -X -q -A -t -v ON_ERROR_STOP=1 -h %s -U chowk postgres -c \"%s\""):format(self.sock_dir, statement))
end

function Postgres:destroy()
  self:stop("immediate")
  sh("rm -rf " .. self.dir)
end

return M
