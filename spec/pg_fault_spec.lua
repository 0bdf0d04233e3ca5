-- PostgreSQL stopped, crashed, restarted, its sessions terminated, its wire cut, silent or full: every request is
-- answered within its deadline, nothing acknowledged is lost or doubled, and the same worker goes on when it is back.
local server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"
local socket = require "socket"

local APP = [=[
local app, pg, task = require "chowk.app", require "chowk.pg", require "chowk.task"
local routes = app.routes()
local INSERT = "INSERT INTO ledger (id, how) VALUES ($1, $2)"

routes:get("/read/:id", { deadline = "2s" }, function(req)
  return pg.one("SELECT $1::text AS id, count(*) AS n FROM seed", req.params.id)
end)
routes:post("/write/:id", { deadline = "2s" }, function(req)
  return { n = pg.exec(INSERT, req.params.id, "write") }
end)
routes:post("/tx/:id", { deadline = "2s" }, function(req)
  return pg.tx(function(tx)
    tx:one("SELECT count(*) AS n FROM seed")
    return { n = tx:exec(INSERT, req.params.id, "tx") }
  end)
end)
routes:post("/group/:id", { deadline = "2s" }, function(req)
  return pg.tx(function(tx)
    tx:one("SELECT 1 AS one")
    tx:commit { { INSERT, req.params.id, "group" } }
    return { n = 1 }
  end)
end)
routes:post("/whole/:id", { deadline = "2s" }, function(req) -- one Sync group, which needs no COMMIT
  return pg.tx(function(tx)
    tx:commit { { INSERT, req.params.id, "whole" } }
    return { n = 1 }
  end)
end)
-- An idempotent route resolves commit_unknown by reading its key.
routes:post("/once/:id", { deadline = "5s" }, function(req)
  local ok, err = pcall(pg.tx, function(tx) tx:exec(INSERT, req.params.id, "once") end)
  if ok then return { n = 1 } end
  if err.code ~= "commit_unknown" then error(err, 0) end
  return { n = 0, found = pg.value("SELECT count(*) FROM ledger WHERE id = $1", req.params.id) }
end)
routes:get("/sleep/:seconds", { deadline = "20s" }, function(req)
  return pg.tx(function(tx) return tx:one("SELECT pg_sleep($1::float8)", req.params.seconds) end)
end)
routes:get("/late/:what", { deadline = "400ms" }, function(req)
  if req.params.what == "tx" then return pg.tx(function(tx) return tx:one("SELECT pg_sleep(10)") end) end
  return pg.one("SELECT 1 AS one, pg_sleep(10)")
end)
routes:post("/slow-commit/:id", { deadline = "500ms" }, function(req)
  return pg.tx(function(tx) return { n = tx:exec("INSERT INTO slow_commit VALUES ($1)", req.params.id) } end)
end)
routes:get("/alive", {}, function() return { alive = true } end)
routes:get("/pid", {}, function() return { pid = tonumber(pg.value("SELECT pg_backend_pid()")) } end)
return routes
]=]

local SCHEMA = [[
  CREATE TABLE ledger (id text, how text);
  CREATE TABLE seed (id int); INSERT INTO seed SELECT generate_series(1, 10);
  CREATE TABLE slow_commit (id text);
  CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END $$;
  CREATE CONSTRAINT TRIGGER dawdles AFTER INSERT ON slow_commit DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION dawdle();]]

local TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
  .. "AND application_name = 'chowk'"
local COMMIT = "\\0chowk_commit\\0" -- as it is executed: the end of the portal's name, then the prepared statement's
local DEADLINE, SLACK = 2, 5 -- s; the client shares two cores with everything else

describe("PostgreSQL's faults", function()
  local db, s
  local serial = 0

  setup(function()
    db = postgres.start()
    s = server.start { app = APP, pg = db, config = { workers = 1 } }
    s:exec(SCHEMA)
  end)
  teardown(function()
    s:stop()
    db:destroy()
  end)

  local function next_id()
    serial = serial + 1
    return ("r%06d"):format(serial)
  end

  local function assert_healed(on)
    server.eventually("everything works again", function()
      local calls = {}
      for i = 1, 20 do
        calls[i] = i % 4 == 0 and { "GET", "/read/x" } or { "POST", ({ "/write/h", "/tx/h", "/group/h" })[i % 4] }
      end
      for _, answer in ipairs((on or s):parallel(calls)) do if answer.status ~= 200 then return false end end
      return true
    end, 15)
  end

  -- Mixed load for some seconds while the events, { at = seconds, fn }, happen.
  local function load(seconds, events, on)
    local from, acknowledged, statuses, codes = socket.gettime(), {}, {}, {}
    local ids, slowest = {}, 0
    local kinds = { "/read/", "/write/", "/tx/", "/group/" }
    local n = (on or s):flow(32, function()
      local now = socket.gettime() - from
      for _, event in ipairs(events) do
        if event[1] and now >= event[1] then
          event[1] = nil
          event[2]()
        end
      end
      if now > seconds then return nil end
      local id = next_id()
      ids[#ids + 1] = id
      local kind = kinds[#ids % 4 + 1]
      return { kind == "/read/" and "GET" or "POST", kind .. id }
    end, function(i, answer)
      local code = answer.json and answer.json.code or answer.error or ""
      statuses[answer.status] = (statuses[answer.status] or 0) + 1
      codes[code] = (codes[code] or 0) + 1
      slowest = math.max(slowest, answer.seconds)
      if answer.status == 200 then acknowledged[ids[i]] = i % 4 ~= 0 end
      if answer.status == 503 then assert.truthy(answer.headers["retry-after"], answer.body) end
    end, 90)
    return { n = n, acknowledged = acknowledged, statuses = statuses, codes = codes, slowest = slowest }
  end

  local function assert_sane(result)
    for status in pairs(result.statuses) do
      assert.truthy(status == 200 or status == 503, "status " .. status)
    end
    assert.truthy(result.slowest < DEADLINE + SLACK, "slowest answer: " .. result.slowest)
    assert.truthy((result.statuses[200] or 0) > 100, "hardly anything worked")
  end

  -- What was acknowledged is there once; what was not, at most once.
  local function assert_ledger(result, on)
    local rows = {}
    for _, row in ipairs((on or s):sql("SELECT id, count(*) AS n FROM ledger WHERE id LIKE 'r%' GROUP BY id")) do
      rows[row.id] = row.n
      assert.equal(1, row.n, row.id .. " is there " .. row.n .. " times")
    end
    for id, has_row in pairs(result.acknowledged) do
      if has_row then assert.equal(1, rows[id], id .. " was acknowledged and is lost") end
    end
  end

  for _, how in ipairs { "fast", "immediate" } do
    it("survives a restart under load: " .. how, function()
      local pid = s:get("/pid").status
      assert.equal(200, pid)
      local result = load(3, {
        { 0.5, function() db:signal(how) end },
        { 1.2, function() db:spawn() end },
      })
      assert_sane(result)
      assert.truthy((result.statuses[503] or 0) > 0, "the restart was not felt")
      assert_healed()
      assert_ledger(result)
    end)
  end

  it("survives the end of every session, again and again", function()
    local events = {}
    for i = 1, 5 do events[i] = { i * 0.3, function() s:exec(TERMINATE) end } end
    local result = load(2, events)
    assert_sane(result)
    assert_healed()
    assert_ledger(result)
  end)

  describe("on the wire", function()
    local wire, w

    setup(function()
      wire = proxy.start(db.socket)
      w = server.start { app = APP, pg = db, config = { workers = 1 }, url = function(name)
        return ("postgresql://chowk@127.0.0.1:%d/%s"):format(wire.port, name)
      end }
      w:exec(SCHEMA)
    end)
    teardown(function()
      w:stop()
      wire:stop()
    end)
    before_each(function()
      wire:tell("pass")
      assert_healed(w)
    end)

    local function rows(id)
      return w:sql("SELECT count(*) AS n FROM ledger WHERE id = '" .. id .. "'")[1].n
    end

    it("does not claim to know a commit whose answer was lost", function()
      for _, path in ipairs { "/tx/", "/group/", "/whole/" } do
        for how, expected in pairs { seen = 1, unseen = 0 } do
          local id, n = next_id(), tonumber(wire:tell("trapped"))
          wire:tell("trap " .. how .. " " .. (path == "/whole/" and id or COMMIT))
          local answer = w:post(path .. id)
          assert.equal(503, answer.status, answer.body)
          assert.equal("commit_unknown", answer.json.code)
          assert.truthy(answer.headers["retry-after"])
          assert.equal(n + 1, tonumber(wire:tell("trapped")))
          server.eventually("the outcome", function() return rows(id) == expected end, 5)
        end
      end
    end)

    it("lets a route resolve it by reading its key", function()
      for how, expected in pairs { seen = 1, unseen = 0 } do
        local id = next_id()
        wire:tell("trap " .. how .. " " .. COMMIT)
        local answer = w:post("/once/" .. id)
        assert.equal(200, answer.status, answer.body)
        assert.same({ n = 0, found = expected }, answer.json)
        assert.equal(expected, rows(id)) -- run once, never by itself again
      end
    end)

    it("does not repeat a write whose answer was lost", function()
      for how, expected in pairs { seen = 1, unseen = 0 } do
        local id = next_id()
        wire:tell("trap " .. how .. " " .. id)
        local answer = w:post("/write/" .. id)
        assert.equal(503, answer.status, answer.body)
        assert.equal("outcome_unknown", answer.json.code)
        assert.equal(expected, rows(id))
      end
    end)

    it("repeats a read whose answer was lost", function()
      local id = next_id()
      wire:tell("trap seen " .. id)
      local answer = w:get("/read/" .. id)
      assert.equal(200, answer.status, answer.body)
      assert.equal(id, answer.json.id)
    end)

    it("begins a transaction anew that had not answered yet", function()
      wire:tell("trap seen BEGIN")
      local id = next_id()
      local answer = w:post("/tx/" .. id)
      assert.equal(200, answer.status, answer.body)
      assert.equal(1, rows(id))
    end)

    it("survives cuts under load", function()
      local events = {}
      for i = 1, 6 do events[i] = { i * 0.25, function() wire:tell("cut") end } end
      local result = load(2, events, w)
      assert_sane(result)
      assert_healed(w)
      assert_ledger(result, w)
    end)

    it("survives silence under load", function()
      local result = load(3, {
        { 0.7, function() wire:tell("drop") end },
        { 0.9, function() wire:tell("pass") end }, -- once the deadline has freed somebody; what was open stays silent
      }, w)
      assert_sane(result)
      assert.truthy((result.statuses[503] or 0) > 0, "the silence was not felt")
      assert_healed(w)
      assert_ledger(result, w)
    end)

    it("is not confused by a slow wire", function()
      wire:tell("delay 40")
      local result = load(1.5, {}, w)
      assert.equal(result.n, result.statuses[200])
    end)

    it("waits for a connection no longer than the deadline", function()
      wire:tell("refuse")
      wire:tell("cut")
      for _, path in ipairs { "/write/x", "/tx/x" } do
        local answer = w:post(path)
        assert.equal(503, answer.status)
        assert.truthy(answer.seconds < DEADLINE + SLACK, answer.seconds)
      end
      assert.equal(200, w:get("/alive").status)
    end)
  end)

  describe("cancelling", function()
    local SLEEPERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' "
      .. "AND datname = current_database() AND pid <> pg_backend_pid()"
    local function n_asleep() return s:sql(SLEEPERS)[1].n end

    local function reset(client)
      client:setoption("linger", { on = true, timeout = 0 }) -- a reset, not a half-close
      client:close()
    end

    local function send(method, path)
      local client = assert(socket.connect("127.0.0.1", s.port))
      client:send(method .. " " .. path .. " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
      return client
    end

    it("frees the backends when the clients go away", function()
      local clients = {}
      for i = 1, 5 do clients[i] = send("GET", "/sleep/10") end
      server.eventually("they sleep", function() return n_asleep() == 5 end)
      for i = 1, 5 do reset(clients[i]) end
      server.eventually("the backends are free", function() return n_asleep() == 0 end, 3)
      assert_healed()
    end)

    it("frees the backends at the deadline, in a transaction or not", function()
      for _, answer in ipairs(s:parallel { { "GET", "/late/tx" }, { "GET", "/late/read" }, { "GET", "/late/tx" } }) do
        assert.equal(503, answer.status)
        assert.equal("deadline", answer.json.code)
        assert.truthy(answer.seconds < 0.4 + SLACK, answer.seconds)
      end
      server.eventually("the backends are free", function() return n_asleep() == 0 end, 3)
    end)

    it("never cancels a commit that was sent: at the deadline", function()
      local answer = s:post("/slow-commit/late")
      assert.equal(503, answer.status, answer.body)
      assert.equal("commit_unknown", answer.json.code)
      server.eventually("the commit", function()
        return s:sql("SELECT count(*) AS n FROM slow_commit WHERE id = 'late'")[1].n == 1
      end, 10)
    end)

    it("never cancels a commit that was sent: when the client goes away", function()
      local client = send("POST", "/slow-commit/gone")
      server.eventually("it commits", function()
        return s:sql("SELECT count(*) AS n FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active' "
          .. "AND datname = current_database()")[1].n == 1
      end)
      reset(client)
      server.eventually("the commit", function()
        return s:sql("SELECT count(*) AS n FROM slow_commit WHERE id = 'gone'")[1].n == 1
      end, 10)
      assert_healed()
    end)
  end)

  describe("without enough connections", function()
    local small, t

    setup(function()
      small = postgres.start { max_connections = 9, superuser_reserved_connections = 3 }
      small:sql("CREATE ROLE shop LOGIN")
      t = server.start { app = APP, pg = small, start = false, url = function(name)
        return (server.database_url(name, small.sock_dir):gsub("user=chowk", "user=shop"))
      end }
      t:exec(SCHEMA .. "GRANT ALL ON ledger, seed, slow_commit TO shop")
    end)
    teardown(function()
      t:stop()
      small:destroy()
    end)

    it("answers at once while there is none, and works when there is", function()
      local hogs = {}
      local hog = "until psql -X -q -h %s -U shop %s; do sleep 0.1; done >/dev/null 2>&1"
      hog = hog:format(small.sock_dir, t.database)
      for i = 1, 6 do hogs[i] = io.popen(hog, "w") end -- each until its standard input ends
      server.eventually("all are taken", function()
        return t:sql("SELECT count(*) AS n FROM pg_stat_activity WHERE usename = 'shop'")[1].n == 6
      end)
      t:start_process()
      for _, call in ipairs { { "GET", "/read/x" }, { "POST", "/write/x" }, { "POST", "/tx/x" } } do
        local answer = t:request(call[1], call[2])
        assert.equal(503, answer.status, answer.body)
        assert.truthy(answer.headers["retry-after"])
      end
      for i = 1, 6 do hogs[i]:close() end
      assert_healed(t)
    end)

    it("makes do with fewer than it wants", function()
      local result = load(1.5, {}, t)
      assert_sane(result)
      assert.equal(result.n, result.statuses[200])
    end)

    it("survives having none left under load", function()
      local function limit(n) t:exec("ALTER ROLE shop CONNECTION LIMIT " .. n) end
      local result = load(2.5, {
        { 0.5, function() limit(0) t:exec(TERMINATE) end }, -- "too many connections", as when others had taken them
        { 1.3, function() limit(-1) end },
      }, t)
      assert_sane(result)
      assert.truthy((result.statuses[503] or 0) > 0, "the lack of them was not felt")
      assert_healed(t)
      assert_ledger(result, t)
    end)
  end)
end)
