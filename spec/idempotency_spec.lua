-- Requests that are sent twice and done once: one transaction, or steps with calls out between them, and workers killed
-- at each of them.
local server = require "spec.support.server"
local socket = require "socket"

local APP = [==[
local app, pg, t = require "chowk.app", require "chowk.pg", require "chowk.schema"
local task = require "chowk.task"
local routes = app.routes()
local body = t.object { email = t.email(), n = t.optional(t.integer()) }
local function declare(path, options, fn)
  options.idempotent, options.guest, options.body = options.idempotent or true, "body.email", body
  routes:post(path, options, fn)
end

declare("/no-step", {}, function(req, tx) req:step("x", function() end) end)
declare("/add", {}, function(req, tx)
  tx:exec("INSERT INTO effects (what) VALUES ('add')")
  return 201, { n = req:json().n, list = {} }, { Location = "/added", ["Set-Cookie"] = { "a=1", "b=2" } }
end)
declare("/text", {}, function(_, tx) tx:exec("SELECT 1") return "plain" end)
declare("/nothing", {}, function() return app.empty end)
declare("/refuse", {}, function(req, tx)
  tx:exec("INSERT INTO effects (what) VALUES ('refused')")
  app.fail(req:json().n or 409, "refused", "no")
end)
declare("/return", {}, function(req, tx)
  tx:exec("INSERT INTO effects (what) VALUES ('returned')")
  return req:json().n, { code = "returned" }
end)
declare("/bug", {}, function(_, tx)
  tx:exec("INSERT INTO effects (what) VALUES ('bug')")
  local x
  return x.y
end)
declare("/broken-then-fail", {}, function(_, tx)
  try(tx.exec, tx, "SELECT 1/0")
  app.fail(409, "after_error")
end)
declare("/broken-then-on", {}, function(_, tx)
  try(tx.exec, tx, "SELECT 1/0")
  tx:exec("SELECT 1")
  return "never"
end)
declare("/commit", {}, function(_, tx) tx:commit { { "SELECT 1" } } return "never" end)
declare("/slow", { deadline = "20s" }, function(_, tx)
  tx:exec("INSERT INTO effects (what) VALUES ('slow')")
  tx:exec("SELECT pg_advisory_xact_lock(7)")
  return "slow"
end)
routes:post("/mine", { idempotent = true, auth = function(req) return { id = req.headers["x-user"] } end },
  function(_, tx) tx:exec("INSERT INTO effects (what) VALUES ('mine')") return "mine" end)

-- An order with a payment: two steps, a call out between them. Where `hold` has a row, or its lock is taken, it stands
-- still for the executioner.
local function stand(where)
  while pg.value("SELECT count(*) FROM hold WHERE at = $1", where) > 0 do
    pg.exec("INSERT INTO standing (at) VALUES ($1)", where)
    task.sleep(0.02)
  end
end
local function stand_in(tx, where) tx:exec("SELECT pg_advisory_xact_lock($1::int8)", where) end
local function charge(key) -- the payment provider: its own key makes it once
  pg.exec("INSERT INTO charges (key) VALUES ($1) ON CONFLICT DO NOTHING", key)
  pg.exec("INSERT INTO calls (key) VALUES ($1)", key)
  return { id = "pay_" .. key }
end
declare("/pay", { idempotent = "steps", deadline = "60s" }, function(req)
  stand(1)
  local order = req:step("order", function(tx)
    local id = tx:value("INSERT INTO effects (what) VALUES ('order') RETURNING id")
    stand_in(tx, 2)
    return { id = id, none = nil }
  end)
  stand(3)
  local paid = charge(req:derived_key("charge"))
  stand(4)
  req:step("paid", function(tx)
    tx:exec("INSERT INTO effects (what) VALUES ('paid')")
    stand_in(tx, 5)
  end)
  stand(6)
  return 201, { order = order.id, payment = paid.id }
end)
declare("/steps", { idempotent = "steps" }, function(req)
  local n = req:json().n
  local a = req:step("a", function(tx)
    tx:exec("INSERT INTO effects (what) VALUES ('a')")
    if n == 1 then app.fail(402, "declined") end
    return 1.5
  end)
  local nothing = req:step("nothing", function() end)
  if n == 2 then app.fail(422, "later") end
  if n == 3 and pg.value("SELECT count(*) FROM effects WHERE what = 'healed'") == 0 then error("bug") end
  if n == 4 then req:step("a", function() end) end
  if n == 5 and pg.value("SELECT count(*) FROM effects WHERE what = 'healed'") == 0 then
    return 503, { code = "busy" }
  end
  return { a = a, nothing = nothing == nil }
end)
declare("/no-steps", { idempotent = "steps" }, function()
  pg.exec("INSERT INTO effects (what) VALUES ('loose')")
  return "done"
end)
return routes
]==]

local TABLES = [[
CREATE TABLE effects (id int GENERATED ALWAYS AS IDENTITY, what text);
CREATE TABLE hold (at int); CREATE TABLE standing (at int); CREATE TABLE charges (key text PRIMARY KEY);
  CREATE TABLE calls (key text);
CREATE TABLE idempotency_keys (scope text NOT NULL, key text NOT NULL, fingerprint bytea NOT NULL, method text NOT NULL,
  path text NOT NULL, locked_until timestamptz, lock_token uuid, answer bytea, steps bytea,
  created_at timestamptz NOT NULL DEFAULT now(), last_run_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '1 day', PRIMARY KEY (scope, key));
]]

local function read(path)
  local f = assert(io.open(path))
  local text = f:read("*a")
  f:close()
  return text
end

describe("idempotent routes", function()
  local s
  local n_keys = 0
  setup(function()
    s = server.start { app = APP, config = { workers = 2, idempotency = { ttl = "2h" } } }
    s:exec(TABLES .. read("migrations/0009_idempotency.sql"):match("CREATE FUNCTION.*"))
  end)
  teardown(function() s:stop() end)
  before_each(function()
    s:exec("DELETE FROM effects; DELETE FROM standing; DELETE FROM charges; DELETE FROM calls")
    n_keys = n_keys + 1
  end)

  local function key() return "key-" .. n_keys end
  local function post(path, n, opts)
    opts = opts or {}
    return s:post(path, { json = { email = opts.email or "asha@example.in", n = n }, timeout = 30,
      headers = { ["Idempotency-Key"] = opts.key or key(), ["X-User"] = opts.user } })
  end
  local function hold_lock(n) -- closed: released
    return s:hold("SELECT pg_advisory_lock(" .. n .. ")")
  end
  local function waits_for(n)
    return #s:sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = " .. n) > 0
  end
  local function stands(where) return #s:sql("SELECT 1 FROM standing WHERE at = " .. where) > 0 end
  local function kill_workers()
    server.sh("kill -9 " .. table.concat(s:processes(), " "))
  end
  -- A request of its own process → function that waits for its body ("" when it was cut).
  local function background(path, seconds)
    local pipe = assert(io.popen(("curl -s -m %s -H 'Idempotency-Key: %s' --json '{\"email\":\"asha@example.in\"}' %s")
      :format(seconds or 60, key(), "http://127.0.0.1:" .. s.port .. path)))
    return function()
      local body = pipe:read("*a")
      pipe:close()
      return body
    end
  end
  local function effects(what)
    return s:sql("SELECT count(*) AS n FROM effects" .. (what and " WHERE what = '" .. what .. "'" or ""))[1].n
  end

  describe("in one transaction", function()
    it("repeat their answer, whole", function()
      local a, b = post("/add", 7), post("/add", 7)
      assert.same({ 201, 7, "/added" }, { a.status, a.json.n, a.headers.location })
      assert.same({ a.status, a.body, a.headers["content-type"], a.headers.location },
        { b.status, b.body, b.headers["content-type"], b.headers.location })
      assert.same({ nil, "true" }, { a.headers["idempotent-replayed"], b.headers["idempotent-replayed"] })
      assert.equal(1, effects())
      local text = post("/text")
      assert.same({ "text/plain; charset=utf-8", "plain" }, { text.headers["content-type"], text.body })
      assert.same({ 204, 204 }, { post("/nothing").status, post("/nothing").status })
    end)

    it("belong to one request of one caller", function()
      post("/add", 1)
      local other = post("/add", 2)
      assert.same({ 422, "idempotency_key_reused" }, { other.status, other.json.code })
      assert.is_nil(post("/add", 2, { email = "ravi@example.in" }).headers["idempotent-replayed"])
      assert.equal("true", post("/add", 1).headers["idempotent-replayed"])
      assert.equal(2, effects())
      for _, user in ipairs { "u1", "u2", "u1" } do
        s:post("/mine", { body = "", headers = { ["Idempotency-Key"] = key(), ["X-User"] = user } })
      end
      assert.equal(2, effects("mine"))
    end)

    it("are the same request in any order of its query, but not in another form", function()
      local function send(path, content_type)
        return s:post(path, { body = '{"email":"asha@example.in"}',
          headers = { ["Idempotency-Key"] = key(), ["Content-Type"] = content_type or "application/json" } })
      end
      assert.equal(201, send("/add?b=1&a=2&b=0").status)
      assert.equal("true", send("/add?a=2&b=1&b=0", "Application/JSON").headers["idempotent-replayed"])
      for _, other in ipairs { { "/add?a=2&b=0&b=1" }, { "/add?a=2&b=1" }, { "/add" },
        { "/add?a=2&b=1&b=0", "application/json; charset=utf-8" } } do
        assert.equal(422, send(other[1], other[2]).status, other[1])
      end
      assert.equal(1, effects())
    end)

    it("need a usable key", function()
      for _, headers in ipairs { {}, { ["Idempotency-Key"] = "" }, { ["Idempotency-Key"] = ("x"):rep(256) },
        { ["Idempotency-Key"] = "caf\195\169" } } do
        local a = s:post("/add", { json = { email = "a@b.in" }, headers = headers })
        assert.equal(400, a.status)
      end
      assert.equal(422, s:post("/add", { json = {}, headers = { ["Idempotency-Key"] = "k" } }).status)
      assert.equal(0, effects())
    end)

    it("keep a refusal, undone, but nothing that another try may change", function()
      for _ = 1, 2 do assert.same({ 409, "refused" }, { post("/refuse").status, post("/refuse").json.code }) end
      assert.equal("true", post("/refuse").headers["idempotent-replayed"])
      assert.equal(0, effects())
      for _, status in ipairs { 401, 403, 429, 503 } do
        for _ = 1, 2 do
          local a = post("/refuse", status, { key = "k" .. status })
          assert.same({ status, nil }, { a.status, a.headers["idempotent-replayed"] })
        end
      end
      for _ = 1, 2 do
        local a = post("/bug", nil, { key = "bug" })
        assert.same({ 500, nil }, { a.status, a.headers["idempotent-replayed"] })
      end
      assert.same({ 409, "after_error" }, { post("/broken-then-fail").status, post("/broken-then-fail").json.code })
      assert.equal(500, post("/broken-then-on", nil, { key = "on" }).status)
      assert.equal(0, effects())
    end)

    it("neither keep nor do what they return as no answer to keep", function()
      for _, status in ipairs { 429, 500, 503 } do
        for _ = 1, 2 do
          local a = post("/return", status, { key = "returned" .. status })
          assert.same({ status, "returned", nil }, { a.status, a.json.code, a.headers["idempotent-replayed"] })
        end
      end
      assert.equal(0, effects())
      for i = 1, 2 do -- any other is kept, with what was done
        local a = post("/return", 402, { key = "returned402" })
        assert.same({ 402, i == 2 and "true" or nil }, { a.status, a.headers["idempotent-replayed"] })
      end
      assert.equal(1, effects("returned"))
    end)

    it("refuse tx:commit, which would leave the answer out", function()
      assert.equal(500, post("/commit").status)
      assert.truthy(s:logged("an idempotent route commits together with its answer"))
      assert.equal(500, post("/no-step").status)
      assert.truthy(s:logged('req:step is for routes with idempotent = "steps"'))
    end)

    it("answer a duplicate at once while the first one runs, and run once", function()
      local lock = hold_lock(7)
      local first = background("/slow")
      server.eventually("the first to wait", function() return waits_for(7) end)
      local begun = socket.gettime()
      local twin = post("/slow")
      assert.same({ 409, "request_in_progress", "1" }, { twin.status, twin.json.code, twin.headers["retry-after"] })
      assert.truthy(socket.gettime() - begun < 10) -- the first one still stands there
      lock:close()
      assert.equal("slow", first())
      assert.equal("true", post("/slow").headers["idempotent-replayed"])
      assert.equal(1, effects("slow"))
    end)

    it("run when who was at the key is gone without an answer", function()
      s:exec [[ALTER FUNCTION idempotency_claim RENAME TO claim_truly; CREATE SEQUENCE claims;
        CREATE FUNCTION idempotency_claim(s text, k text) RETURNS void LANGUAGE plpgsql AS
        'BEGIN IF nextval(''claims'') = 1 THEN RAISE ''in use'' USING ERRCODE = ''CH409''; END IF;
          PERFORM claim_truly(s, k); END']]
      local a = post("/add", 7)
      s:exec "DROP FUNCTION idempotency_claim; ALTER FUNCTION claim_truly RENAME TO idempotency_claim"
      assert.equal(201, a.status, a.body)
      assert.equal("true", post("/add", 7).headers["idempotent-replayed"])
      assert.equal(1, effects())
    end)

    it("run once for many copies at once", function()
      local copies = {}
      for i = 1, 40 do
        copies[i] = { "POST", "/add", { json = { email = "a@b.in" }, headers = { ["Idempotency-Key"] = key() } } }
      end
      local seen = {}
      for _, a in ipairs(s:parallel(copies)) do seen[a.status] = (seen[a.status] or 0) + 1 end
      assert.equal(40, (seen[201] or 0) + (seen[409] or 0))
      assert.equal(1, effects())
    end)

    it("finish although their client has gone", function()
      local lock = hold_lock(7)
      local first = background("/slow", 0.5)
      server.eventually("the first to wait", function() return waits_for(7) end)
      first()
      lock:close()
      server.eventually("the answer", function() return post("/slow").headers["idempotent-replayed"] == "true" end)
      assert.equal(1, effects("slow"))
    end)

    it("run again once the answer has expired", function()
      post("/add")
      s:exec("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
      assert.is_nil(post("/add").headers["idempotent-replayed"])
      assert.equal("true", post("/add").headers["idempotent-replayed"])
      assert.equal(2, effects())
    end)

    it("keep answers that only the server's secret opens, each for its key", function()
      post("/text", nil, { key = "one" })
      post("/add", nil, { key = "two" })
      assert.equal(0, #s:sql("SELECT 1 FROM idempotency_keys WHERE position('plain'::bytea IN answer) > 0"))
      s:exec [[UPDATE idempotency_keys SET answer = (SELECT answer FROM idempotency_keys WHERE key = 'one')
        WHERE key = 'two']]
      assert.equal(500, post("/add", nil, { key = "two" }).status)
    end)
  end)

  describe("in steps", function()
    it("give the results of steps that have committed, and run the rest", function()
      local a = post("/steps", 3)
      assert.equal(500, a.status)
      s:exec("INSERT INTO effects (what) VALUES ('healed')")
      a = post("/steps", 3)
      assert.same({ 200, { a = 1.5, nothing = true }, nil }, { a.status, a.json, a.headers["idempotent-replayed"] })
      assert.equal("true", post("/steps", 3).headers["idempotent-replayed"])
      assert.equal(1, effects("a"))
    end)

    it("keep a refusal from a step, undone, and from between them", function()
      for i = 1, 2 do
        local a = post("/steps", 1)
        assert.same({ 402, "declined", i == 2 and "true" or nil },
          { a.status, a.json.code, a.headers["idempotent-replayed"] })
      end
      assert.equal(0, effects("a"))
      for _ = 1, 2 do assert.equal(422, post("/steps", 2, { key = "later" }).status) end
      assert.equal(1, effects("a"))
      assert.equal(422, post("/steps", 9, { key = "later" }).status)
    end)

    it("refuse another request at once, without a second look at the key", function()
      local first, other = {}, {}
      for i = 1, 40 do
        local function call(n)
          return { "POST", "/steps", { json = { email = "asha@example.in", n = n },
            headers = { ["Idempotency-Key"] = "reused" .. i } } }
        end
        first[i], other[i] = call(2), call(9)
      end
      for _, a in ipairs(s:parallel(first)) do assert.equal(422, a.status) end
      for _, a in ipairs(s:parallel(other)) do assert.equal("idempotency_key_reused", a.json.code) end
    end)

    it("go on after a 503 that was returned", function()
      for _ = 1, 2 do assert.equal(503, post("/steps", 5).status) end
      s:exec("INSERT INTO effects (what) VALUES ('healed')")
      local a = post("/steps", 5)
      assert.same({ 200, nil }, { a.status, a.headers["idempotent-replayed"] })
      assert.equal("true", post("/steps", 5).headers["idempotent-replayed"])
      assert.equal(1, effects("a"))
    end)

    it("forget an answer that has expired, also while they run again", function()
      assert.equal(201, post("/pay").status)
      s:exec("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'; INSERT INTO hold (at) VALUES (3)")
      local again = background("/pay")
      server.eventually("it to stand", function() return stands(3) end)
      assert.equal(409, post("/pay").status)
      assert.equal(1, #s:sql("SELECT 1 FROM idempotency_keys WHERE locked_until > now()"
        .. " AND expires_at BETWEEN now() + interval '90 minutes' AND now() + interval '2 hours'"))
      s:exec("DELETE FROM hold")
      again()
      assert.equal(2, effects("order"))
    end)

    it("want names of their own, but not many", function()
      assert.equal(500, post("/steps", 4).status)
      assert.truthy(s:logged('the name "a" is used twice in one request'))
      assert.same({ "done", "true" }, { post("/no-steps").body, post("/no-steps").headers["idempotent-replayed"] })
    end)

    it("keep a duplicate out while they run", function()
      s:exec("INSERT INTO hold (at) VALUES (3)")
      local first = background("/pay")
      server.eventually("the first to stand", function() return stands(3) end)
      assert.same({ 409, "1" }, { post("/pay").status, post("/pay").headers["retry-after"] })
      s:exec("DELETE FROM hold")
      first()
      assert.same({ 201, "true" }, { post("/pay").status, post("/pay").headers["idempotent-replayed"] })
    end)

    it("stop a run whose lease another has taken", function()
      s:exec("INSERT INTO hold (at) VALUES (4)")
      local first = background("/pay")
      server.eventually("the first to stand", function() return stands(4) end)
      s:exec("UPDATE idempotency_keys SET locked_until = now() - interval '1 second'")
      local second = background("/pay")
      server.eventually("both to stand", function() return s:sql("SELECT count(*) AS n FROM calls")[1].n == 2 end)
      s:exec("DELETE FROM hold")
      local answers = { first(), second() }
      assert.truthy((answers[1] .. answers[2]):find("request_in_progress", 1, true))
      assert.same({ 1, 1, 1 }, { effects("order"), effects("paid"), #s:sql("SELECT 1 FROM charges") })
    end)

    -- kill -9 at every line that matters: before anything, in a step's transaction, between a step and the call, after
    -- the call, in the last step, before the answer.
    for where = 1, 6 do
      it("leave one order and one charge, killed at place " .. where, function()
        local is_inside = where == 2 or where == 5
        local lock = is_inside and hold_lock(where)
        if not is_inside then s:exec("INSERT INTO hold (at) VALUES (" .. where .. ")") end
        local first = background("/pay")
        server.eventually("it to stand", function() return is_inside and waits_for(where) or stands(where) end)
        kill_workers()
        first()
        if lock then lock:close() end
        s:exec("DELETE FROM hold; UPDATE idempotency_keys SET locked_until = now() - interval '1 second'")
        local answer
        server.eventually("the retry's answer", function()
          local ok, a = pcall(post, "/pay")
          answer = ok and a
          return ok and a.status == 201
        end)
        assert.same({ 1, 1, 1 }, { effects("order"), effects("paid"), #s:sql("SELECT 1 FROM charges") })
        local again = post("/pay")
        assert.same({ answer.body, "true" }, { again.body, again.headers["idempotent-replayed"] })
      end)
    end
  end)
end)

describe("an idempotent route", function()
  local function refused(options, text)
    local ok, why = pcall(server.start, { app = [[
      local app, t = require "chowk.app", require "chowk.schema"
      local routes = app.routes()
      routes:post("/", ]] .. options .. [[, function() return "" end)
      return routes]] })
    assert.falsy(ok)
    assert.truthy(tostring(why):find(text, 1, true), why)
  end
  it("says whose keys they are", function()
    refused("{ idempotent = true }", 'app.lua:3: idempotent: say whose keys they are: `auth`, or guest = "body.email"')
    refused('{ idempotent = true, guest = "body.email" }', "the route needs a `body` schema")
    refused('{ idempotent = "often", guest = "body.email" }', 'expected true or "steps", got "often"')
  end)
end)
