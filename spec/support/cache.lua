-- The application of the cache's specs, and what they do with it.
--
--   local fixture = require "spec.support.cache"
--   local s = fixture.start { workers = 2, redis_url = node:url() }      a server (spec.support.server)
--   fixture.v(s, "t1")                                                   what /things/t1 says
local server = require "spec.support.server"
local assert = require "luassert"

local M = {}

-- What every application here shares: a table of things, a table of loads (so that loads are counted where all workers
-- and machines see them), and gates: a loader that is told to waits until the gate's row is gone.
local SCHEMA = [[
  CREATE TABLE things (id text PRIMARY KEY, body jsonb NOT NULL);
  CREATE TABLE loads (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, key text, worker int);
  CREATE TABLE gates (name text PRIMARY KEY);
  INSERT INTO things SELECT 't' || n, json_build_object('v', 0) FROM generate_series(1, 50) n;
]]

-- The shop's own table of records.
local function migration()
  local f = assert(io.open("migrations/0006_cache_forget.sql"))
  local text = f:read("*a")
  f:close()
  return text
end

local APP = [[
local app, cache, pg, task, json, log = require "chowk.app", require "chowk.cache", require "chowk.pg",
  require "chowk.task", require "chowk.json", require "chowk.log"
local routes = app.routes()

local function await_gate(name)
  while pg.value("SELECT true FROM gates WHERE name = $1", name) do task.sleep(0.01) end
end

local function load_thing(id, gate)
  return function()
    pg.exec("INSERT INTO loads (key) VALUES ($1)", id)
    local body = pg.value("SELECT body FROM things WHERE id = $1", id)
    if gate then
      log.warn("loading " .. id)
      await_gate(gate)
    end
    if body and body.fail then pg.exec("SELECT 1 / 0") end
    return body and json.raw(json.encode(body))
  end
end

local function number(text) return text and tonumber(text) end

-- ?gate= ?ttl= ?stale= ?neg= ?refresh= ?tag=
routes:get("/things/:id", function(req)
  local q = req.query
  return cache.fetch("thing:" .. req.params.id, { ttl = number(q.ttl) or "6h", stale = number(q.stale) or 0,
    neg_ttl = number(q.neg) or 0, refresh = q.refresh and true or false, tags = q.tag and { q.tag } or nil,
    jitter = 0 }, load_thing(req.params.id, q.gate)) or app.fail(404, "nothing")
end)
routes:put("/things/:id", function(req)
  pg.tx(function(tx)
    tx:exec("UPDATE things SET body = $2::jsonb WHERE id = $1", req.params.id, pg.jsonb(req:json()))
    if req.query.tag then tx:forget{ tags = req.query.tag } else tx:forget{ keys = { "thing:" .. req.params.id } } end
    if req.query.commit then tx:commit{ { "SELECT 1" } } end
  end)
  return app.empty
end)
routes:post("/raw/:id", function(req)        -- a write that nobody tells the cache of
  pg.exec("UPDATE things SET body = $2::jsonb WHERE id = $1", req.params.id, pg.jsonb(req:json()))
  return app.empty
end)
routes:get("/late/:id", function(req)        -- the loader reads req, also after the answer
  return { value = cache.fetch("late:" .. req.params.id, { ttl = 0.05, stale = 60, jitter = 0 }, function()
    task.sleep(0.02)
    return req.params.id .. pg.value("SELECT count(*) FROM loads")
  end) }
end)
routes:delete("/things/:id", function(req) cache.delete("thing:" .. req.params.id) return app.empty end)
routes:delete("/tags/:tag", function(req) cache.purge_tag(req.params.tag) return app.empty end)
routes:delete("/all", function() cache.purge_all() return app.empty end)
routes:get("/get/:id", function(req) return cache.get("thing:" .. req.params.id) or app.fail(404, "nothing") end)
routes:get("/stats", function() return cache.stats() end)

routes:get("/many", function(req)
  local ids = {}
  for id in req.query.ids:gmatch("[^,]+") do ids[#ids + 1] = "thing:" .. id end
  local found = cache.fetch_many(ids, {}, function(missing)
    pg.exec("INSERT INTO loads (key) VALUES ($1)", "many" .. #missing)
    local plain = {}
    for i, key in ipairs(missing) do plain[i] = key:sub(7) end
    local out = {}
    for _, row in ipairs(pg.query("SELECT id, body FROM things WHERE id = ANY($1)", pg.array(plain))) do
      out["thing:" .. row.id] = { id = row.id, gone = json.null, body = row.body }
    end
    return out
  end)
  return { found = found, got = cache.get_many(ids) }
end)

routes:get("/kinds", function()
  local out = {}
  for i = 1, 2 do
    local row = cache.fetch("row", {}, function() return pg.one("SELECT 1 AS a, NULL::int AS b, '{}'::int[] AS c") end)
    out[i] = { row = row, is_nil = row.b == nil, text = cache.fetch("text", {}, function() return "plain" end),
      no = cache.fetch("no", {}, function() return false end) == false,
      num = cache.fetch("num", {}, function() return 12.5 end),
      list = cache.fetch("list", {}, function() return json.array {} end) }
  end
  return out
end)

local MISUSE = {
  number = function() return cache.fetch(7, {}, function() end) end,
  empty = function() return cache.fetch("", {}, function() end) end,
  long = function() return cache.fetch(("x"):rep(251), {}, function() end) end,
  option = function() return cache.fetch("m", { tll = 1 }, function() end) end,
  loader = function() return cache.fetch("m", {}) end,
  tag = function() return cache.fetch("m", { tags = { "a b" } }, function() end) end,
  put = function() return cache.put("m", 1) end,
  big = function() return cache.fetch("big", {}, function() return ("x"):rep(2 * 1024 * 1024) end) end,
  itself = function()
    return cache.fetch("self", {}, function() return cache.fetch("self", {}, function() return 1 end) end)
  end,
  fn = function() return cache.fetch("fn", {}, function() return print or error end) end,
  tx = function() return pg.tx(function() return cache.fetch("thing:t1", {}, function() end) end) end,
  tx_delete = function() return pg.tx(function() return cache.delete("x") end) end,
}
routes:get("/misuse/:what", function(req)
  local ok, err = pcall(MISUSE[req.params.what])
  return { ok = ok, text = tostring(err), code = type(err) == "table" and err.code or nil }
end)

routes:get("/raises", function()
  local out = {}
  for i = 1, 2 do
    local value, err = try(cache.fetch, "raises", {}, function()
      pg.exec("INSERT INTO loads (key) VALUES ('raises')")
      pg.exec("SELECT 1 / 0")
    end)
    out[i] = { value = value, state = err.sqlstate }
  end
  return out
end)

routes:get("/savepoint", function()          -- what is undone is not forgotten; the rest is
  pg.tx(function(tx)
    tx:forget{ keys = "kept" }
    tx:savepoint(function()
      tx:forget{ keys = "undone" }
      tx:exec("SELECT 1 / 0")
    end)
  end)
  return { rows = pg.value("SELECT count(*) FROM cache_forget") }
end)
routes:get("/fetch/:key", function(req)
  return { value = cache.fetch(req.params.key, {}, function() return req.query.value end) }
end)

routes:put("/doomed/:id", function(req)      -- has committed, and is killed before it can tell anybody
  pg.tx(function(tx)
    tx:exec("UPDATE things SET body = '{\"v\": 77}' WHERE id = $1", req.params.id)
    tx:forget{ keys = { "thing:" .. req.params.id } }
    tx:commit{ { "SELECT 1" } }
    log.warn("doomed")
    task.sleep("20s")
  end)
end)
routes:get("/hold/:id", { deadline = "1s" }, function(req)   -- its loader is cut by the deadline
  return cache.fetch("thing:" .. req.params.id, {}, load_thing(req.params.id, req.query.gate))
end)
return routes
]]

function M.start(opts)
  opts = opts or {}
  local config = { workers = opts.workers or 1, log = { level = "warn" }, http = { max_connections = 5000 } }
  local admin_port = server.free_port()
  local s = server.start { app = APP, config = config, redis_url = opts.redis_url, start = false,
    env = { CHOWK_ADMIN_LISTEN = "127.0.0.1:" .. admin_port } }
  s.admin_port = admin_port
  s:exec(SCHEMA .. migration()) -- before it starts: who finds no table of records looks again only after half a minute
  s:start_process()
  return s
end

function M.n_loads(s, key)
  return s:sql("SELECT count(*) AS n FROM loads WHERE key = '" .. key .. "'")[1].n
end

function M.v(s, id, query)
  local answer = s:get("/things/" .. id .. (query or ""))
  assert.equal(200, answer.status, answer.body)
  return answer.json.v
end

function M.close_gate(s, name) s:exec("INSERT INTO gates VALUES ('" .. name .. "')") end
function M.open_gate(s, name) s:exec("DELETE FROM gates WHERE name = '" .. name .. "'") end

function M.await_loads(s, key, n)
  server.eventually(n .. " loads of " .. key, function() return M.n_loads(s, key) == n end)
end

return M
