-- pg.tx as its users meet it: isolation, conflicts, locks, savepoints, what leaks and what is misuse.
local server = require "spec.support.server"

local APP = [=[
local app, pg, task = require "chowk.app", require "chowk.pg", require "chowk.task"
local routes = app.routes()

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return "no error" end
  return type(err) == "table" and { code = err.code, sqlstate = err.sqlstate, message = err.message } or err
end

routes:get("/options", {}, function()
  local function settings(options)
    return pg.tx(function(tx)
      return tx:one([[SELECT current_setting('transaction_isolation') AS isolation,
        current_setting('transaction_read_only') AS read_only, current_setting('lock_timeout') AS lock_timeout]])
    end, options)
  end
  return {
    plain = settings(),
    all = settings { isolation = "serializable", read_only = true, lock_timeout = "1500ms" },
    repeatable = settings { isolation = "repeatable read" }.isolation,
    after = settings(), -- nothing of it stays on the connection
    write = failure(pg.tx, function(tx) tx:exec("DELETE FROM items") end, { read_only = true }),
  }
end)

-- Two transactions that lock two rows in opposite order: one is the victim, and runs again.
routes:get("/deadlock/:retries", { deadline = "20s" }, function(req)
  local runs, ready = 0, 0
  local function crossing(first, second)
    return function()
      return failure(pg.tx, function(tx)
        runs = runs + 1
        tx:exec("UPDATE items SET n = n + 1 WHERE id = $1", first)
        ready = ready + 1
        while ready < 2 do task.sleep(0.01) end
        tx:exec("UPDATE items SET n = n + 1 WHERE id = $1", second)
      end, { retries = tonumber(req.params.retries) })
    end
  end
  local out = task.all { crossing(1, 2), crossing(2, 1) }
  return { runs = runs, out = out, n = pg.query("SELECT n FROM items WHERE id IN (1, 2)") }
end)

local function conflict(tx) -- as if PostgreSQL had said so
  tx:exec("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$")
end
routes:get("/conflict/:retries", { deadline = "700ms" }, function(req)
  local runs = 0
  local err = failure(pg.tx, function(tx) runs = runs + 1 conflict(tx) end, { retries = tonumber(req.params.retries) })
  return { runs = runs, err = err }
end)
routes:get("/conflict/swallowed", {}, function() -- the failure of a statement nobody looked at
  local runs = 0
  local result = pg.tx(function(tx)
    runs = runs + 1
    if runs == 1 then pcall(conflict, tx) end
    return { runs = runs }
  end)
  return result
end)

-- Two constraints, at once and at the end; the second run finds what the remedy left for it.
routes:get("/duplicate/:how", {}, function(req)
  local how, runs, remedies, n = req.params.how, 0, 0, 1
  local ok, result = pcall(pg.tx, function(tx)
    runs = runs + 1
    tx:exec("INSERT INTO marks (n) VALUES ($1)", 100 + runs)
    if how ~= "unasked" then
      tx:on_duplicate("marks_once", function(err)
        remedies, n = remedies + 1, how == "again" and 1 or pg.value("SELECT max(n) + 1 FROM marks")
        if how == "raise" then error(err, 0) end
      end)
    end
    if how == "savepoint" then tx:savepoint(function() tx:exec("INSERT INTO marks (n) VALUES ($1)", n) end)
    else tx:defer { { "INSERT INTO marks (n) VALUES ($1)", n } } end
  end)
  return { ok = ok, sqlstate = not ok and result.sqlstate or nil, runs = runs, remedies = remedies,
    marks = pg.query("SELECT n FROM marks ORDER BY n") }
end)

local held = false
routes:get("/hold", {}, function()
  return pg.tx(function(tx)
    tx:lock("items", { 3, 5 })
    tx:lock("stock", "b", { key = "sku" })
    tx:advisory("counter")
    held = true
    while held do task.sleep(0.01) end
    return { done = true }
  end)
end)
routes:get("/locks", { deadline = "10s" }, function()
  while not held do task.sleep(0.01) end
  local out = pg.tx(function(tx)
    local function try(name, ids, options)
      local rows, err = tx:savepoint(function() return tx:lock(name, ids, options) end)
      return rows or { sqlstate = err.sqlstate }
    end
    local result = {
      nowait = try("items", 3, { wait = "nowait" }).sqlstate,
      share = try("items", { 4, 5 }, { wait = "nowait", mode = "share" }).sqlstate,
      timed = try("items", { 1, 5 }, { wait = "100ms" }).sqlstate,
      timeout_after = tx:value("SHOW lock_timeout"),
      by_key = try("stock", "b", { key = "sku", wait = "nowait" }).sqlstate,
      free = try("public.stock", { "c", "a" }, { key = "sku", mode = "no key update" }),
      none = tx:lock("items", 12345) == nil,
      advisory = tx:advisory("counter", { wait = "nowait" }),
      other = tx:advisory("other", { wait = "nowait" }),
      number = tx:advisory(42),
    }
    local skipped = tx:lock("items", { 2, 3, 4, 5, 6 }, { wait = "skip" })
    result.skipped = {}
    for id in pairs(skipped) do result.skipped[#result.skipped + 1] = id end
    table.sort(result.skipped)
    return result
  end, { lock_timeout = "2s" })
  held = false
  return out
end)
routes:get("/lock-timeout", {}, function()
  while not held do task.sleep(0.01) end
  local ok, err = pcall(pg.tx, function(tx) tx:lock("items", 3) end, { lock_timeout = "50ms" })
  held = false
  error(not ok and err or "locked", 0)
end)
routes:get("/lock-misuse", {}, function()
  return pg.tx(function(tx)
    return { failure(tx.lock, tx, "items; DROP TABLE items", 1), failure(tx.lock, tx, "items", 1, { mode = "hard" }),
      failure(tx.lock, tx, "items"), failure(tx.lock, tx, "items", 1, { wiat = 1 }) }
  end)
end)
-- Many lock the same rows, each in an order of its own.
routes:get("/sorted", { deadline = "20s" }, function()
  local jobs = {}
  for i = 1, 24 do
    jobs[i] = function()
      local ids = {}
      for k = 1, 10 do ids[k] = (k * (i % 2 == 0 and 1 or 10) * 7) % 11 + 1 end
      pg.tx(function(tx)
        local rows = tx:lock("items", ids)
        task.sleep(0.001)
        for id in pairs(rows) do tx:exec("UPDATE items SET n = n + 1 WHERE id = $1", id) end
      end, { retries = 0 })
    end
  end
  task.all(jobs)
  return { done = true }
end)

routes:get("/savepoints", {}, function()
  local out = {}
  pg.tx(function(tx)
    tx:exec("INSERT INTO log VALUES ('outer')")
    local ok = tx:savepoint(function()
      tx:exec("INSERT INTO log VALUES ('one')")
      local inner, err = tx:savepoint(function()
        tx:exec("INSERT INTO log VALUES ('two')")
        tx:savepoint(function() tx:exec("INSERT INTO log VALUES ('three')") end)
        tx:exec("SELECT 1 / 0")
      end)
      out.inner, out.sqlstate = inner == nil, err.sqlstate
      tx:exec("INSERT INTO log VALUES ('four')")
      return "kept"
    end)
    out.outer = ok
    out.bug = failure(tx.savepoint, tx, function() return nil .. "x" end)
  end)
  return out
end)
routes:get("/savepoint-bug", {}, function()
  pg.tx(function(tx)
    tx:exec("INSERT INTO log VALUES ('bug')")
    tx:savepoint(function() error("a bug") end)
  end)
end)

routes:get("/raise", {}, function()
  pg.tx(function(tx)
    tx:exec("INSERT INTO log VALUES ('raised')")
    error("no")
  end)
end)
routes:get("/return-error", {}, function() -- a status is not a failure: returning commits
  return 409, pg.tx(function(tx)
    tx:exec("INSERT INTO log VALUES ('returned')")
    return { code = "no" }
  end)
end)
routes:get("/abandon", {}, function()
  local step = coroutine.wrap(function()
    pg.tx(function(tx)
      tx:exec("INSERT INTO log VALUES ('abandoned')")
      coroutine.yield(1)
    end)
  end)
  step()
  return { misuse = failure(pg.one, "SELECT 1") } -- it is still open here
end)
routes:get("/swallow/:what", { deadline = "300ms" }, function(req)
  local ok, err = pcall(pg.tx, function(tx)
    tx:exec("INSERT INTO log VALUES ('late')")
    pcall(tx.exec, tx, "SELECT pg_sleep(5)")
    tx:exec("INSERT INTO log VALUES ('later')")
  end)
  return { ok = ok, code = err.code }
end)

routes:get("/leak", {}, function()
  pg.tx(function(tx)
    tx:exec("SET LOCAL work_mem = '123kB'")
    tx:exec("CREATE TEMP TABLE scratch (a int)")
    tx:exec("SELECT 1 AS a INTO TEMPORARY scratch2")
    tx:exec("DECLARE c CURSOR WITH HOLD FOR SELECT 1")
  end)
  pg.exec("DO $$ BEGIN PERFORM set_config('work_mem', '124kB', false), pg_advisory_lock(7); END $$")
  pg.exec("CREATE TEMP TABLE scratch3 (a int)")
  local jobs, out = {}, {}
  for i = 1, 8 do
    jobs[i] = function()
      pg.tx(function(tx)
        out[i] = tx:one([[SELECT current_setting('work_mem') AS mem, pg_sleep(0.05),
          (SELECT count(*) FROM pg_class WHERE relname LIKE 'scratch%' AND pg_table_is_visible(oid)) AS tables,
          (SELECT count(*) FROM pg_cursors WHERE name = 'c') AS cursors,
          (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks]])
      end)
    end
  end
  task.all(jobs)
  return out
end)

local kept
routes:get("/misuse", {}, function()
  pg.tx(function(tx) kept = tx end)
  return {
    pool = pg.tx(function() return failure(pg.one, "SELECT 1") end),
    all = pg.tx(function() return failure(pg.all, { { "SELECT 1" } }) end),
    nested = pg.tx(function() return failure(pg.tx, function() end) end),
    child = pg.tx(function() return task.all { function() return failure(pg.one, "SELECT 1") end }[1] end),
    ended = failure(kept.one, kept, "SELECT 1"),
    ended_all = failure(kept.all, kept, { { "SELECT 1" } }),
    ended_savepoint = failure(kept.savepoint, kept, function() end),
    committed = pg.tx(function(tx)
      tx:commit { { "SELECT 1" } }
      return failure(tx.one, tx, "SELECT 1")
    end),
    dot = failure(function() pg.tx(function(tx) tx.one("SELECT 1") end) end),
    not_function = failure(pg.tx, "SELECT 1"),
    bad_isolation = failure(pg.tx, function() end, { isolation = "chaos" }),
    bad_retries = failure(pg.tx, function() end, { retries = -1 }),
    free_again = pg.one("SELECT 1 AS n").n,
  }
end)
routes:get("/kept", {}, function() return { failure(kept.one, kept, "SELECT 1") } end)
routes:get("/deferred", {}, function()
  pg.exec("DELETE FROM items WHERE id >= 900")
  local add = function(id) return { "INSERT INTO items (id, n) VALUES ($1, 0)", id } end
  local seen
  pg.tx(function(tx)
    tx:defer { add(900) }
    tx:savepoint(function()
      tx:defer { add(901) }
      tx:exec("SELECT 1/0")
    end)
    tx:defer { add(902) }
    seen = tx:value("SELECT count(*) FROM items WHERE id >= 900")
  end)
  local returned = pg.tx(function(tx)
    tx:defer { add(903) }
    return tx:commit { { "SELECT count(*) AS n FROM items WHERE id = 903" } }
  end)
  local failed = failure(pg.tx, function(tx)
    tx:defer { add(904), add(900) }
    return "not seen"
  end)
  return { seen = seen, returned = returned, failed = failed.sqlstate,
    ids = pg.value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM items WHERE id >= 900") }
end)
routes:get("/grown", {}, function()
  local runs = 0
  return pg.tx(function(tx)
    runs = runs + 1
    local locked = tx:lock("growing", 1)
    local lists = tx:all { { "SELECT 1 AS one" }, { "SELECT * FROM growing" } }
    return { locked = locked, row = lists[2][1], runs = runs }
  end)
end)
routes:get("/after-commit", {}, function() -- the pool is free again as soon as the transaction has ended
  return pg.tx(function(tx)
    tx:commit { { "SELECT 1" } }
    return pg.one("SELECT 2 AS two")
  end)
end)
return routes
]=]

describe("pg.tx", function()
  local s

  setup(function()
    s = server.start { app = APP, config = { workers = 1, pg = { tx_connections = 8 } } }
    s:exec [[
      CREATE TABLE items (id int PRIMARY KEY, n int DEFAULT 0);
      INSERT INTO items SELECT i FROM generate_series(1, 20) i;
      CREATE TABLE stock (sku text PRIMARY KEY); INSERT INTO stock VALUES ('a'), ('b'), ('c');
      CREATE TABLE log (what text)]]
  end)
  teardown(function() s:stop() end)

  local function get(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body)
    return answer.json
  end
  local function logged()
    return s:sql("SELECT coalesce(string_agg(what, ' ' ORDER BY what), '') AS whats FROM log")[1].whats
  end
  before_each(function() s:exec("DELETE FROM log") end)

  it("has isolation, read-only and lock_timeout", function()
    local o = get("/options")
    local plain = { isolation = "read committed", read_only = "off", lock_timeout = "0" }
    assert.same(plain, o.plain)
    assert.same(plain, o.after)
    assert.same({ isolation = "serializable", read_only = "on", lock_timeout = "1500ms" }, o.all)
    assert.equal("repeatable read", o.repeatable)
    assert.equal("25006", o.write.sqlstate)
  end)

  it("runs the victim of a deadlock again", function()
    local d = get("/deadlock/3")
    assert.same({ "no error", "no error" }, d.out)
    assert.equal(3, d.runs)
    assert.same({ { n = 2 }, { n = 2 } }, d.n)
    d = get("/deadlock/0")
    assert.equal(2, d.runs)
    local victim = type(d.out[1]) == "table" and d.out[1] or d.out[2]
    assert.equal("40P01", victim.sqlstate)
    assert.same({ { n = 3 }, { n = 3 } }, d.n)
  end)

  it("runs again no more often than it may, and never past the deadline", function()
    local c = get("/conflict/2")
    assert.equal(3, c.runs)
    assert.equal("40001", c.err.sqlstate)
    assert.equal(1, get("/conflict/0").runs)
    local answer = s:get("/conflict/100")
    assert.equal(503, answer.status)
    assert.equal("deadline", answer.json.code)
  end)

  it("runs again after a duplicate that somebody has a remedy for", function()
    s:exec("CREATE TABLE marks (n int CONSTRAINT marks_once UNIQUE)")
    local function try(how)
      s:exec("TRUNCATE marks; INSERT INTO marks VALUES (1)")
      local d = get("/duplicate/" .. how)
      local marks = {}
      for i, row in ipairs(d.marks) do marks[i] = row.n end
      return { d.ok, d.sqlstate, d.runs, d.remedies, table.concat(marks, " ") }
    end
    assert.same({ true, nil, 2, 1, "1 2 102" }, try "end")
    assert.same({ true, nil, 2, 1, "1 2 102" }, try "savepoint")
    assert.same({ false, "23505", 4, 3, "1" }, try "again")
    assert.same({ false, "23505", 1, 1, "1" }, try "raise")
    assert.same({ false, "23505", 1, 0, "1" }, try "unasked")
  end)

  it("runs again after a conflict that nobody looked at", function()
    assert.equal(2, get("/conflict/swallowed").runs)
  end)

  it("locks with nowait, skip, a time, a key and in key order", function()
    local answers = s:parallel { { "GET", "/hold" }, { "GET", "/locks" } }
    assert.equal(200, answers[1].status, answers[1].body)
    assert.equal(200, answers[2].status, answers[2].body)
    assert.same({
      nowait = "55P03", share = "55P03", timed = "55P03", timeout_after = "2s", by_key = "55P03",
      free = { a = { sku = "a" }, c = { sku = "c" } }, none = true, advisory = false, other = true, number = true,
      skipped = { 2, 4, 6 },
    }, answers[2].json)
    assert.same({ done = true }, get("/sorted"))
  end)

  it("answers 503 when a lock is not to be had in time", function()
    local answer = s:parallel { { "GET", "/hold" }, { "GET", "/lock-timeout" } }[2]
    assert.equal(503, answer.status, answer.body)
    assert.truthy(answer.headers["retry-after"])
  end)

  it("refuses what tx:lock cannot mean", function()
    for _, message in ipairs(get("/lock-misuse")) do
      assert.truthy(tostring(message):find("^app.lua:%d+: tx:lock: "), tostring(message))
    end
  end)

  it("nests savepoints", function()
    local o = get("/savepoints")
    assert.same({ true, "22012", "kept" }, { o.inner, o.sqlstate, o.outer })
    assert.truthy(o.bug:find("app.lua:%d+: attempt to concatenate"), o.bug)
    assert.equal("four one outer", logged())
    assert.equal(500, s:get("/savepoint-bug").status)
    assert.equal("four one outer", logged())
  end)

  it("rolls back what raised and commits what returned", function()
    assert.equal(500, s:get("/raise").status)
    assert.equal("", logged())
    assert.equal(409, s:get("/return-error").status)
    assert.equal("returned", logged())
  end)

  it("rolls back what its request left open", function()
    local m = get("/abandon").misuse
    assert.truthy(m:find("^app.lua:%d+: a transaction is open"), m)
    server.eventually("no transaction is left open", function()
      return s:sql("SELECT count(*) AS n FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' "
        .. "AND datname = current_database()")[1].n == 0
    end, 5)
    assert.equal("", logged())
  end)

  it("cannot be made to go on after its deadline", function()
    local answer = s:get("/swallow/it")
    assert.equal(503, answer.status)
    assert.equal("deadline", answer.json.code)
    assert.equal("", logged())
  end)

  it("leaves nothing in the session", function()
    local out = get("/leak")
    assert.equal(8, #out)
    for _, seen in ipairs(out) do
      seen.pg_sleep = nil
      assert.same({ mem = "4MB", tables = 0, cursors = 0, locks = 0 }, seen)
    end
  end)

  it("says what is misuse, with file and line", function()
    local m = get("/misuse")
    for name, text in pairs {
      pool = "tx:query", all = "tx:query", nested = "tx:savepoint", child = "tx:query", ended = "has ended",
      ended_all = "has ended", ended_savepoint = "has ended", committed = "has ended",
      dot = "write tx:one(…), with a colon",
      not_function = "expected a function", bad_isolation = "repeatable read", bad_retries = "retries",
    } do
      assert.equal("string", type(m[name]), name)
      assert.truthy(m[name]:find("^app.lua:%d+: "), name .. ": " .. m[name])
      assert.truthy(m[name]:find(text, 1, true), name .. ": " .. m[name])
    end
    assert.equal(1, m.free_again)
    assert.truthy(get("/kept")[1]:find("^app.lua:%d+: this transaction has ended"))
    assert.equal(2, get("/after-commit").two)
  end)

  it("survives a change of the tables it has prepared statements for", function()
    s:exec("CREATE TABLE growing (id int PRIMARY KEY); INSERT INTO growing VALUES (1)")
    local calls, rerun = {}, 0
    for i = 1, 16 do calls[i] = { "GET", "/grown" } end
    for column = 0, 2 do
      for _ = 1, 2 do
        for _, answer in ipairs(s:parallel(calls)) do
          assert.equal(200, answer.status, answer.body)
          for _, row in ipairs { answer.json.locked, answer.json.row } do
            assert.equal(column > 0 and column or nil, row["c" .. column])
          end
          rerun = rerun + (answer.json.runs > 1 and 1 or 0)
        end
      end
      s:exec(("ALTER TABLE growing ADD COLUMN c%d int DEFAULT %d"):format(column + 1, column + 1))
    end
    assert.truthy(rerun > 0, "no plan was stale")
  end)

  it("sends deferred statements with the commit, without those of an undone savepoint", function()
    assert.same({ seen = 0, returned = { { { n = 1 } } }, failed = "23505", ids = "900 902 903" },
      s:get("/deferred").json)
  end)
end)
