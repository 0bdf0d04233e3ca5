-- Redis servers and sentinels of a spec's own, on private ports: real processes, stopped by their pid.
--
--   local redis = require "spec.support.redis"
--   local node = redis.start { args = "--save ''" }      node:url()   node:cli "get k"   node.pid
--   node:stop()   node:kill()   node:start()             the same port and directory
--   redis.sentinels(node, 3) → list of nodes that watch it as "shop"
--   redis.stop_all()                                     in teardown: ends whatever runs, removes the directories
local server = require "spec.support.server"

local M = {}
local Node = {}
Node.__index = Node

local sh = server.sh
local all = {}

local function read(path)
  local f = io.open(path)
  if not f then return "" end
  local text = f:read("*a")
  f:close()
  return text
end

function Node:is_alive() return self.pid ~= nil and server.is_alive(self.pid) end

-- The answer as text, "" when there is none. Gives up by itself.
function Node:cli(command)
  local out = sh("timeout 5 redis-cli " .. self.cli_args .. " -p " .. self.port .. " " .. command)
  return (out:gsub("\n$", ""))
end

-- Starts it and does not wait. args: more of them, for this once
function Node:spawn(args)
  local command = "cd %s && { redis-server %s %s >>log 2>&1 & echo $!; }"
  self.pid = tonumber((sh(command:format(self.dir, self.args, args or "")):match("%d+")))
end

function Node:start()
  self:spawn()
  server.eventually("redis on port " .. self.port .. "\n" .. read(self.dir .. "/log"), function()
    return self:cli("ping"):find("PONG", 1, true) or self:cli("ping"):find("NOAUTH", 1, true)
  end)
  return self
end

local function wait_gone(node)
  server.eventually("end of redis on port " .. node.port, function() return not node:is_alive() end)
end

function Node:signal(name) sh("kill -" .. name .. " " .. self.pid) end

function Node:stop()
  if not self:is_alive() then return end
  self:signal("CONT")
  self:signal("TERM")
  wait_gone(self)
end

function Node:kill() -- no good-bye
  self:signal("KILL")
  wait_gone(self)
end

function Node:url() return "redis://127.0.0.1:" .. self.port end

--- opts: args = more arguments of redis-server; cli = of redis-cli; config = text of a file instead of arguments
function M.start(opts)
  opts = opts or {}
  local node = setmetatable({ port = opts.port or server.free_port(), cli_args = opts.cli or "" }, Node)
  node.dir = sh("mktemp -d /tmp/chowk-redis.XXXXXX"):match("%S+")
  if opts.config then
    local f = assert(io.open(node.dir .. "/own.conf", "w"))
    f:write("port " .. node.port .. "\ndir " .. node.dir .. "\n" .. opts.config)
    f:close()
    node.args = node.dir .. "/own.conf " .. (opts.args or "")
  else
    node.args = "--port " .. node.port .. " --bind 127.0.0.1 --dir " .. node.dir
      .. " --save '' --appendonly no --enable-debug-command local " .. (opts.args or "")
  end
  all[#all + 1] = node
  return node:start()
end

-- n sentinels that watch `node` as "shop" and fail over within a second or two. opts: config = more lines, cli
function M.sentinels(node, n, opts)
  opts = opts or {}
  local list = {}
  for i = 1, n do
    list[i] = M.start { args = "--sentinel", cli = opts.cli,
      config = "bind 127.0.0.1\nsentinel monitor shop 127.0.0.1 " .. node.port
      .. " 2\nsentinel down-after-milliseconds shop 800\nsentinel failover-timeout shop 3000\n"
      .. "sentinel parallel-syncs shop 2\n" .. (opts.config or "") }
  end
  server.eventually("sentinels that know each other and the replicas", function()
    for _, sentinel in ipairs(list) do
      local text = sentinel:cli("sentinel master shop")
      if tonumber(text:match("num%-other%-sentinels\n(%d+)")) ~= n - 1 then return false end
    end
    return true
  end)
  return list
end

function M.stop_all()
  for _, node in ipairs(all) do
    node:stop()
    sh("rm -rf " .. node.dir)
  end
  all = {}
end

return M
