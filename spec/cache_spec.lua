-- chowk.cache: one load per key and machine, nothing old after a write (T13), and what happens when parts of it die.
local server = require "spec.support.server"
local redis = require "spec.support.redis"
local exposition = require "spec.support.exposition"
local holder = require "spec.support.holder"
local http = require "spec.support.http"
local proxy = require "spec.support.proxy"
local socket = require "socket"

local eventually = server.eventually

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

local function start(opts)
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

local function n_loads(s, key)
  return s:sql("SELECT count(*) AS n FROM loads WHERE key = '" .. key .. "'")[1].n
end

local function v(s, id, query)
  local answer = s:get("/things/" .. id .. (query or ""))
  assert.equal(200, answer.status, answer.body)
  return answer.json.v
end

local function close_gate(s, name) s:exec("INSERT INTO gates VALUES ('" .. name .. "')") end
local function open_gate(s, name) s:exec("DELETE FROM gates WHERE name = '" .. name .. "'") end

-- Sends a request whose answer is read later: → function that waits for it, its socket.
local function begin(s, path, method)
  local sock = assert(socket.connect("127.0.0.1", s.port))
  sock:settimeout(30)
  sock:send((method or "GET") .. " " .. path .. " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
  return function()
    local text = sock:receive("*a")
    sock:close()
    return http.parse(text or "")
  end, sock
end

local function await_loads(s, key, n)
  eventually(n .. " loads of " .. key, function() return n_loads(s, key) == n end)
end

local function processes_of(s)
  local pids = {}
  for pid in server.sh("pgrep -P " .. s.pid):gmatch("%d+") do pids[#pids + 1] = tonumber(pid) end
  return pids
end

describe("chowk.cache", function()
  local s

  setup(function() s = start { workers = 1 } end)
  teardown(function() s:stop() end)

  it("loads once, then answers from memory, byte for byte", function()
    local first = s:get("/things/t1")
    s:exec("UPDATE things SET body = '{\"v\": 5}' WHERE id = 't1'")
    local second = s:get("/things/t1")
    assert.equal(200, second.status)
    assert.equal(first.body, second.body)
    assert.equal(1, n_loads(s, "t1"))
    assert.equal(first.body, s:get("/get/t1").body)
    assert.equal("application/json", second.headers["content-type"])
  end)

  it("loads again after tx:forget, with and without tx:commit, and after delete", function()
    assert.equal(204, s:put("/things/t2", { json = { v = 1 } }).status)
    assert.equal(1, v(s, "t2"))
    s:put("/things/t2", { json = { v = 2 } })
    assert.equal(2, v(s, "t2"))
    s:put("/things/t2?commit=1", { json = { v = 3 } })
    assert.equal(3, v(s, "t2"))
    s:post("/raw/t2", { json = { v = 4 } })
    assert.equal(3, v(s, "t2"))
    s:delete("/things/t2")
    assert.equal(4, v(s, "t2"))
    eventually("the records are gone", function() return s:sql("SELECT count(*) AS n FROM cache_forget")[1].n == 0 end)
  end)

  it("forgets by tag, and everything", function()
    assert.equal(0, v(s, "t3", "?tag=red"))
    assert.equal(0, v(s, "t4", "?tag=red"))
    assert.equal(0, v(s, "t5", "?tag=blue"))
    for _, id in ipairs { "t3", "t4", "t5" } do s:post("/raw/" .. id, { json = { v = 1 } }) end
    s:delete("/tags/red")
    assert.same({ 1, 1, 0 }, { v(s, "t3", "?tag=red"), v(s, "t4", "?tag=red"), v(s, "t5", "?tag=blue") })
    s:delete("/all")
    assert.equal(1, v(s, "t5", "?tag=blue"))
    s:put("/things/t3?tag=red", { json = { v = 2 } })
    assert.equal(2, v(s, "t3", "?tag=red"))
  end)

  it("remembers nothing only when asked to", function()
    for _ = 1, 2 do assert.equal(404, s:get("/things/none").status) end
    assert.equal(2, n_loads(s, "none"))
    for _ = 1, 3 do assert.equal(404, s:get("/things/never?neg=60").status) end
    assert.equal(1, n_loads(s, "never"))
  end)

  it("reloads when told to", function()
    assert.equal(0, v(s, "t6"))
    s:post("/raw/t6", { json = { v = 9 } })
    assert.equal(9, v(s, "t6", "?refresh=1"))
    assert.equal(9, v(s, "t6"))
  end)

  it("gives the same on a miss and on a hit, whatever the type", function()
    local both = s:get("/kinds").json
    assert.same(both[1], both[2])
    assert.is_true(both[1].is_nil and both[1].no)
    assert.same({ "plain", 12.5 }, { both[1].text, both[1].num })
    assert.truthy(s:get("/kinds").body:find('"b":null', 1, true))
    assert.truthy(s:get("/kinds").body:find('"list":[]', 1, true))
  end)

  it("loads many keys by one call", function()
    assert.equal(0, v(s, "t10"))
    local answer = s:get("/many?ids=t10,t11,t12,missing,t11")
    assert.equal(200, answer.status, answer.body)
    assert.same({ v = 0 }, answer.json.found["thing:t10"])
    assert.equal("t12", answer.json.found["thing:t12"].id)
    assert.is_nil(answer.json.found["thing:missing"])
    assert.same(answer.json.found, answer.json.got)
    assert.equal(1, n_loads(s, "many3"))
    s:get("/many?ids=t10,t11,t12")
    assert.equal(1, s:sql("SELECT count(*) AS n FROM loads WHERE key LIKE 'many%'")[1].n)
  end)

  it("raises what the loader raises, and does not keep it", function()
    local both = s:get("/raises").json
    assert.same({ "22012", "22012" }, { both[1].state, both[2].state })
    assert.equal(2, n_loads(s, "raises"))
  end)

  it("says what was done wrong", function()
    local expected = {
      number = "app.lua:%d+: cache: a key is a string, got number", empty = "app.lua:%d+: cache: an empty key",
      long = "a key of 251 bytes, at most 250", option = 'unknown option "tll"', loader = "got nil for the loader",
      tag = 'tag "a b" has white space', put = "cache.put does not exist", big = "has 2097152 bytes, cache.max_value",
      itself = 'the loader of "self" fetches the same key', fn = "what cannot be stored",
      tx = "inside a transaction: read through tx", tx_delete = "inside a transaction",
    }
    for what, text in pairs(expected) do
      local answer = s:get("/misuse/" .. what).json
      assert.is_false(answer.ok, what)
      assert.truthy(answer.text:find(text), what .. ": " .. answer.text)
    end
    assert.equal("invalid", s:get("/misuse/big").json.code)
  end)

  it("undoes tx:forget with its savepoint", function()
    for _, key in ipairs { "kept", "undone" } do assert.equal("1", s:get("/fetch/" .. key .. "?value=1").json.value) end
    s:get("/savepoint")
    assert.equal("2", s:get("/fetch/kept?value=2").json.value)
    assert.equal("1", s:get("/fetch/undone?value=2").json.value)
  end)

  -- T13: a loader that read the old row, a writer that commits, a loader that wants to store it.
  it("never keeps what was read before a write", function()
    close_gate(s, "old")
    local old = begin(s, "/things/t20?gate=old")
    await_loads(s, "t20", 1)
    s:put("/things/t20", { json = { v = 1 } })
    assert.equal(1, v(s, "t20"))      -- does not wait for the old load either
    open_gate(s, "old")
    assert.equal(0, old().json.v)     -- it began before the write
    assert.equal(1, v(s, "t20"))
    s:delete("/all")
    assert.equal(1, v(s, "t20"))
    -- by tag, too: and who waited for the old load gets the new value
    close_gate(s, "old")
    old = begin(s, "/things/t21?gate=old&tag=x")
    await_loads(s, "t21", 1)
    local waiting = begin(s, "/things/t21?tag=x")
    eventually("somebody waits", function() return s:get("/stats").json.waits > 0 end)
    s:put("/things/t21?tag=x", { json = { v = 1 } })
    open_gate(s, "old")
    assert.equal(0, old().json.v)
    assert.equal(1, waiting().json.v)
    assert.equal(1, v(s, "t21", "?tag=x"))
  end)

  it("serves the old value while one caller loads the new one", function()
    assert.equal(0, v(s, "t22", "?ttl=0.05&stale=60"))
    s:post("/raw/t22", { json = { v = 1 } })
    socket.sleep(0.06)                -- the ttl itself
    close_gate(s, "slow")
    for _ = 1, 20 do assert.equal(0, v(s, "t22", "?ttl=60&stale=60&gate=slow")) end -- none waits
    await_loads(s, "t22", 2)
    open_gate(s, "slow")
    eventually("the new value", function() return v(s, "t22", "?ttl=60&stale=60") == 1 end)
    assert.equal(2, n_loads(s, "t22"))
  end)

  it("lets a refresh read what the handler had read of its request", function()
    local old = s:get("/late/x").json.value
    s:exec("INSERT INTO loads (key) VALUES ('late')")
    socket.sleep(0.06)                -- the ttl itself
    assert.equal(old, s:get("/late/x").json.value)
    eventually("the new value", function() return s:get("/late/x").json.value ~= old end)
  end)

  it("serves the old value when the new one cannot be loaded", function()
    assert.equal(0, v(s, "t23", "?ttl=0.05&stale=60"))
    s:post("/raw/t23", { json = { v = 1, fail = true } })
    socket.sleep(0.06)
    for _ = 1, 10 do assert.equal(0, v(s, "t23", "?ttl=60&stale=60")) end
    eventually("a word in the log", function() return s:log():find("a refresh failed", 1, true) ~= nil end)
    assert.truthy(n_loads(s, "t23") <= 3, "refreshes are not paced")
    s:post("/raw/t23", { json = { v = 2 } })
    eventually("the new value", function() return v(s, "t23", "?ttl=60&stale=60") == 2 end)
  end)

  it("hands a load on when its deadline ends it", function()
    close_gate(s, "held")
    local held = begin(s, "/hold/t24?gate=held")
    await_loads(s, "t24", 1)
    local next_one = begin(s, "/things/t24")
    assert.equal(503, held().status)
    assert.equal(0, next_one().json.v)
    assert.equal(2, n_loads(s, "t24"))
    open_gate(s, "held")
  end)

  it("forgets what a process committed that was killed before it could forget", function()
    assert.equal(0, v(s, "t9"))
    local doomed = begin(s, "/doomed/t9", "PUT")
    eventually("its commit", function() return s:log():find("doomed", 1, true) ~= nil end)
    assert.equal(0, v(s, "t9"))       -- the memory does not know yet
    server.sh("kill -9 " .. processes_of(s)[1])
    assert.equal(0, doomed().status)
    eventually("the new value", function()
      local ok, value = pcall(v, s, "t9") -- refused while the worker is started again
      return ok and value == 77
    end)
    eventually("the record is gone", function() return s:sql("SELECT count(*) AS n FROM cache_forget")[1].n == 0 end)
  end)
end)

describe("chowk.cache over workers and machines", function()
  local a, b, node, n_processes

  setup(function()
    node = redis.start { args = "--appendonly yes --appendfsync no" } -- what it holds survives its death
    a = start { workers = 4, redis_url = node:url() }
    b = start { workers = 2, redis_url = node:url() }
  end)
  teardown(function()
    a:stop()
    b:stop()
    redis.stop_all()
  end)

  it("runs one loader for a thousand misses", function()
    close_gate(a, "one")
    local first, others = begin(a, "/things/t1?gate=one"), {}
    await_loads(a, "t1", 1)
    for i = 1, 1000 do others[i] = begin(a, "/things/t1") end
    eventually("all of them wait", function() return a:get("/stats").json.misses_l1 >= 1001 end)
    open_gate(a, "one")
    assert.equal(200, first().status)
    for i = 1, 1000 do assert.equal(200, others[i]().status) end
    assert.equal(1, n_loads(a, "t1"))
  end)

  it("lets none of a thousand wait while one loads what has gone stale", function()
    local list = {}
    assert.equal(0, v(a, "t14", "?ttl=0.05&stale=600"))
    a:post("/raw/t14", { json = { v = 1 } })
    socket.sleep(0.06)                -- the ttl itself
    close_gate(a, "stale")
    for i = 1, 1000 do list[i] = { "GET", "/things/t14?ttl=600&stale=600&gate=stale" } end
    for _, answer in ipairs(a:parallel(list)) do assert.same({ 200, 0 }, { answer.status, answer.json.v }) end
    eventually("a load", function() return n_loads(a, "t14") >= 2 end) -- which the gate still holds
    open_gate(a, "stale")
    eventually("the new value", function() return v(a, "t14") == 1 end)
    -- A second one, not one a reader; a worker that got no core for a second is taken for dead, and overtaken.
    assert.truthy(n_loads(a, "t14") <= 4, n_loads(a, "t14"))
  end)

  it("finds in Redis what another machine has loaded", function()
    assert.equal(0, v(a, "t2"))
    assert.equal(0, v(b, "t2"))       -- b has a database of its own: it did not ask it
    assert.equal(0, n_loads(b, "t2"))
  end)

  it("forgets on the other machine", function()
    assert.equal(0, v(a, "t3"))
    for _ = 1, 8 do assert.equal(0, v(b, "t3")) end
    a:put("/things/t3", { json = { v = 1 } })
    assert.equal(1, v(a, "t3"))
    eventually("the new value on b", function() return v(b, "t3") == 1 end)
    for _ = 1, 8 do assert.equal(1, v(b, "t3")) end
  end)

  it("keeps no old value anywhere when the loader runs on another machine", function()
    close_gate(b, "far")
    local old = begin(b, "/things/t4?gate=far")
    await_loads(b, "t4", 1)
    b:post("/raw/t4", { json = { v = 1 } })
    a:post("/raw/t4", { json = { v = 1 } })
    a:delete("/things/t4")
    open_gate(b, "far")
    assert.equal(0, old().json.v)
    for _, s in ipairs { a, b } do
      for _ = 1, 8 do assert.equal(1, v(s, "t4")) end
    end
  end)

  it("hands the load of a killed worker on", function()
    close_gate(a, "kill")
    n_processes = #processes_of(a)
    local before = a:get("/stats").json.misses_l1
    local doomed = begin(a, "/things/t5?gate=kill")
    await_loads(a, "t5", 1)
    local waiting = {}
    for i = 1, 40 do waiting[i] = begin(a, "/things/t5") end
    eventually("they wait", function() return a:get("/stats").json.misses_l1 >= before + 41 end)
    assert.truthy(a:logged(": loading t5"))
    local worker = tonumber(a:log():match("worker (%d+): loading t5")) -- they were started in this order
    server.sh("kill -9 " .. processes_of(a)[worker + 1])
    assert.equal(0, doomed().status)
    local n_ok = 0
    for i = 1, 40 do if waiting[i]().status == 200 then n_ok = n_ok + 1 end end
    assert.truthy(n_ok > 0, "nobody was answered") -- though the gate is still closed to the one who died
    assert.equal(0, v(a, "t5"))
    eventually("its claim is gone", function() return a:get("/stats").json.in_flight == 0 end)
    open_gate(a, "kill")
  end)

  it("hands on at once what somebody was to load who goes away", function()
    local p = proxy.start("127.0.0.1:" .. node.port)
    local c = start { workers = 1, redis_url = "redis://127.0.0.1:" .. p.port }
    finally(function() c:stop() p:stop() end)
    local function in_flight() return c:get("/stats").json.in_flight end
    assert.equal(0, v(c, "t20"))      -- the connection and its scripts are there
    eventually("nothing under way", function() return in_flight() == 0 end)
    p:tell("halve thing:t30")         -- of three answers one arrives: the order to load
    local _, sock = begin(c, "/many?ids=t30,t31,t32")
    eventually("half an answer", function() return p:tell("trapped") == "1" end)
    sock:setoption("linger", { on = true, timeout = 0 }) -- a reset, not a half-close, before Redis is given up
    sock:close()
    eventually("nothing under way", function() return in_flight() == 0 end)
  end)

  it("stalls nobody when a process dies, or stands still, with all its locks in hand", function()
    local c = start { workers = 2 }
    finally(function() c:stop() end)
    local function all_answer()
      for i = 1, 50 do assert.equal(0, v(c, "t" .. i)) end
    end
    local function figure(name) return c:get("/stats").json[name] end
    all_answer()
    assert.truthy(holder.die(c, "chowk-cache") > 0)
    all_answer()                      -- its parts are emptied, and filled anew
    assert.truthy(figure "orphaned_shards" > 0)
    local held = holder.stop(c, "chowk-cache")
    assert.truthy(held.n_locks > 0)
    all_answer()                      -- a lock that is not had in time is a miss
    assert.truthy(figure "busy_locks" > 0)
    held:kill()
    all_answer()
    local n = figure "loads"
    all_answer()
    assert.equal(n, figure "loads")   -- and it keeps what it is given once more
  end)

  it("answers the operator", function()
    local function chowk(args)
      return server.sh("cd " .. a.dir .. " && " .. os.getenv "CHOWK" .. " cache " .. args)
    end
    assert.equal(0, v(a, "t10", "?tag=cli"))
    assert.equal(0, v(a, "t11", "?tag=cli"))
    local out, code = chowk("")
    assert.equal(0, code, out)
    assert.truthy(out:find("\nloads +%d+\n") and out:find("\nl2 +yes\n"), out)
    assert.truthy(chowk("stats --json"):find('^{"hits_l1":%d+,'))
    for _, id in ipairs { "t10", "t11" } do
      for _, s in ipairs { a, b } do s:post("/raw/" .. id, { json = { v = 1 } }) end
    end
    out, code = chowk("purge thing:t10")
    assert.same({ "purged\n", 0 }, { out, code })
    assert.equal(1, v(a, "t10", "?tag=cli"))
    assert.equal(0, v(a, "t11", "?tag=cli"))
    chowk("purge --tag cli")
    assert.equal(1, v(a, "t11", "?tag=cli"))
    for _, s in ipairs { a, b } do s:post("/raw/t11", { json = { v = 2 } }) end
    chowk("purge --all")
    assert.equal(2, v(a, "t11", "?tag=cli"))
    eventually("b has heard of it", function() return v(b, "t11", "?tag=cli") == 2 end)
    for _, wrong in ipairs { "purge", "purge --all x", "purge --tag", "drop", "stats x" } do
      out, code = chowk(wrong)
      assert.equal(2, code, wrong .. ": " .. out)
    end
    assert.equal(1, select(2, chowk("purge --tag 'a b'")))
  end)

  it("is counted by layer", function()
    local function metric(name, labels)
      local text = http.request("127.0.0.1", a.admin_port, "GET", "/metrics").body
      return exposition.value(exposition.parse(text), name, labels) or 0
    end
    assert.equal(0, v(b, "t13"))
    assert.equal(0, v(a, "t13"))   -- from where b put it
    eventually("the figures", function()
      return metric("cache_lookups_total", { layer = "l1", result = "miss" }) > 0
        and metric("cache_lookups_total", { layer = "l2", result = "hit" }) > 0
        and metric("cache_loads_total", { result = "ok" }) > 0 and metric("cache_l1_items") > 0
    end)
    local stats = a:get("/stats").json -- the memory is one, however many workers there are
    assert.equal(stats.bytes, metric("cache_l1_bytes"))
  end)

  it("goes on without Redis, and forgets what it missed", function()
    eventually("the workers are back", function() return #processes_of(a) == n_processes end)
    assert.equal(0, v(a, "t6"))
    assert.equal(0, v(b, "t6"))
    assert.equal(0, v(b, "t7"))
    node:signal("STOP")               -- it accepts, and says nothing
    assert.equal(0, v(a, "t12"))
    assert.equal(204, a:delete("/things/t12").status)
    node:signal("CONT")
    node:kill()
    assert.equal(0, v(a, "t6"))       -- L1
    assert.equal(0, v(a, "t8"))       -- the loader
    assert.equal(204, a:put("/things/t6", { json = { v = 1 } }).status)
    assert.equal(1, v(a, "t6"))
    assert.equal(204, a:delete("/things/t8").status)
    assert.equal(0, v(b, "t7"))
    node:start()                      -- with the old t6
    b:post("/raw/t6", { json = { v = 1 } })
    eventually("b has heard of it", function() return v(b, "t6") == 1 end)
    for _ = 1, 8 do assert.equal(1, v(a, "t6")) end
    eventually("no record is left", function() return a:sql("SELECT count(*) AS n FROM cache_forget")[1].n == 0 end)
  end)
end)
