-- Connections that many requests share: no text, error, slow statement or lock of one may reach another (T1, T5), the
-- queue is bounded, and the pool says what it does.
local server = require "spec.support.server"

local APP = [=[
local app, pg, task = require "chowk.app", require "chowk.pg", require "chowk.task"
local routes = app.routes()

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return { code = "none" } end
  return type(err) == "table" and { code = err.code, sqlstate = err.sqlstate, message = err.message }
    or { code = "misuse", message = err }
end

routes:post("/refused", {}, function(req) return failure(pg.exec, req:body()) end)
routes:post("/refused-in-tx", {}, function(req)
  local sql = req:body()
  return pg.tx(function(tx) return failure(tx.exec, tx, sql) end)
end)
routes:get("/neighbour/:id", {}, function(req)
  local id = req.params.id
  pg.exec("UPDATE items SET n = n + 1 WHERE id = $1", id)
  return { id = pg.value("SELECT id FROM items WHERE id = $1", id) }
end)

local RAISE_IN_WRITE = "UPDATE items SET v = v WHERE id = 1 AND raise_state($1) IS NULL"

-- Each kind knows what must come of it.
local KINDS = {
  function(i) return pg.value("SELECT v FROM items WHERE id = $1", i % 100 + 1) == "v" .. i % 100 + 1 end,
  function() return failure(pg.one, "SELECT 1 / 0").sqlstate == "22012" end,
  function() return failure(pg.one, "SELEC 1").sqlstate == "42601" end,
  function(i) return pg.exec("UPDATE items SET n = n + 1 WHERE id = $1", i % 100 + 1) == 1 end,
  function() return failure(pg.exec, "INSERT INTO items (id) VALUES (1)").sqlstate == "23505" end,
  function() return failure(pg.one, "SELECT v FROM missing").sqlstate == "42P01" end,
  function(i) return pg.one("SELECT $1::int + 1 AS n", i).n == i + 1 end,
  function() return failure(pg.one, "SELECT $1::int", "x").sqlstate == "22P02" end,
  function() return failure(pg.exec, "BEGIN").code == "refused" end,
  function(i) return pg.one("SELECT $1::text AS t", i).t == tostring(i) end,
}
routes:get("/mixed", {}, function()
  local jobs, wrong = {}, 0
  for i = 1, 1000 do
    jobs[i] = function() if not KINDS[i % #KINDS + 1](i) then wrong = wrong + 1 end end
  end
  task.all(jobs)
  return { wrong = wrong }
end)

routes:get("/slow/:name", {}, function(req)
  -- A sequence counts runs, also those that were rolled back.
  local sql = "SELECT nextval('runs') AS n, pg_sleep(0.5) /* " .. req.params.name .. " */"
  return { n = pg.one(sql).n }
end)
routes:get("/asleep", {}, function() return pg.one("SELECT 1 AS one FROM pg_sleep(2)") end)
routes:get("/quick/:id", {}, function(req) return pg.one("SELECT id FROM items WHERE id = $1", req.params.id) end)
routes:get("/write/:id", {}, function(req)
  return { n = pg.exec("UPDATE items SET v = v WHERE id = $1", req.params.id) }
end)
routes:get("/hold/:id", {}, function(req)
  return pg.tx(function(tx)
    tx:lock("items", tonumber(req.params.id))
    task.sleep(0.8)
    return { held = true }
  end)
end)
routes:get("/blocked", {}, function() return { n = pg.exec("UPDATE items SET n = -1 WHERE id = 100") } end)
routes:get("/touch", {}, function() return { n = pg.value("SELECT touch()") } end)
routes:get("/setting", {}, function()
  return pg.tx(function(tx) return { work_mem = tx:value("SHOW work_mem") } end)
end)
routes:get("/raise/:state", {}, function(req) return failure(pg.one, "SELECT raise_state($1)", req.params.state) end)
routes:post("/raise/:state", {}, function(req) return failure(pg.exec, RAISE_IN_WRITE, req.params.state) end)
routes:get("/queued", { deadline = "300ms" }, function()
  return pg.tx(function(tx) return tx:one("SELECT 1 AS n") end)
end)
routes:get("/stats", {}, function() return pg.stats() end)
return routes
]=]

local REFUSED = { -- text, what the answer must name
  { "BEGIN", "pg.tx" }, { "START TRANSACTION", "pg.tx" }, { "COMMIT", "pg.tx" }, { "END", "pg.tx" },
  { "ROLLBACK", "pg.tx" }, { "ABORT", "pg.tx" }, { "SAVEPOINT a", "tx:savepoint" },
  { "RELEASE SAVEPOINT a", "tx:savepoint" }, { "ROLLBACK TO SAVEPOINT a", "pg.tx" },
  { "PREPARE a AS SELECT 1", "prepares" }, { "EXECUTE a", "prepares" }, { "DEALLOCATE ALL", "prepares" },
  { "PREPARE TRANSACTION 'a'", "prepares" }, { "COMMIT PREPARED 'a'", "pg.tx" },
  { "SET statement_timeout = 0", "SET LOCAL" }, { "SET SESSION work_mem = '1MB'", "SET LOCAL" },
  { "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET LOCAL" }, { "SET ROLE nobody", "SET LOCAL" },
  { "RESET ALL", "SET LOCAL" }, { "DISCARD ALL", "SET LOCAL" }, { "LOAD 'auto_explain'", "SET LOCAL" },
  { "LISTEN c", "pg.listen" }, { "UNLISTEN *", "pg.listen" },
  { "COPY items TO STDOUT", "pg.copy_" }, { "COPY items FROM STDIN", "pg.copy_" },
  { "SELECT pg_advisory_lock(1)", "tx:advisory" }, { "SELECT pg_try_advisory_lock(1)", "tx:advisory" },
  { "SELECT pg_try_advisory_lock_shared(1)", "tx:advisory" }, { "SELECT pg_advisory_unlock(1)", "tx:advisory" },
  { "SELECT pg_advisory_unlock_shared(1)", "tx:advisory" }, { "SELECT pg_advisory_unlock_all()", "tx:advisory" },
  { "SELECT pg_catalog.pg_advisory_lock_shared(1)", "tx:advisory" },
  { "SELECT set_config('work_mem', '1MB', false)", "set_config" },
  { "/* a */ -- b\n (((begin", "pg.tx" }, { "SELECT 1; ROLLBACK", "one statement" }, { "", "empty" },
  { "-- x", "empty" },
}
local REFUSED_OUTSIDE = { -- these live in a transaction
  { "SET LOCAL work_mem = '1MB'", "pg.tx" }, { "LOCK items", "pg.tx" }, { "DECLARE c CURSOR FOR SELECT 1", "pg.tx" },
  { "FETCH c", "pg.tx" }, { "MOVE c", "pg.tx" }, { "CLOSE c", "pg.tx" },
  { "SELECT set_config('work_mem', '1MB', true)", "pg.tx" },
}

local EXCLUSIVE = { -- these have a connection of their own
  "VACUUM items", "CALL ten()", "DO $$ BEGIN PERFORM set_config('work_mem', '1MB', false); END $$",
  "CREATE TABLE IF NOT EXISTS other (a int)",
}

local SCHEMA = [[
  CREATE TABLE items (id int PRIMARY KEY, v text, n int DEFAULT 0);
  INSERT INTO items SELECT i, 'v' || i FROM generate_series(1, 100) i;
  CREATE SEQUENCE runs;
  CREATE PROCEDURE ten() LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('work_mem', '1MB', false); COMMIT; END $$;
  CREATE FUNCTION raise_state(state text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = state; END $$;
  CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'UPDATE items SET n = n + 1 WHERE id = 99 RETURNING n']]

describe("shared connections", function()
  local s

  setup(function()
    s = server.start { app = APP, config = { workers = 1, pg = { tx_connections = 4 } } }
    s:exec(SCHEMA)
    for i = 1, 20 do assert.equal(200, s:get("/neighbour/" .. i).status) end
  end)
  teardown(function() s:stop() end)

  local function stats() return s:get("/stats").json end

  local function among_neighbours(path, sql)
    local calls = {}
    for i = 1, 100 do
      calls[#calls + 1] = { "GET", "/neighbour/" .. i }
      if i == 50 then calls[#calls + 1] = { "POST", path, { body = sql } } end
    end
    local before = s:sql("SELECT sum(n) AS n FROM items")[1].n
    local answers = s:parallel(calls)
    local odd = table.remove(answers, 51)
    for i, answer in ipairs(answers) do
      assert.equal(200, answer.status, answer.body)
      assert.equal(i, answer.json.id)
    end
    assert.equal(before + 100, s:sql("SELECT sum(n) AS n FROM items")[1].n) -- nothing acknowledged was undone
    return odd
  end
  local function refuse_among_neighbours(path, sql, advice)
    local bad = among_neighbours(path, sql)
    assert.equal("refused", bad.json and bad.json.code, sql .. ": " .. bad.body)
    assert.truthy(bad.json.message:find(advice, 1, true), sql .. ": " .. bad.json.message)
  end

  for _, case in ipairs(REFUSED) do
    it("refuses, with 100 neighbours in flight: " .. case[1]:gsub("%s+", " "), function()
      refuse_among_neighbours("/refused", case[1], case[2])
      assert.equal("refused", s:post("/refused-in-tx", { body = case[1] }).json.code)
    end)
  end
  for _, case in ipairs(REFUSED_OUTSIDE) do
    it("refuses outside a transaction: " .. case[1], function()
      refuse_among_neighbours("/refused", case[1], case[2])
    end)
  end

  for _, sql in ipairs(EXCLUSIVE) do
    it("runs apart from 100 neighbours in flight: " .. sql, function()
      assert.equal("none", among_neighbours("/refused", sql).json.code)
      local settings, calls = {}, {}
      for i = 1, 40 do calls[i] = { "GET", "/setting" } end
      for _, answer in ipairs(s:parallel(calls)) do settings[answer.json.work_mem] = true end
      assert.same({ ["4MB"] = true }, settings)
    end)
  end
  for _, state in ipairs { "08006", "57P01", "57P02", "57P03", "08P01" } do
    it("takes a function's word for its own failure, not for the session's: " .. state, function()
      local calls = {}
      for i = 1, 50 do
        calls[#calls + 1] = { "GET", "/neighbour/" .. i }
        if i % 10 == 5 then calls[#calls + 1] = { i % 20 == 5 and "GET" or "POST", "/raise/" .. state } end
      end
      for i, answer in ipairs(s:parallel(calls)) do
        assert.equal(200, answer.status, answer.body)
        if calls[i][2]:find("raise", 1, true) then
          assert.same({ code = "pg_error", sqlstate = state, message = "mine" }, answer.json)
        end
      end
    end)
  end

  it("never lost a connection over it", function() assert.equal(0, stats().reconnects) end)

  it("keeps 1000 good and bad statements in flight apart", function()
    for _ = 1, 3 do
      local answer = s:get("/mixed")
      assert.equal(200, answer.status, answer.body)
      assert.equal(0, answer.json.wrong)
    end
  end)

  it("moves a slow statement away from its neighbours, and remembers it", function()
    assert.equal(2, s:get("/slow/a").json.n) -- the first run was taken off the shared connection
    assert.equal(3, s:get("/slow/a").json.n) -- and now it goes to its own at once
    assert.equal(5, s:get("/slow/b").json.n) -- another text is another statement
  end)

  it("delays neighbours of a slow statement by its timeout at most", function()
    local calls = { { "GET", "/asleep" } }
    for i = 1, 60 do calls[#calls + 1] = { "GET", "/quick/" .. i } end
    for round = 1, 2 do
      local answers = s:parallel(calls)
      for i, answer in ipairs(answers) do
        assert.equal(200, answer.status, answer.body)
        if i > 1 then assert.truthy(answer.seconds < answers[1].seconds, round .. ": " .. answer.seconds) end
      end
    end
  end)

  it("moves a statement that waits for a lock away from its neighbours", function()
    local calls = { { "GET", "/hold/100" } }
    for i = 1, 60 do calls[#calls + 1] = { "GET", "/write/" .. i } end
    for _ = 1, 2 do calls[#calls + 1] = { "GET", "/blocked" } end
    local answers = s:parallel(calls)
    for i, answer in ipairs(answers) do
      assert.equal(200, answer.status, answer.body)
      if i > 1 and i <= 61 then assert.truthy(answer.seconds < answers[1].seconds, answer.seconds) end
    end
    assert.equal(-1, s:sql("SELECT n FROM items WHERE id = 100")[1].n)
  end)

  it("runs a SELECT that writes on a write connection, once", function()
    local calls = {}
    for i = 1, 20 do calls[i] = { "GET", "/touch" } end
    local seen = {}
    for _, answer in ipairs(s:parallel(calls)) do
      assert.equal(200, answer.status, answer.body)
      assert.is_nil(seen[answer.json.n])
      seen[answer.json.n] = true
    end
  end)

  it("says what the pool does", function()
    local before = stats()
    local calls = {}
    for i = 1, 6 do calls[i] = { "GET", "/hold/" .. i } end
    calls[7] = { "GET", "/stats" }
    local during = s:parallel(calls)[7].json
    assert.truthy(during.open >= before.open and during.open >= during.idle)
    local after = stats()
    assert.equal(0, after.waiting)
    assert.equal(0, after.in_flight)
    assert.equal(after.open, after.idle)
    local waited, calls_made = 0, 0
    for i, n in ipairs(after.waits) do
      waited = waited + (i > 9 and n - before.waits[i] or 0) -- 256 ms and more
      calls_made = calls_made + n - before.waits[i]
    end
    assert.equal(2, waited) -- six transactions, four connections
    -- A transaction waits once. The cache's look for its table, each 30 s, is a call too.
    assert.truthy(calls_made == 6 or calls_made == 7, calls_made)
  end)
end)

describe("the queue for a connection", function()
  local s

  setup(function()
    s = server.start { app = APP, config = { workers = 1, pg = { tx_connections = 4, max_waiters = 20 } } }
    s:exec(SCHEMA)
  end)
  teardown(function() s:stop() end)

  it("answers 503 at once when too many wait", function()
    local calls = {}
    for i = 1, 44 do calls[i] = { "GET", "/hold/" .. i } end
    local n, answers, first_s = { [200] = 0, [503] = 0 }, s:parallel(calls), math.huge
    for _, answer in ipairs(answers) do
      if answer.status == 200 then first_s = math.min(first_s, answer.seconds) end
    end
    for _, answer in ipairs(answers) do
      n[answer.status] = n[answer.status] + 1
      if answer.status == 503 then
        assert.equal("queue_full", answer.json.code)
        assert.truthy(answer.headers["retry-after"])
        assert.truthy(answer.seconds < first_s, answer.seconds)
      end
    end
    assert.truthy(n[200] >= 20 and n[200] <= 24, n[200]) -- those that wait, and those that need not
  end)

  it("answers 503 at the deadline to who waits", function()
    local calls = {}
    for i = 1, 4 do calls[i] = { "GET", "/hold/" .. i } end
    calls[5] = { "GET", "/queued" }
    local late = s:parallel(calls)[5]
    assert.equal(503, late.status)
    assert.equal("deadline", late.json.code)
  end)

  it("does not count a burst that leaves at once", function()
    for i = 1, 4 do s:get("/quick/" .. i) end
    local calls = {}
    for i = 1, 100 do calls[i] = { "GET", "/quick/" .. i } end
    for _, answer in ipairs(s:parallel(calls)) do assert.equal(200, answer.status, answer.body) end
  end)
end)
