-- Jobs on a real PostgreSQL, in real job workers: enqueued with a transaction or not at all, run at least once, with
-- effects exactly once behind the fence, whatever is killed meanwhile.
local server = require "spec.support.server"
local queue = require "spec.support.jobs"

local APP = [[
local app, pg, jobs, task = require "chowk.app", require "chowk.pg", require "chowk.jobs", require "chowk.task"
local routes = app.routes()

local function effect(db, what, job)
  db:exec("INSERT INTO effects (what, job, attempt) VALUES ($1, $2, $3)", what, job.id, job.attempt)
end
local function note(args, job) effect(pg, args.what, job) end

jobs.define("note", note)
jobs.define("soon", { backoff = "10ms", retries = 2 }, function(args, job)
  effect(pg, "try", job)
  if job.attempt <= (args.fails or 99) then error("not yet: " .. job.attempt) end
end)
jobs.define("hopeless", function()
  jobs.fail("it is over")
end)
jobs.define("once", { unique = true }, note)
jobs.define("again", function(args, job)
  effect(pg, "again", job)
  local n = pg.value("SELECT count(*) FROM effects WHERE job = $1", job.id)
  if n < args.times then return job:again("10ms") end
end)
jobs.define("slow", { timeout = "200ms", retries = 0 }, function() task.sleep(60) end)
jobs.define("ordered", { concurrency = 1, queue = "ordered" }, note)
jobs.define("capped", { concurrency = 2 }, function(args, job)
  effect(pg, "begin", job)
  task.sleep(0.05)
  effect(pg, "end", job)
end)
jobs.define("exact", { retries = 100, backoff = "10ms" }, function(args, job)
  pg.exec("INSERT INTO effects (what, job, attempt) VALUES ('begin', $1, $2)", job.id, job.attempt)
  task.sleep(0.02)
  job:tx(function(tx) effect(tx, "exact", job) end)
end)
jobs.define("fenced", { retries = 5, backoff = "10ms" }, function(args, job)
  pg.tx(function(tx)
    effect(tx, "fenced", job)
    if job.attempt == 1 then tx:exec("SELECT pg_advisory_xact_lock(42)") end
  end)
end)
jobs.define("tick", note)
jobs.cron("* * * * *", "Asia/Kolkata", "tick", { what = "tick" })
routes:get("/quick", function() return "quick" end)

routes:post("/enqueue/:name", function(req)
  local body = req:json()
  return { id = jobs.enqueue(req.params.name, body.args, body.options) }
end)
routes:post("/tx/:how", function(req)
  local id
  local _, err = try(pg.tx, function(tx)
    id = tx:enqueue("note", { what = req.params.how })
    if req.params.how == "raise" then tx:exec("SELECT 1/0") end
    if req.params.how == "undo" then
      tx:savepoint(function() tx:enqueue("note", { what = "undone" }); tx:exec("SELECT 1/0") end)
    end
    if req.params.how == "commit" then tx:commit { jobs.statement("note", { what = "statement" }) } end
  end)
  return { id = id, ok = err == nil }
end)
return routes
]]

describe("jobs", function()
  local s
  setup(function() s = queue.start { app = APP } end)
  teardown(function() s:stop() end)

  local function enqueue(name, args, options)
    local answer = s:post("/enqueue/" .. name, { json = { args = args, options = options } })
    assert.equal(200, answer.status, answer.body)
    return answer.json.id
  end
  local function job(id)
    return s:sql("SELECT *, attempt - parked AS tries, jsonb_array_length(errors) AS n_errors FROM jobs WHERE id = "
      .. id)[1]
  end
  local function becomes(state, id)
    server.eventually("job is " .. state, function() return job(id).state == state end)
    return job(id)
  end
  local function effects(id) return queue.count(s, "effects WHERE job = " .. id) end

  it("run", function()
    local id = enqueue("note", { what = "run" })
    becomes("completed", id)
    assert.equal(1, effects(id))
  end)

  it("come with their transaction, or not at all", function()
    assert.is_true(s:post("/tx/plain").json.ok)
    assert.is_true(s:post("/tx/commit").json.ok)
    assert.is_true(s:post("/tx/undo").json.ok)
    assert.is_false(s:post("/tx/raise").json.ok)
    server.eventually("the jobs", function()
      return queue.count(s, "effects WHERE what IN ('plain', 'commit', 'statement', 'undo')") == 4
    end)
    assert.equal(0, queue.count(s, "jobs WHERE args->>'what' IN ('raise', 'undone')"))
  end)

  it("run again after a failure, later each time, and are kept when all is lost", function()
    local id = enqueue("soon", { fails = 2 })
    assert.equal(3, becomes("completed", id).tries)
    id = enqueue("soon")
    local dead = becomes("discarded", id)
    assert.same({ 3, 3 }, { dead.tries, dead.n_errors })
    assert.truthy(dead.errors[3].error:find("not yet: 3", 1, true))
    id = enqueue("slow")
    assert.truthy(becomes("discarded", id).errors[1].error:find("deadline", 1, true))
  end)

  it("are discarded at once when they are hopeless", function()
    local id = enqueue("hopeless")
    local dead = becomes("discarded", id)
    assert.same({ 1, "it is over" }, { dead.tries, dead.errors[1].error:match("it is over") })
  end)

  it("are there once, where they are unique", function()
    local far = { delay = "1h" }
    local id = enqueue("once", { what = "u" }, far)
    assert.is_nil(enqueue("once", { what = "u" }, far))
    assert.is_number(enqueue("once", { what = "v" }, far))
    assert.is_number(enqueue("note", { what = "w" }, { unique = "k", delay = "1h" }))
    assert.is_nil(enqueue("note", { what = "x" }, { unique = "k", delay = "1h" }))
    assert.equal("scheduled", job(id).state)
    s:exec("UPDATE jobs SET run_at = now(), state = 'available' WHERE id = " .. id)
    becomes("completed", id)
    assert.is_number(enqueue("once", { what = "u" }, far))
  end)

  it("park themselves, which is no failure", function()
    local id = enqueue("again", { times = 4 })
    assert.equal(1, becomes("completed", id).tries)
    assert.equal(4, effects(id))
  end)

  it("run by priority", function()
    s:exec [[INSERT INTO jobs (kind, queue, args, priority, run_at)
      SELECT 'ordered', 'ordered', '{"what":"ordered"}', p, now() - interval '1 second'
      FROM unnest(ARRAY[4, 2, 3, 1, 2]) p]]
    server.eventually("five", function() return queue.count(s, "effects WHERE what = 'ordered'") == 5 end)
    assert.equal("1 2 2 3 4", s:sql([[SELECT string_agg(j.priority::text, ' ' ORDER BY e.id) AS seen
      FROM effects e JOIN jobs j ON j.id = e.job WHERE e.what = 'ordered']])[1].seen)
  end)

  it("refuse to commit once another process has taken them over", function()
    local psql = assert(io.popen("psql -X -q '" .. s.database_url .. "' >/dev/null", "w"))
    psql:write("SELECT pg_advisory_lock(42);\n")
    psql:flush()
    server.eventually("the lock", function()
      return #s:sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted") > 0
    end)
    local id = enqueue("fenced")
    server.eventually("the first run to stand", function()
      return #s:sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") > 0
    end)
    s:exec("UPDATE jobs SET lease_until = now() - interval '1 second', attempted_by = 'thief' WHERE id = " .. id)
    psql:close()
    becomes("completed", id)
    assert.equal(1, effects(id))
    assert.truthy(job(id).attempt > 1)
  end)

  it("run by the clock, once per slot in the whole cluster", function()
    server.eventually("the timetable to be known", function() return queue.count(s, "cron_runs") > 0 end)
    s:exec("UPDATE cron_runs SET slot = now() - interval '1 hour'") -- an hour in which nobody ran
    local b = queue.start({ app = APP }, s)
    local c = queue.start({ app = APP }, s)
    finally(function() b:stop() c:stop() end)
    server.eventually("one run for all of it", function() return queue.count(s, "effects WHERE what = 'tick'") > 0 end)
    local counts = s:sql [[
      SELECT (SELECT count(*) FROM cron_runs) - 1 AS slots, count(*) AS runs FROM jobs WHERE kind = 'tick']]
    assert.equal(counts[1].slots, counts[1].runs)
    assert.truthy(counts[1].runs <= 3) -- minutes that began meanwhile
  end)
end)

describe("chowk jobs", function()
  it("lists, shows the dead, and revives them", function()
    local s = queue.start { app = APP, config = { jobs = { workers = 0 } } }
    finally(function() s:stop() end)
    local function jobs(arguments)
      return server.sh(("cd %s && DATABASE_URL='%s' %s jobs %s"):format(s.dir, s.database_url, os.getenv "CHOWK",
        arguments))
    end
    assert.same({ "no jobs\n", 0 }, { jobs "" })
    s:exec [[INSERT INTO jobs (kind, state, attempt, max_attempts, errors, finalized_at) VALUES
      ('note', 'discarded', 3, 3, '[{"error":"lost it"}]', now()), ('later', 'available', 0, 3, '[]', NULL)]]
    assert.truthy(jobs("list"):find("available +default +later +0/3"))
    assert.truthy(jobs("dead"):find("discarded +default +note +3/3 .-lost it"))
    assert.equal(1, #require("dkjson").decode((jobs("dead --json"))))
    assert.same({ "enqueued again: 1\n", 0 }, { jobs "retry 1" })
    assert.truthy(jobs("list"):find("note +0/3"))
    assert.same({ "no such dead job\n", 1 }, { jobs "retry all" })
    assert.same({ "cancelled: 2\n", 0 }, { jobs "cancel 2" })
    local _, code = jobs "fly"
    assert.equal(2, code)
  end)
end)

describe("jobs on two machines", function()
  local a, b
  setup(function()
    local config = function() return { jobs = { workers = 2, lease = "1s" } } end
    a = queue.start { app = APP, config = config() }
    b = queue.start({ app = APP, config = config() }, a)
  end)
  teardown(function()
    b:stop()
    a:stop()
  end)

  it("hold the cap that a kind has in the whole cluster", function()
    for _ = 1, 12 do a:post("/enqueue/capped", { json = {} }) end
    server.eventually("twelve", function() return queue.count(a, "effects WHERE what = 'end'") == 12 end)
    local most = a:sql([[
      SELECT max(n) AS most FROM (
        SELECT sum(CASE what WHEN 'begin' THEN 1 ELSE -1 END) OVER (ORDER BY id) AS n
        FROM effects WHERE what IN ('begin', 'end')) x]])[1].most
    assert.truthy(most <= 2, most)
    a:exec("DELETE FROM effects")
  end)

  it("have each effect once, whoever is killed", function()
    local n = 150
    a:exec("INSERT INTO jobs (kind, max_attempts) SELECT 'exact', 101 FROM generate_series(1, " .. n .. ")")
    local kills = 0
    server.eventually("all of them", function()
      if kills < 8 then
        local s = kills % 2 == 0 and a or b
        local pids = queue.workers(s)
        if pids[1] then server.sh("kill -9 " .. pids[1 + kills % #pids]) end
        kills = kills + 1
      end
      return queue.count(a, "jobs WHERE kind = 'exact' AND state = 'completed'") == n
    end, 60)
    assert.equal(n, queue.count(a, "effects WHERE what = 'exact'"))
    assert.equal(n, a:sql("SELECT count(DISTINCT job) AS n FROM effects WHERE what = 'exact'")[1].n)
    assert.truthy(queue.count(a, "effects WHERE what = 'begin'") >= n)
  end)
end)
