-- chowk.pg as Lua authors see it, on a real server: shapes, types, misuse, transactions, cancel.
local server = require "spec.support.server"
local socket = require "socket"

local APP = [=[
local app, pg, json, task = require "chowk.app", require "chowk.pg", require "chowk.json", require "chowk.task"
local routes = app.routes()

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return "no error" end
  return type(err) == "table" and { code = err.code, sqlstate = err.sqlstate, message = err.message } or err
end

routes:get("/shapes", {}, function()
  return {
    query = pg.query("SELECT g AS n, NULL AS nothing FROM generate_series(1, 2) g"),
    none = pg.query("SELECT 1 WHERE false"),
    one = pg.one("SELECT 7 AS n"), absent = pg.one("SELECT 1 WHERE false") == nil,
    value = pg.value("SELECT $1::int + 1", 41), null_value = pg.value("SELECT NULL") == nil,
    exec = pg.exec("INSERT INTO items (id, v) SELECT g, 'v' || g FROM generate_series(1, 3) g"),
    json = pg.json("SELECT id FROM items ORDER BY id"), json_one = pg.json_one("SELECT true AS yes"),
    all = pg.all { { "SELECT 1 AS a" }, { "SELECT $1::text AS b", pg.null } },
    method = pg:value("SELECT 5"),
  }
end)

routes:get("/all", {}, function()
  local failed = failure(pg.all, { { "INSERT INTO items VALUES (30, 'a')" }, { "SELECT 1 / 0" },
    { "INSERT INTO items VALUES (31, 'b')" }, { "SELECT pg_sleep(0.2)" } })
  local lists = {}
  for i = 1, 300 do lists[i] = { "SELECT $1::int AS i", i } end
  local in_order = true
  for i, rows in ipairs(pg.all(lists)) do in_order = in_order and rows[1].i == i end
  return { failed = failed, stored = pg.value("SELECT count(*) FROM items WHERE id IN (30, 31)"), in_order = in_order,
    empty = failure(pg.all, {}), flat = failure(pg.all, { "SELECT 1" }), method = #pg:all { { "SELECT 1" } },
    refused = failure(pg.all, { { "SELECT 1" }, { "BEGIN" } }) }
end)

routes:get("/round-trip", {}, function()
  pg.exec("INSERT INTO wide VALUES (1, $1, $2, $3, $4, $5, $6)", "-9223372036854775808", "9999999999999999.9999",
    "2026-11-23T06:19:16.123456Z", pg.array { 'a"\\', pg.null, "", "{,}" },
    pg.jsonb { a = { 1, json.null }, b = json.array {} }, 1.1)
  local row = pg.one("SELECT * FROM wide")
  return {
    row = row,
    same = pg.exec("UPDATE wide SET id = 2 WHERE n = $1 AND q = $2 AND t = $3 AND a = $4 AND j = $5 AND f = $6",
      row.n, row.q, row.t, pg.array(row.a), pg.jsonb(row.j), row.f),
  }
end)

routes:get("/misuse", {}, function()
  local kept
  pg.tx(function(tx) kept = tx end)
  return {
    bare = failure(pg.one, "SELECT $1", {}),
    count = failure(pg.one, "SELECT $1::int, $2::int", 1),
    begin = failure(pg.exec, "BEGIN"),
    hole = failure(pg.all, { { "SELECT $1::int, $2::int", nil, 2 } }),
    pool = pg.tx(function() return failure(pg.one, "SELECT 1") end),
    nested = pg.tx(function() return failure(pg.tx, function() end) end),
    ended = failure(kept.one, kept, "SELECT 1"),
    unknown = failure(pg.tx, function() end, { isolatoin = "serializable" }),
  }
end)

routes:get("/tx/commit", {}, function()
  return { pg.tx(function(tx)
    tx:exec("INSERT INTO items VALUES (10, 'ten')")
    local undone, err = tx:savepoint(function() tx:exec("INSERT INTO items VALUES (10, 'again')") end)
    local locked = tx:lock("items", { 10, 999 }, { wait = "1s" })
    local lists = tx:commit { { "UPDATE items SET v = $1 WHERE id = 10 RETURNING v", "TEN" }, { "SELECT 2 AS two" } }
    return { undone = undone == nil, sqlstate = err.sqlstate, locked = locked[10].v, missing = locked[999] == nil,
      lists = lists }
  end) }
end)

routes:get("/tx/fail", {}, function()
  pg.tx(function(tx)
    tx:exec("INSERT INTO items VALUES (20, 'x')")
    app.fail(409, "no_deal")
  end)
end)

routes:get("/tx/swallow", {}, function() -- T2
  return pg.tx(function(tx)
    tx:exec("INSERT INTO items VALUES (21, 'x')")
    pcall(tx.exec, tx, "SELECT 1 / 0")
    return { "committed?" }
  end)
end)

routes:get("/tx/conflict", {}, function()
  local runs = 0
  local function add(tx)
    runs = runs + 1
    local n = tx:value("SELECT n FROM counter")
    task.sleep(0.02)
    tx:exec("UPDATE counter SET n = $1", n + 1)
  end
  local jobs = {}
  for i = 1, 4 do jobs[i] = function() pg.tx(add, { isolation = "serializable", retries = 20 }) end end
  task.all(jobs)
  return { n = pg.value("SELECT n FROM counter"), reran = runs > 4 }
end)

routes:get("/hang", { deadline = "20s" }, function()
  return pg.tx(function(tx) return tx:one("SELECT pg_sleep(15)") end)
end)
routes:get("/late", { deadline = "300ms" }, function()
  return pg.tx(function(tx) return tx:one("SELECT pg_sleep(15)") end)
end)
routes:get("/slow", {}, function() return pg.one("SELECT 1 AS one FROM pg_sleep(0.3)") end)
routes:get("/quick", {}, function() return pg.one("SELECT 2 AS two") end)
return routes
]=]

local SLEEPERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(15)' AND state = 'active' "
  .. "AND datname = current_database()"

describe("chowk.pg", function()
  local s

  setup(function()
    s = server.start { app = APP, config = { workers = 1 } }
    s:exec [[
      CREATE TABLE items (id int PRIMARY KEY, v text);
      CREATE TABLE wide (id int, n int8, q numeric(20,4), t timestamptz, a text[], j jsonb, f float8);
      CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)]]
  end)
  teardown(function() s:stop() end)

  local function get(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body)
    return answer
  end

  it("gives each shape", function()
    local body = get("/shapes").body
    for _, part in ipairs {
      '"query":[{"n":1,"nothing":null},{"n":2,"nothing":null}]',
      '"none":[]', '"one":{"n":7}', '"absent":true', '"value":42', '"null_value":true', '"exec":3',
      '"json_one":{"yes":true}', '"all":[[{"a":1}],[{"b":null}]]', '"method":5' } do
      assert.truthy(body:find(part, 1, true), part .. " is not in " .. body)
    end
  end)

  it("runs independent statements together; each stands alone", function()
    local j = get("/all").json
    assert.equal("22012", j.failed.sqlstate)
    assert.equal(2, j.stored)
    assert.is_true(j.in_order)
    assert.equal(1, j.method)
    assert.equal("refused", j.refused.code)
    assert.truthy(j.empty:find("1 to 1000 statements", 1, true), j.empty)
    assert.truthy(j.flat:find("expected {sql, …}", 1, true), j.flat)
  end)

  it("keeps every type through Lua and back", function()
    local body = get("/round-trip").body
    assert.truthy(body:find('"same":1', 1, true), body)
    assert.truthy(body:find('"n":"-9223372036854775808"', 1, true), body)
    assert.truthy(body:find('"t":"2026-11-23T06:19:16.123456Z"', 1, true), body)
    assert.truthy(body:find('"a":["a\\"\\\\",null,"","{,}"]', 1, true), body)
  end)

  it("says what to write instead", function()
    local m = get("/misuse").json
    assert.truthy(m.bare:find("^app.lua:%d+: .*pg%.jsonb"), m.bare)
    assert.equal("refused", m.count.code)
    assert.equal("refused", m.begin.code)
    assert.truthy(m.begin.message:find("pg.tx", 1, true))
    assert.truthy(m.hole:find("pg.null", 1, true))
    assert.truthy(m.pool:find("tx:query", 1, true))
    assert.truthy(m.nested:find("tx:savepoint", 1, true))
    assert.truthy(m.ended:find("ended", 1, true))
    assert.truthy(m.unknown:find("isolatoin", 1, true))
  end)

  it("commits with the last statements, and undoes to a savepoint", function()
    local t = get("/tx/commit").json[1]
    assert.same({ undone = true, sqlstate = "23505", locked = "ten", missing = true,
      lists = { { { v = "TEN" } }, { { two = 2 } } } }, t)
    assert.equal("TEN", s:sql("SELECT v FROM items WHERE id = 10")[1].v)
  end)

  it("rolls back what raised, and what failed unobserved", function()
    assert.equal(409, s:get("/tx/fail").status)
    assert.equal(500, s:get("/tx/swallow").status)
    assert.equal(0, s:sql("SELECT count(*) AS n FROM items WHERE id IN (20, 21)")[1].n)
  end)

  it("runs a transaction again after a conflict", function()
    assert.same({ n = 4, reran = true }, get("/tx/conflict").json)
  end)

  it("frees the backend when the client goes away", function()
    local client = assert(socket.connect("127.0.0.1", s.port))
    client:send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
    server.eventually("the statement runs", function() return s:sql(SLEEPERS)[1].n == 1 end)
    client:setoption("linger", { on = true, timeout = 0 }) -- a reset, not a half-close
    client:close()
    server.eventually("the backend is free", function() return s:sql(SLEEPERS)[1].n == 0 end, 5)
  end)

  it("answers at the deadline and frees the backend", function()
    local answer = s:get("/late")
    assert.equal(503, answer.status)
    assert.truthy(answer.headers["retry-after"])
    server.eventually("the backend is free", function() return s:sql(SLEEPERS)[1].n == 0 end, 5)
  end)

  it("does not let a slow statement hold up its neighbours", function()
    local answers = s:parallel { { "GET", "/slow" }, { "GET", "/quick" }, { "GET", "/slow" }, { "GET", "/quick" } }
    for i, answer in ipairs(answers) do assert.equal(200, answer.status, i .. ": " .. tostring(answer.body)) end
  end)

  it("heals when every connection is terminated", function()
    s:exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
      .. "AND application_name = 'chowk'")
    for _ = 1, 20 do get("/quick") end
    assert.equal(409, s:get("/tx/fail").status)
  end)
end)
