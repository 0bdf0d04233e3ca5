-- pg.replica against a real streaming replica: used while it answers and keeps up, the primary otherwise.
local server = require "spec.support.server"
local postgres = require "spec.support.pg"

local APP = [=[
local app, pg = require "chowk.app", require "chowk.pg"
local routes = app.routes()
local WHO = "SELECT CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'primary' END"

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  return ok and "no error" or type(err) == "table" and err.code .. ": " .. err.message or err
end

routes:get("/who", {}, function() return { who = pg.replica.value(WHO) } end)
routes:get("/slow", {}, function() return { who = pg.replica.one(WHO .. " AS who FROM pg_sleep(0.3)").who } end)
routes:get("/n", {}, function() return { n = pg.replica.value("SELECT max(n) FROM t") } end)
routes:get("/shapes", {}, function()
  local r = pg.replica
  return { query = r.query("SELECT n FROM t ORDER BY n LIMIT 1"), one = r:one("SELECT 1 AS a"),
    value = r.value("SELECT 2"), json = r.json("SELECT 3 AS c"), json_one = r.json_one("SELECT 4 AS d"),
    all = r.all { { "SELECT 5 AS e" }, { WHO } } }
end)
routes:get("/refused", {}, function()
  return {
    insert = failure(pg.replica.query, "INSERT INTO t VALUES (1) RETURNING n"),
    lock = failure(pg.replica.query, "SELECT n FROM t FOR UPDATE"),
    hidden = failure(pg.replica.query, "SELECT add_one()"),
    slow = failure(pg.replica.query, "SELECT add_slowly()"), -- ends on a connection that others write on
    exec = failure(function() pg.replica.exec("SELECT 1") end),
    tx = pg.tx(function() return failure(pg.replica.value, "SELECT 1") end),
    bad = failure(pg.replica.value, "SELECT 1 / 0"),
  }
end)
return routes
]=]

describe("pg.replica", function()
  local primary, standby, s
  setup(function()
    primary = postgres.primary()
    primary:sql [[
      CREATE TABLE t (n int); INSERT INTO t VALUES (1);
      CREATE FUNCTION add_one() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (100) RETURNING n';
      CREATE FUNCTION add_slowly() RETURNS void LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.2); INSERT INTO t VALUES (200); END']]
    standby = primary:standby()
    s = server.start { app = APP, env = { DATABASE_URL = primary:url() },
      config = { workers = 1, pg = { replica_urls = { standby:url() }, replica_max_lag = "400ms" } } }
  end)
  teardown(function()
    if s then s:stop() end
    if standby then standby:drop() end
    if primary then primary:drop() end
  end)

  local function get(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body)
    return answer.json
  end
  -- Once it keeps up it answers every time: on a busy machine it may lag for a moment, and then the primary does.
  local function keeps_answering(n)
    server.eventually(n .. " answers in a row by the replica", function()
      for _ = 1, n do if get("/who").who ~= "replica" then return false end end
      return true
    end)
  end
  local function becomes(who, why)
    server.eventually(why, function() return get("/who").who == who end)
  end

  it("reads from the replica, in every shape", function()
    becomes("replica", "the replica is in use")
    local j = get("/shapes")
    assert.same({ { n = 1 } }, j.query)
    assert.equal(1, j.one.a)
    assert.equal(2, j.value)
    assert.same({ { c = 3 } }, j.json)
    assert.same({ d = 4 }, j.json_one)
    assert.same({ { e = 5 } }, j.all[1])
    server.eventually("a slow read too", function() return get("/slow").who == "replica" end)
    keeps_answering(50)
  end)

  it("refuses what writes, there and on the primary", function()
    local function check()
      local j = get("/refused")
      for _, name in ipairs { "insert", "lock" } do
        assert.truthy(j[name]:find("^refused: .*a replica only reads"), j[name])
      end
      for _, name in ipairs { "hidden", "slow" } do
        assert.truthy(j[name]:find("^pg_error: .*read%-only transaction"), j[name])
      end
      assert.truthy(j.exec:find("^app.lua:%d+: pg.replica.exec: a replica only reads"), j.exec)
      assert.truthy(j.tx:find("a transaction is open", 1, true), j.tx)
      assert.truthy(j.bad:find("division by zero", 1, true), j.bad)
    end
    check()
    standby:stop()
    becomes("primary", "the primary answers instead")
    check()
    assert.equal("1", primary:sql("SELECT count(*) FROM t"))
    standby:start()
    becomes("replica", "the replica is back")
  end)

  it("leaves a replica that lags, and comes back to it", function()
    standby:sql("SELECT pg_wal_replay_pause()")
    primary:sql("INSERT INTO t VALUES (2)")
    becomes("primary", "a paused replica is not used")
    assert.equal(2, get("/n").n)
    standby:sql("SELECT pg_wal_replay_resume()")
    becomes("replica", "it has caught up")
    assert.equal(2, get("/n").n)
  end)

  it("does not take a replica without its primary's news for an idle one", function()
    -- The replica loses its primary while we do not: it has replayed all that it received, and knows nothing newer.
    local conninfo = standby:sql("SELECT quote_literal(current_setting('primary_conninfo'))")
    local function stream_from(text)
      standby:sql("ALTER SYSTEM SET primary_conninfo = " .. text)
      standby:sql("SELECT pg_reload_conf()")
    end
    stream_from("'host=/nonexistent'")
    server.eventually("it does not stream", function()
      return primary:sql("SELECT count(*) FROM pg_stat_replication") == "0"
    end)
    primary:sql("INSERT INTO t VALUES (3)")
    becomes("primary", "the cut-off replica is not used")
    assert.equal(3, get("/n").n)
    stream_from(conninfo)
    becomes("replica", "it streams again")
  end)

  it("answers every request while a replica dies under load", function()
    local calls = {}
    for i = 1, 60 do calls[i] = { "GET", i % 3 == 0 and "/slow" or "/who" } end
    server.sh(("{ sleep 0.15; kill -QUIT %d; } & "):format(standby.pid))
    for round = 1, 3 do
      for i, answer in ipairs(s:parallel(calls)) do
        assert.equal(200, answer.status, round .. "." .. i .. ": " .. tostring(answer.body))
      end
    end
    standby:stop()
    becomes("primary", "the primary answers instead")
    standby:start()
    becomes("replica", "the replica is back")
  end)

  it("reads on when the primary is gone", function()
    primary:stop()
    becomes("replica", "the replica answers")
    keeps_answering(20)
    primary:start()
    becomes("replica", "all is well")
    primary:sql("INSERT INTO t VALUES (4)")
    server.eventually("4 is seen", function() return get("/n").n == 4 end)
  end)
end)

describe("pg.replica without replicas", function()
  it("reads from the primary", function()
    local s = server.start { app = APP, config = { workers = 1 } }
    local who = s:get("/who").json.who
    s:stop()
    assert.equal("primary", who)
  end)
end)
