-- A real chowk server for one spec file: real processes, a database of its own (migrated and seeded), a Redis
-- database of its own, a private port. Needs what tests/run.sh exports: CHOWK, TEST_PG_DIR, TEST_REDIS_SOCKET.
--
--   local server = require "spec.support.server"
--   local s = server.start{ config = { workers = 2 }, env = { LIMITS = "off" } }   -- the shop
--   local s = server.start{ app = [[ … ]] }                                         -- an application of one file
--   local s = server.start{ app = …, redis_url = node:url() }                   -- a Redis of its own (support/redis)
--   local s = server.start{ port = server.free_port() }                         -- when somebody has to know it before
--   s:get(path, { headers = … })   s:post(path, { json = …, headers = … })   s:request(method, path, opts)
--   s:parallel{ { "GET", "/x" }, { "POST", "/y", { json = … } } }   s:sql("SELECT …") → rows   s:exec("UPDATE …")
--   s:log() → text   s:logged(text) → boolean   s:stop()   s:kill("TERM")   s:restart()
--
-- pg = a spec.support.postgres object: the database is made there. url = function(database) → the URL that chowk is
-- given, as when it goes through a proxy or a pooler. wrap = a command in front of chowk's, which executes it.
-- binary = a path: a link to chowk is made there and started, so that a spec can put another in its place.
local socket = require "socket"
local json = require "dkjson"
local http = require "spec.support.http"

local M = {}
local Server = {}
Server.__index = Server

local CHOWK = assert(os.getenv "CHOWK", "run specs through `make spec`: CHOWK is not set")
local PG_DIR = assert(os.getenv "TEST_PG_DIR", "run specs through `make spec`: TEST_PG_DIR is not set")
local REDIS = assert(os.getenv "TEST_REDIS_SOCKET", "run specs through `make spec`: TEST_REDIS_SOCKET is not set")

local function quote(s) return "'" .. tostring(s):gsub("'", [['\'']]) .. "'" end

-- Runs a shell command to its end → output (stdout and stderr), exit code.
function M.sh(command)
  local pipe = io.popen("{ " .. command .. "\n} 2>&1; echo \"\n$?\"")
  local text = pipe:read("*a")
  pipe:close()
  local out, code = text:match("^(.*)\n(%d+)\n$")
  return out, tonumber(code)
end

local function must(command)
  local out, code = M.sh(command)
  if code ~= 0 then error(command .. "\n" .. out, 2) end
  return out
end

function M.database_url(name, dir) return "postgresql:///" .. name .. "?host=" .. (dir or PG_DIR) .. "&user=chowk" end

local PSQL = "psql -X -q -A -t -v ON_ERROR_STOP=1 "

local function psql(database, sql, dir)
  local file = os.tmpname()
  local f = assert(io.open(file, "w"))
  f:write(sql)
  f:close()
  local out, code = M.sh(PSQL .. quote(M.database_url(database, dir)) .. " -f " .. quote(file))
  os.remove(file)
  if code ~= 0 then error(sql .. "\n" .. out, 3) end
  return out
end

-- Below the range from which the kernel takes a client's port: one that is free stays so until it is bound, and while
-- the server that had it is down.
function M.free_port()
  local urandom = assert(io.open("/dev/urandom", "rb"))
  for _ = 1, 100 do
    local a, b = urandom:read(2):byte(1, 2)
    local port = 16000 + (a * 256 + b) % 16000
    local probe = socket.bind("127.0.0.1", port)
    if probe then
      probe:close()
      urandom:close()
      return port
    end
  end
  error("no free port below 32000")
end

local function lua_value(v)
  if type(v) ~= "table" then return type(v) == "string" and string.format("%q", v) or tostring(v) end
  local out = {}
  for k, x in pairs(v) do out[#out + 1] = "[" .. lua_value(k) .. "] = " .. lua_value(x) end
  return "{ " .. table.concat(out, ", ") .. " }"
end

-- conf/chowk.lua of the spec: what `base` (Lua text) returns, with `overrides` laid over it.
local function config_text(base, overrides)
  return "local base = (function()\n" .. base .. "\nend)()\n"
    .. "local function lay(t, over) for k, v in pairs(over) do\n"
    .. "  if type(v) == 'table' and type(t[k]) == 'table' and #v == 0 then lay(t[k], v) else t[k] = v end end\n"
    .. "return t end\n"
    .. "return lay(base, " .. lua_value(overrides) .. ")\n"
end

local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

local function read(path)
  local f = io.open(path)
  if not f then return nil end
  local text = f:read("*a")
  f:close()
  return text
end

local next_id = 0
local stamp = tostring(math.floor(socket.gettime() * 1000) % 1000000000)

-- A migrated and seeded database is made once per spec file and copied for each server.
local template
local function shop_database(name, dir, pg_dir)
  if pg_dir ~= PG_DIR then
    local url = quote(M.database_url(name, pg_dir))
    psql("postgres", "CREATE DATABASE " .. name, pg_dir)
    must("cd " .. quote(dir) .. " && DATABASE_URL=" .. url .. " " .. CHOWK .. " migrate")
    must("cd " .. quote(dir .. "/migrations") .. " && " .. PSQL .. url .. " -f seed.sql")
    return
  end
  if not template then
    template = "chowk_t" .. stamp
    psql("postgres", "CREATE DATABASE " .. template)
    must("cd " .. quote(dir) .. " && DATABASE_URL=" .. quote(M.database_url(template)) .. " " .. CHOWK .. " migrate")
    must("cd " .. quote(dir .. "/migrations") .. " && " .. PSQL .. quote(M.database_url(template)) .. " -f seed.sql")
  end
  psql("postgres", "CREATE DATABASE " .. name .. " TEMPLATE " .. template)
end

function Server:start_process()
  local env = { "PORT=" .. self.port, "DATABASE_URL=" .. quote(self.database_url) }
  env[#env + 1] = "REDIS_URL=" .. quote(self.redis_url)
  if not self.env.CHOWK_ADMIN_LISTEN then env[#env + 1] = "CHOWK_ADMIN_LISTEN=off" end
  for k, v in pairs(self.env) do env[#env + 1] = k .. "=" .. quote(v) end
  local command = string.format("cd %s && { env %s %s %s serve >>%s 2>&1 & echo $!; }", quote(self.dir),
    table.concat(env, " "), self.wrap, self.binary or CHOWK, quote(self.log_file))
  self.pid = tonumber((must(command):match("%d+")))
  self:wait_ready()
end

-- The listeners are bound before the workers are ready, so the first answered request means that one is; the master
-- may not know it yet, and a worker that dies before it knows of all ends the start.
function Server:wait_ready()
  local status = ("cd %s && CHOWK_RUN_DIR=%s %s status --json"):format(quote(self.dir),
    quote(self.env.CHOWK_RUN_DIR or ""), CHOWK)
  local function answers()
    local ok, answer = pcall(http.request, "127.0.0.1", self.port, "GET", "/healthz", { timeout = 30 })
    return ok and answer.status > 0
  end
  local deadline = socket.gettime() + 60
  while socket.gettime() < deadline do
    if not self:is_alive() then error("the server did not start:\n" .. self:log(), 3) end
    if answers() and M.sh(status):find('"ready":true', 1, true) then return end
    socket.sleep(0.02)
  end
  error("not ready within 60 s:\n" .. self:log(), 3)
end

function M.start(opts)
  opts = opts or {}
  next_id = next_id + 1
  local self = setmetatable({ port = opts.port or M.free_port(), env = opts.env or {}, wrap = opts.wrap or "" }, Server)
  self.pg_dir = opts.pg and opts.pg.sock_dir or PG_DIR
  self.dir = must("mktemp -d /tmp/chowk-spec.XXXXXX"):match("%S+")
  self.log_file = self.dir .. "/server.log"
  self.database = "chowk_s" .. stamp .. "_" .. next_id
  must("mkdir -p " .. self.dir .. "/conf")
  local config = opts.config or {}
  config.environment = config.environment or "development"
  config.workers = config.workers or 1
  if opts.app then
    write(self.dir .. "/app.lua", opts.app)
    for name, text in pairs(opts.files or {}) do
      must("mkdir -p " .. quote(self.dir .. "/" .. (name:match("^(.*)/") or "")))
      write(self.dir .. "/" .. name, text)
    end
    write(self.dir .. "/conf/chowk.lua", config_text("return {}", config))
    psql("postgres", "CREATE DATABASE " .. self.database, self.pg_dir)
  else
    must("cp -r lua migrations " .. self.dir)
    write(self.dir .. "/conf/chowk.lua", config_text(assert(read("conf/chowk.lua")), config))
    shop_database(self.database, self.dir, self.pg_dir)
  end
  self.database_url = opts.url and opts.url(self.database) or M.database_url(self.database, self.pg_dir)
  local db = next_id % 256
  self.redis_db = db
  self.redis_url = opts.redis_url or "unix://" .. REDIS .. "?db=" .. db
  if not opts.redis_url then must("redis-cli -s " .. REDIS .. " -n " .. db .. " flushdb") end
  if opts.binary then
    self.binary = opts.binary
    must("ln -s " .. CHOWK .. " " .. self.dir .. "/" .. opts.binary)
  end
  if opts.start ~= false then self:start_process() end
  return self
end

function Server:request(method, path, opts) return http.request("127.0.0.1", self.port, method, path, opts) end
function Server:get(path, opts) return self:request("GET", path, opts) end
function Server:post(path, opts) return self:request("POST", path, opts) end
function Server:put(path, opts) return self:request("PUT", path, opts) end
function Server:patch(path, opts) return self:request("PATCH", path, opts) end
function Server:delete(path, opts) return self:request("DELETE", path, opts) end
function Server:begin(method, path, opts) return http.begin("127.0.0.1", self.port, method, path, opts) end
function Server:flow(width, ...) return http.flow("127.0.0.1", self.port, width, ...) end
function Server:parallel(requests, timeout) return http.parallel("127.0.0.1", self.port, requests, timeout) end

-- Rows of a SELECT (or … RETURNING inside WITH) as tables keyed by column name.
function Server:sql(query)
  local out = psql(self.database, "SELECT coalesce(json_agg(t), '[]') FROM (" .. query .. ") t", self.pg_dir)
  return json.decode(out)
end
function Server:exec(statement) return psql(self.database, statement, self.pg_dir) end

local n_held = 0
-- Statements in a session of its own, which keeps what they lock until it is closed: pipe:close(); pipe:write and
-- pipe:flush for more of them. Returns when they have run: the last takes a lock that nobody else asks for.
function Server:hold(statements)
  n_held = n_held + 1
  local lock = 0x686f6c64 + n_held
  local pipe = assert(io.popen("psql -X -q " .. quote(self.database_url) .. " >/dev/null 2>&1", "w"))
  pipe:write(statements, ";\nSELECT pg_advisory_lock(", lock, ");\n")
  pipe:flush()
  M.eventually("held: " .. statements, function()
    return #self:sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = " .. lock) > 0
  end)
  return pipe
end
function Server:redis(command)
  return (must("redis-cli -s " .. REDIS .. " -n " .. self.redis_db .. " " .. command):gsub("\n$", ""))
end

function Server:log() return read(self.log_file) or "" end
-- Whether the log has that text. A server writes its log beside what it answers: the line of an answered request may
-- be a moment away, so it is waited for.
function Server:logged(text)
  return (pcall(M.eventually, text, function() return self:log():find(text, 1, true) end))
end
-- A zombie nobody has reaped yet is not alive, once its other threads, which hold its descriptors, have ended too.
function M.is_alive(pid)
  local status = read("/proc/" .. pid .. "/status")
  if not status or not status:find "\nState:" then return false end
  return not status:find("\nState:%s+Z") or tonumber(status:match "\nThreads:%s+(%d+)") > 1
end
function Server:is_alive() return M.is_alive(self.pid) end

-- pids of the master's children. kind: "--worker", "--jobs", "--check"; nil: all
function Server:processes(kind)
  local pids = {}
  local found = M.sh("pgrep -P " .. self.pid .. (kind and " -f -- '" .. kind .. "'" or ""))
  for pid in found:gmatch("%d+") do pids[#pids + 1] = tonumber(pid) end
  return pids
end

function Server:kill(signal) M.sh("kill -" .. (signal or "TERM") .. " " .. self.pid) end

-- Waits until fn() is true; raises with `what` when it has not become so within seconds.
function M.eventually(what, fn, seconds)
  local deadline = socket.gettime() + (seconds or 20)
  while not fn() do
    if socket.gettime() > deadline then error("not within " .. (seconds or 20) .. " s: " .. what, 2) end
    socket.sleep(0.02)
  end
end

function Server:wait_exit(seconds)
  M.eventually("exit of the server", function() return not self:is_alive() end, seconds or 60)
end
--- Runs `chowk ARGUMENTS` here while the spec goes on → function: nil while it runs, then exit code, output.
function Server:chowk(arguments)
  local out = os.tmpname()
  must(("(cd %s && %s %s >%s 2>&1; echo $? >%s.code) >/dev/null 2>&1 &")
    :format(quote(self.dir), CHOWK, arguments, out, out))
  return function()
    local code = tonumber(read(out .. ".code") or "")
    if not code then return nil end
    return code, read(out)
  end
end

function Server:restart()
  self:kill("TERM")
  self:wait_exit()
  self:start_process()
end
-- Ends the server and everything made for it. A sanitizer's report in the log fails the spec here.
function Server:stop()
  if self.pid then
    self:kill("TERM")
    self:wait_exit()
    self.pid = nil
  end
  local log = self:log()
  psql("postgres", "DROP DATABASE IF EXISTS " .. self.database .. " WITH (FORCE)", self.pg_dir)
  if log:find("ERROR: %w+Sanitizer") or log:find("runtime error:", 1, true) then
    error("sanitizer report:\n" .. log, 2)
  end
  M.sh("rm -rf " .. quote(self.dir))
end

return M
