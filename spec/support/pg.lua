-- PostgreSQL servers of a spec's own, on Unix sockets (and a TCP port where asked): a primary, its standbys, and what
-- happens to them. Everything is stopped by its pid and removed.
--
--   local primary = pg.primary{ port = 15432, ssl = true }     local standby = primary:standby{ apply_delay = "10s" }
--   node:url(options?)   node:sql("SELECT …") → text   node:stop(signal?)   node:start()   node:drop()
local server = require "spec.support.server"

local M = {}
local Node = {}
Node.__index = Node

local function must(command)
  local out, code = server.sh(command)
  if code ~= 0 then error(command .. "\n" .. out, 2) end
  return (out:gsub("%s+$", ""))
end

local BIN = must("dirname $(ls /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)")
local AS = must("id -u") == "0" and "setpriv --reuid=postgres --regid=postgres --init-groups " or ""
local next_port = 5432

local function new_node(opts)
  next_port = next_port + 1
  local node = setmetatable({ port = opts.port or next_port, is_tcp = opts.port ~= nil }, Node)
  node.dir = must("mktemp -d /tmp/chowk-specpg.XXXXXX")
  must("mkdir -m 700 " .. node.dir .. "/data && chmod 777 " .. node.dir)
  if AS ~= "" then must("chown postgres " .. node.dir .. "/data") end
  return node
end

function Node:configure(text)
  local f = assert(io.open(self.dir .. "/data/postgresql.conf", "a"))
  f:write(text, "\n")
  f:close()
end

function Node:start()
  local command = ("cd / && { exec %s%s/postgres -D %s/data -k %s -p %d -c listen_addresses=%s -c fsync=off"
    .. " -c shared_buffers=32MB -c max_connections=60 -c log_min_messages=fatal >>%s/log 2>&1 & echo $!; }"):format(
    AS, BIN, self.dir, self.dir, self.port, self.is_tcp and "127.0.0.1" or "''", self.dir)
  self.pid = tonumber(must(command):match("%d+"))
  self:wait()
end

function Node:wait()
  server.eventually("PostgreSQL answers", function()
    local _, code = server.sh(("psql -X -q -A -t '%s' -c 'SELECT 1'"):format(self:url()))
    if code ~= 0 and not self:is_alive() then error((server.sh("tail -n 20 " .. self.dir .. "/log")), 3) end
    return code == 0
  end, 60)
end

function Node:is_alive()
  local f = io.open("/proc/" .. self.pid .. "/stat")
  if not f then return false end
  local state = f:read("*a"):match("%) (%a)")
  f:close()
  return state ~= "Z"
end

--- Stops it: "INT" (default) closes connections at once, "QUIT" is a crash.
function Node:stop(signal)
  if not self.pid then return end
  server.sh("kill -" .. (signal or "INT") .. " " .. self.pid)
  server.eventually("PostgreSQL ends", function() return not self:is_alive() end, 60)
  self.pid = nil
end

function Node:drop()
  self:stop()
  must("rm -rf " .. self.dir)
end

function Node:url(options)
  return ("postgresql:///postgres?host=%s&port=%d&user=chowk%s"):format(self.dir, self.port,
    options and "&" .. options or "")
end

function Node:sql(statement)
  local file = os.tmpname()
  local f = assert(io.open(file, "w"))
  f:write(statement)
  f:close()
  local out = must(("psql -X -q -A -t -v ON_ERROR_STOP=1 '%s' -f %s"):format(self:url(), file))
  os.remove(file)
  return out
end

--- A new, empty server. opts: port (TCP on 127.0.0.1 as well), before(node): runs before its first start
function M.primary(opts)
  opts = opts or {}
  local node = new_node(opts)
  must(("cd / && %s%s/initdb -D %s/data -U chowk -A trust -E UTF8 --locale=C --no-sync"):format(AS, BIN, node.dir))
  if opts.before then opts.before(node) end
  node:start()
  return node
end

--- A streaming replica of it. opts: port, apply_delay
function Node:standby(opts)
  opts = opts or {}
  local node = new_node(opts)
  must(("cd / && %s%s/pg_basebackup -h %s -p %d -U chowk -D %s/data -R -X stream -c fast --no-sync"):format(
    AS, BIN, self.dir, self.port, node.dir))
  if opts.apply_delay then node:configure("recovery_min_apply_delay = '" .. opts.apply_delay .. "'") end
  node:start()
  return node
end

--- Waits until the standby has replayed what the primary has written by now.
function Node:catch_up(standby)
  local lsn = self:sql("SELECT pg_current_wal_lsn()")
  server.eventually("the standby has caught up", function()
    return standby:sql("SELECT pg_last_wal_replay_lsn() >= '" .. lsn .. "'::pg_lsn") == "t"
  end)
end

return M
