-- pool_mode = "transaction" through a real PgBouncer: no named statements, no session state, nothing shared.
local server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local pgbouncer = require "spec.support.pgbouncer"
local socket = require "socket"

local APP = [=[
local app, pg = require "chowk.app", require "chowk.pg"
local routes = app.routes()
local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  return not ok and type(err) == "table" and { code = err.code, message = err.message } or tostring(err)
end

routes:get("/read/:id", {}, function(req)
  return pg.one("SELECT $1::int AS id, now() AS t, current_setting('lock_timeout') AS lock_timeout, "
    .. "current_setting('statement_timeout') AS statement_timeout, current_setting('work_mem') AS work_mem, "
    .. "(SELECT count(*) FROM pg_prepared_statements) AS prepared", req.params.id)
end)
routes:post("/write/:id", {}, function(req)
  return { n = pg.exec("INSERT INTO ledger VALUES ($1)", req.params.id) }
end)
routes:post("/tx/:id", {}, function(req)
  return pg.tx(function(tx)
    tx:exec("SET LOCAL work_mem = '3MB'")
    tx:one("SELECT id FROM counter WHERE id = 1 FOR UPDATE")
    tx:savepoint(function() tx:exec("SELECT 1 / 0") end)
    tx:all { { "UPDATE counter SET n = n + 1" }, { "INSERT INTO ledger VALUES ($1)", req.params.id } }
    return { work_mem = tx:value("SHOW work_mem"), lock_timeout = tx:value("SHOW lock_timeout") }
  end, { lock_timeout = "9s" })
end)
routes:post("/group/:id", {}, function(req)
  return pg.tx(function(tx)
    tx:one("SELECT 1 AS one")
    tx:commit { { "UPDATE counter SET n = n + 1" }, { "INSERT INTO ledger VALUES ($1)", req.params.id } }
    return { done = true }
  end)
end)
routes:get("/refused", {}, function()
  return {
    temp = failure(pg.exec, "CREATE TEMP TABLE scratch (a int)"),
    into = failure(pg.exec, "SELECT 1 AS a INTO TEMP scratch"),
    hold = pg.tx(function(tx) return failure(tx.exec, tx, "DECLARE c CURSOR WITH HOLD FOR SELECT 1") end),
    set = failure(pg.exec, "SET work_mem = '1MB'"),
    listen = failure(pg.exec, "LISTEN c"),
    must_read = failure(pg.replica.query, "SELECT add_one()"),
    fine = pg.tx(function(tx)
      tx:exec("CREATE TEMP TABLE scratch (a int) ON COMMIT DROP")
      return tx:value("SELECT count(*) FROM scratch")
    end),
  }
end)
routes:get("/bad", {}, function() return { failure(pg.one, "SELECT 1 / 0").code, failure(pg.one, "SELEC 1").code } end)
routes:get("/sleep", { deadline = "20s" }, function()
  return pg.tx(function(tx) return tx:one("SELECT pg_sleep(10)") end)
end)
routes:get("/late", { deadline = "300ms" }, function() return pg.one("SELECT 1 AS one, pg_sleep(10)") end)
return routes
]=]

local N = 300

describe("transaction pooling through PgBouncer", function()
  local db, pooler, s

  setup(function()
    db = postgres.start { log_statement = "all", log_min_messages = "log" }
    pooler = pgbouncer.start(db, { default_pool_size = 3 })
    s = server.start { app = APP, pg = db, config = { workers = 1, pg = { pool_mode = "transaction" } },
      url = function(name) return pooler:url(name) end }
    s:exec [[CREATE TABLE ledger (id text); CREATE TABLE counter (id int, n int); INSERT INTO counter VALUES (1, 0);
      CREATE FUNCTION add_one() RETURNS void LANGUAGE sql AS 'INSERT INTO ledger VALUES (''hidden'')']]
  end)
  teardown(function()
    s:stop()
    pooler:destroy()
    db:destroy()
  end)

  local function rows() return s:sql("SELECT count(*) AS n, count(DISTINCT id) AS d FROM ledger")[1] end

  it("runs several hundred requests at once", function()
    local calls = {}
    for i = 1, N do
      calls[i] = ({ { "GET", "/read/" .. i }, { "POST", "/write/" .. i }, { "POST", "/tx/" .. i },
        { "POST", "/group/" .. i }, { "GET", "/bad" } })[i % 5 + 1]
    end
    for i, answer in ipairs(s:parallel(calls)) do
      assert.equal(200, answer.status, i .. ": " .. answer.body)
      if i % 5 == 0 then
        local seen = answer.json
        assert.truthy(seen.t:find("^%d+%-%d%d%-%d%dT[%d:.]+Z$"), seen.t)
        seen.t = nil
        assert.same({ id = i, lock_timeout = "0", statement_timeout = "0", work_mem = "4MB", prepared = 0 }, seen)
      elseif i % 5 == 2 then
        assert.same({ work_mem = "3MB", lock_timeout = "9s" }, answer.json)
      elseif i % 5 == 4 then
        assert.same({ "pg_error", "pg_error" }, answer.json)
      end
    end
    assert.same({ n = N / 5 * 3, d = N / 5 * 3 }, rows())
    assert.equal(N / 5 * 2, s:sql("SELECT n FROM counter")[1].n)
  end)

  it("used no named statement", function()
    local log = io.open(db.dir .. "/log"):read("*a")
    assert.truthy(log:find("execute <unnamed>: INSERT INTO ledger", 1, true))
    assert.is_nil(log:find("execute s%d+:"))
  end)

  it("shared the pooler's few backends", function()
    local n = s:sql("SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() "
      .. "AND application_name = 'chowk'")[1].n
    assert.truthy(n > 0 and n <= 3, n)
  end)

  it("refuses what would stay in a session that is not ours", function()
    local r = s:get("/refused").json
    for _, name in ipairs { "temp", "into", "hold", "set", "listen" } do assert.equal("refused", r[name].code, name) end
    assert.truthy(r.temp.message:find("ON COMMIT DROP", 1, true))
    assert.equal(0, r.fine)
    assert.equal("pg_error", r.must_read.code)
    assert.truthy(r.must_read.message:find("read-only transaction", 1, true), r.must_read.message)
    assert.equal(0, s:sql("SELECT count(*) AS n FROM ledger WHERE id = 'hidden'")[1].n)
  end)

  local SLEEPERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep(10)%' AND state = 'active' "
    .. "AND pid <> pg_backend_pid()"

  it("frees the backend when the client goes away", function()
    local client = assert(socket.connect("127.0.0.1", s.port))
    client:send("GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n")
    server.eventually("it sleeps", function() return s:sql(SLEEPERS)[1].n == 1 end)
    client:setoption("linger", { on = true, timeout = 0 })
    client:close()
    server.eventually("the backend is free", function() return s:sql(SLEEPERS)[1].n == 0 end, 5)
    assert.equal(200, s:get("/read/1").status)
  end)

  it("frees the backend at the deadline", function()
    for _ = 1, 3 do assert.equal(503, s:get("/late").status) end
    server.eventually("the backends are free", function() return s:sql(SLEEPERS)[1].n == 0 end, 5)
    for i = 1, 10 do assert.equal(200, s:get("/read/" .. i).status) end
  end)

  it("heals when the pooler, or the server behind it, was away", function()
    pooler:stop()
    assert.equal(503, s:post("/write/gone").status)
    pooler:spawn()
    server.eventually("it works again", function() return s:post("/write/back1").status == 200 end)
    db:restart("immediate")
    server.eventually("it works again", function() return s:post("/tx/back2").status == 200 end)
    local after = rows()
    assert.equal(after.n, after.d)
  end)
end)
