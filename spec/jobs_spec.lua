-- Jobs on a real PostgreSQL, in real job workers: enqueued with a transaction or not at all, run at least once, with
-- effects exactly once behind the fence, whatever is killed meanwhile.
local server = require "spec.support.server"
local exposition = require "spec.support.exposition"
local http = require "spec.support.http"
local queue = require "spec.support.jobs"
local pgbouncer = require "spec.support.pgbouncer"
local postgres = require "spec.support.postgres"

local APP = [[
local app, pg, jobs, task = require "chowk.app", require "chowk.pg", require "chowk.jobs", require "chowk.task"
local http = require "chowk.http"
local time = require "chowk.time"
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
-- Each of these may have happened over there, so each says retryable = false; none of them is an answer.
jobs.define("unanswered", { backoff = "10ms", retries = 1 }, function(args)
  http.post(args.url .. args.path, { body = "x", timeout = "100ms" }):json()
end)
routes:post("/silent", function() task.sleep(2) return "late" end)
routes:post("/babble", function() return "no JSON" end)
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
  effect(pg, "begin", job)
  task.sleep(0.05)
  job:tx(function(tx) effect(tx, "exact", job) end)
  task.sleep(0.05) -- whoever is killed here has completed its job
end)
jobs.define("fenced", { retries = 5, backoff = "10ms" }, function(args, job)
  pg.tx(function(tx)
    effect(tx, "fenced", job)
    if job.attempt == 1 then tx:exec("SELECT pg_advisory_xact_lock(42)") end
  end)
end)
jobs.define("busy", function(args, job)
  effect(pg, "busy", job)
  local until_ms = time.mono_ms() + 1200
  while time.mono_ms() < until_ms do end
end)
jobs.define("nap", { timeout = "10s" }, function(args, job)
  effect(pg, "nap", job)
  task.sleep(args.seconds)
  effect(pg, "woke", job)
end)
jobs.define("spin", { retries = 0 }, function() while true do end end)
jobs.define("tick", note)
jobs.cron("* * * * *", "Asia/Kolkata", "tick", { what = "tick" })
jobs.define("sweep", { unique = true }, note)
jobs.cron("* * * * *", "Asia/Kolkata", "sweep", { what = "sweep" })
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
local MISUSES = {
  unknown = function() jobs.enqueue("nobody") end,
  late = function() jobs.define("late", function() end) end,
  pool = function() pg.tx(function() jobs.enqueue("note") end) end,
  option = function() jobs.enqueue("note", {}, { dealy = "1s" }) end,
  both = function() jobs.enqueue("note", {}, { delay = "1s", run_at = 1 }) end,
  args = function() jobs.enqueue("note", "text") end,
  priority = function() jobs.enqueue("note", {}, { priority = 5 }) end,
}
routes:get("/misuse/:name", function(req)
  local _, err = pcall(MISUSES[req.params.name])
  return { error = tostring(err) }
end)
local told = 0
app.on_start(function() task.spawn(function() pg.listen("chowk_jobs", function() told = told + 1 end) end) end)
routes:get("/told", function() return { n = told } end)
return routes
]]

describe("jobs", function()
  local s
  local admin_port = server.free_port()
  setup(function()
    s = queue.start { app = APP, env = { CHOWK_ADMIN_LISTEN = "127.0.0.1:" .. admin_port },
      config = { http_client = { allow_private = { "127.0.0.0/8" } } } }
  end)
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

  it("are never hopeless for want of an answer", function()
    local base = "http://127.0.0.1:" .. s.port
    local calls = { timeout = { base, "/silent" }, bad_response = { base, "/babble" },
      unavailable = { "http://127.0.0.1:" .. server.free_port(), "/" } }
    for code, call in pairs(calls) do
      local id = enqueue("unanswered", { url = call[1], path = call[2] })
      assert.equal(2, becomes("discarded", id).tries, code)
    end
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

  it("are told of after the commit, in one breath for many", function()
    local before, calls = s:get("/told").json.n, {}
    for i = 1, 20 do -- each waits for the one before: polled for, every second or two, they would take half a minute
      local id = enqueue("note", { what = "told" .. i })
      becomes("completed", id)
      if i == 10 then assert.truthy(s:get("/told").json.n > before) end
    end
    before = s:get("/told").json.n
    for i = 1, 200 do calls[i] = { "POST", "/enqueue/note", { json = { args = { what = "many" } } } } end
    s:parallel(calls)
    server.eventually("all", function() return queue.count(s, "effects WHERE what = 'many'") == 200 end)
    local told = s:get("/told").json.n - before
    assert.truthy(told >= 1 and told < 100, told)
  end)

  it("wait for their time", function()
    local later = enqueue("note", { what = "later" }, { delay = "600ms" })
    local past = enqueue("note", { what = "past" }, { run_at = "2020-01-01T00:00:00Z" })
    assert.equal("scheduled", job(later).state)
    becomes("completed", past)
    becomes("completed", later)
    assert.is_true(s:sql("SELECT attempted_at >= run_at AS ok FROM jobs WHERE id = " .. later)[1].ok)
  end)

  it("never delay a request", function()
    -- Five answers, and it still keeps its own process from everything; in one of some tries, for it computes 1.2 s.
    server.eventually("answers while it computes", function()
      local id = enqueue("busy")
      server.eventually("it computes", function() return effects(id) == 1 end)
      for _ = 1, 5 do assert.equal("quick", s:get("/quick").body) end
      local state = job(id).state
      becomes("completed", id)
      return state == "running"
    end)
  end)

  it("are counted", function()
    local seen
    local function total(name, labels) return exposition.value(seen, name, labels) or 0 end
    local id = enqueue("hopeless")
    becomes("discarded", id)
    server.eventually("counted", function()
      seen = exposition.parse(http.request("127.0.0.1", admin_port, "GET", "/metrics").body)
      return total("jobs_total", { kind = "hopeless", state = "discarded" }) >= 1
    end)
    assert.truthy(total("jobs_total", { kind = "note", state = "completed" }) > 200)
    assert.truthy(total("jobs_total", { kind = "again", state = "parked" }) == 3)
    assert.truthy(total("jobs_total", { kind = "soon", state = "failed" }) > 0)
    assert.truthy(exposition.value(seen, "job_duration_seconds_count", nil, "job_duration_seconds") > 200)
  end)

  it("are misused with a word on what to write", function()
    local said = {
      unknown = 'app.lua:%d+: jobs.enqueue: no job "nobody" is defined: call jobs.define at the top level',
      late = "app.lua:%d+: jobs.define is for loading time",
      pool = "app.lua:%d+: a transaction is open: write .*tx:enqueue",
      option = 'app.lua:%d+: jobs.enqueue: unknown option "dealy"',
      both = "delay and run_at exclude each other",
      args = "arguments: expected a table, got string",
      priority = "priority: expected a whole number from 1 to 4, got 5",
    }
    for name, pattern in pairs(said) do
      local text = s:get("/misuse/" .. name).json.error
      assert.truthy(text:find(pattern), name .. ": " .. text)
    end
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
    local lock = s:hold "SELECT pg_advisory_lock(42)"
    local id = enqueue("fenced")
    server.eventually("the first run to stand", function()
      return #s:sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") > 0
    end)
    s:exec("UPDATE jobs SET lease_until = now() - interval '1 second', attempted_by = 'thief' WHERE id = " .. id)
    lock:close()
    becomes("completed", id)
    assert.equal(1, effects(id))
    assert.truthy(job(id).attempt > 1)
  end)

  it("run by the clock, once per slot in the whole cluster", function()
    server.eventually("the timetables to be known", function()
      return queue.count(s, "(SELECT DISTINCT name FROM cron_runs) n") == 2
    end)
    s:exec [[DELETE FROM effects WHERE what = 'tick'; DELETE FROM jobs WHERE kind = 'tick';
      WITH gone AS (DELETE FROM cron_runs RETURNING name) -- an hour in which nobody ran
      INSERT INTO cron_runs SELECT DISTINCT name, now() - interval '1 hour' FROM gone]]
    s:exec [[INSERT INTO jobs (kind, args, state, run_at, attempt, unique_key) -- one whose next try is far away
      SELECT 'sweep', a, 'retryable', now() + interval '1 day', 9, md5(a::text)
      FROM (SELECT '{"what":"sweep"}'::jsonb a) a ON CONFLICT DO NOTHING]]
    local b = queue.start({ app = APP }, s)
    local c = queue.start({ app = APP }, s)
    finally(function() b:stop() c:stop() end)
    server.eventually("one run for all of it", function() return queue.count(s, "effects WHERE what = 'tick'") > 0 end)
    local counts = s:sql [[
      SELECT (SELECT count(*) FROM cron_runs WHERE name LIKE 'tick%') - 1 AS slots, count(*) AS runs
      FROM jobs WHERE kind = 'tick']]
    assert.equal(counts[1].slots, counts[1].runs)
    assert.truthy(counts[1].runs <= 3) -- minutes that began meanwhile
    server.eventually("the slot runs what waits", function()
      return queue.count(s, "jobs WHERE kind = 'sweep' AND attempt = 10 AND state = 'completed'") == 1
    end)
  end)
end)

describe("jobs that are declared wrongly", function()
  it("stop the start, with their line", function()
    local s = server.start { app = "return require('chowk.app').routes()", start = false }
    finally(function() s.pid = nil s:stop() end)
    local function check(lines)
      local f = assert(io.open(s.dir .. "/app.lua", "w"))
      f:write("local jobs = require 'chowk.jobs'\nlocal function fn() end\n", lines)
      f:close()
      return (server.sh(("cd %s && %s check --dev"):format(s.dir, os.getenv "CHOWK")))
    end
    local cases = {
      ['jobs.define("a b", fn)'] = 'app.lua:3: jobs.define: "a b": names of jobs and queues are',
      ['jobs.define("a", fn) jobs.define("a", fn)'] = 'app.lua:3: jobs.define: the job "a" is defined twice',
      ['jobs.define("a", { retires = 1 }, fn)'] = 'app.lua:3: jobs.define("a"): unknown option "retires"',
      ['jobs.cron("@daily", "UTC", "a")'] = 'app.lua:3: jobs.cron: no job "a" is defined',
      ['jobs.define("a", fn) jobs.cron("@dialy", "UTC", "a")'] = 'app.lua:3: jobs.cron: "@dialy": expected five fields',
      ['jobs.define("a", fn) jobs.cron("0 25 * * *", "UTC", "a")'] = 'jobs.cron: "0 25 * * *": hour: "25": expected 0',
      ['jobs.define("a", fn) jobs.cron("@daily", "Asia/Delhi", "a")'] = 'no time zone "Asia/Delhi"',
    }
    for lines, said in pairs(cases) do
      local out = check(lines)
      assert.truthy(out:find(said, 1, true), lines .. "\n" .. out)
    end
  end)
end)

describe("a job worker that stops", function()
  local s
  after_each(function() s:stop() end)

  local function start_nap(seconds)
    local id = s:post("/enqueue/nap", { json = { args = { seconds = seconds } } }).json.id
    server.eventually("it runs", function() return queue.count(s, "effects WHERE what = 'nap'") == 1 end)
    return id
  end
  local function row(id) return s:sql("SELECT state, attempt, parked FROM jobs WHERE id = " .. id)[1] end

  it("lets its jobs end", function()
    s = queue.start { app = APP }
    local id = start_nap(0.7)
    s:kill("TERM")
    s:wait_exit()
    assert.same({ state = "completed", attempt = 1, parked = 0 }, row(id))
    assert.equal(1, queue.count(s, "effects WHERE what = 'woke'"))
  end)

  it("runs them with new code after a reload, and ends those that run with the old", function()
    s = queue.start { app = APP }
    local id = start_nap(1)
    local f = assert(io.open(s.dir .. "/app.lua", "w"))
    f:write((APP:gsub('"woke"', '"woke anew"'):gsub("jobs.cron%b()", "")))
    f:close()
    local out, code = server.sh("cd " .. s.dir .. " && " .. os.getenv "CHOWK" .. " reload")
    assert.equal(0, code, out)
    local new = s:post("/enqueue/nap", { json = { args = { seconds = 0 } } }).json.id
    server.eventually("both", function()
      return row(id).state == "completed" and row(new).state == "completed"
    end)
    assert.equal("woke", s:sql("SELECT what FROM effects WHERE what LIKE 'woke%' AND job = " .. id)[1].what)
    assert.equal("woke anew", s:sql("SELECT what FROM effects WHERE what LIKE 'woke%' AND job = " .. new)[1].what)
  end)

  it("hands back what takes too long, and another takes it at once", function()
    s = queue.start { app = APP, config = { drain = "200ms", jobs = { lease = "1h" } } }
    local id = start_nap(5)
    s:kill("TERM")
    s:wait_exit()
    assert.same({ state = "available", attempt = 1, parked = 1 }, row(id))
    s:exec("UPDATE jobs SET args = '{\"seconds\":0}'")
    s:start_process()
    server.eventually("it is done", function() return row(id).state == "completed" end)
    assert.equal(0, queue.count(s, "effects WHERE what = 'woke' AND attempt <> 1")) -- it was no failure
  end)
end)

describe("a job that never returns", function()
  it("is named, ended with its process, and not tried for ever", function()
    local s = queue.start { app = APP, config = { worker = { stall = "500ms" } } }
    finally(function() s:stop() end)
    local id = s:post("/enqueue/spin", { json = {} }).json.id
    local function row() return s:sql("SELECT * FROM jobs WHERE id = " .. id)[1] end
    server.eventually("given up", function() return row().state == "discarded" end)
    assert.truthy(row().errors[1].error:find("died or fell silent", 1, true))
    assert.truthy(s:logged("job spin"), s:log())
    id = s:post("/enqueue/note", { json = { args = { what = "after" } } }).json.id
    server.eventually("the next one", function() return row().state == "completed" end)
  end)
end)

describe("jobs and what they stand on", function()
  local pg
  setup(function() pg = postgres.start() end)
  teardown(function() pg:destroy() end)

  it("outlive a PostgreSQL that crashes, and need no Redis", function()
    local s = queue.start { app = APP, pg = pg, redis_url = "unix:///nowhere/redis" }
    finally(function() s:stop() end)
    local DONE = "jobs WHERE kind = 'exact' AND state = 'completed'"
    s:exec "INSERT INTO jobs (kind, max_attempts) SELECT 'exact', 101 FROM generate_series(1, 60)"
    server.eventually("some", function() return queue.count(s, DONE) > 5 end)
    pg:restart("immediate")
    server.eventually("all", function() return queue.count(s, DONE) == 60 end, 40)
    assert.equal(60, queue.count(s, "effects WHERE what = 'exact'"))
    local id
    server.eventually("a connection of the server's", function() -- another process than the one that ran the jobs
      id = s:post("/enqueue/note", { json = { args = { what = "after" } } }).json.id
      return id ~= nil
    end)
    server.eventually("as ever", function() return queue.count(s, "effects WHERE job = " .. id) == 1 end)
  end)

  it("are polled for through a transaction pooler", function()
    local pooler = pgbouncer.start(pg)
    local s = queue.start { app = APP:gsub("app.on_start%b()", ""), pg = pg,
      config = { pg = { pool_mode = "transaction" } }, url = function(name) return pooler:url(name) end }
    finally(function()
      s:stop()
      pooler:destroy()
    end)
    local id = s:post("/enqueue/exact", { json = {} }).json.id
    s:post("/enqueue/ordered", { json = { args = { what = "capped" } } })
    server.eventually("both", function()
      return queue.count(s, "effects WHERE what = 'capped' OR what = 'exact' AND job = " .. id) == 2
    end)
    assert.truthy(s:logged("jobs are polled for"))
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
    for round = 1, 3 do -- all four processes are told at the same moment
      a:exec "INSERT INTO jobs (kind) SELECT 'capped' FROM generate_series(1, 12); NOTIFY chowk_jobs, 'default'"
      server.eventually("twelve", function() return queue.count(a, "effects WHERE what = 'end'") == 12 * round end)
    end
    local most = a:sql([[
      SELECT max(n) AS most FROM (
        SELECT sum(CASE what WHEN 'begin' THEN 1 ELSE -1 END) OVER (ORDER BY id) AS n
        FROM effects WHERE what IN ('begin', 'end')) x]])[1].most
    assert.truthy(most <= 2, most)
    a:exec("DELETE FROM effects")
  end)

  it("have each effect once, whoever is killed", function()
    local n, kills, killed = 0, 0, "''"
    local function more(count)
      n = n + count
      a:exec("INSERT INTO jobs (kind, max_attempts) SELECT 'exact', 101 FROM generate_series(1, " .. count
        .. "); NOTIFY chowk_jobs, 'default'")
    end
    more(200)
    server.eventually("all of them", function()
      local by = a:sql("SELECT attempted_by AS by FROM jobs WHERE kind = 'exact' AND state = 'running'"
        .. " AND attempted_by NOT IN (" .. killed .. ") ORDER BY random() LIMIT 1")[1] -- leases outlive the dead
      if by and kills < 8 then -- in the middle of its jobs
        server.sh("kill -9 " .. by.by:match(":(%d+):"))
        kills, killed = kills + 1, killed .. ", '" .. by.by .. "'"
      end
      local is_done = queue.count(a, "jobs WHERE kind = 'exact' AND state = 'completed'") == n
      if is_done and kills < 3 then more(100) end -- they were faster than the executioner
      return is_done and kills >= 3
    end, 60)
    assert.truthy(queue.count(a, "jobs WHERE kind = 'exact' AND attempt > 1") > 0) -- run again, and yet:
    assert.equal(n, queue.count(a, "effects WHERE what = 'exact'"))
    assert.equal(n, a:sql("SELECT count(DISTINCT job) AS n FROM effects WHERE what = 'exact'")[1].n)
    assert.truthy(queue.count(a, "effects WHERE what = 'begin'") > n)
  end)
end)
