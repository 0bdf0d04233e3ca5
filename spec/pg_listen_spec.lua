-- pg.listen and pg.notify on a real server: delivery to every worker, the gap after a lost connection, bounds, misuse.
local server = require "spec.support.server"

local APP = [=[
local app, pg, json, task = require "chowk.app", require "chowk.pg", require "chowk.json", require "chowk.task"
local routes = app.routes()
local heard, gaps, fails = json.array {}, 0, 0

app.on_start(function()
  pg.listen("orders", function(payload)
    if payload == "fail" then fails = fails + 1 error("this one fails") end
    heard[#heard + 1] = payload
  end, { gap = function() gaps = gaps + 1 end })
end)

routes:get("/heard", {}, function() return { heard = heard, gaps = gaps, fails = fails } end)
routes:post("/notify", {}, function(req)
  pg.notify("orders", req.query.payload)
  return app.empty
end)

routes:get("/next", {}, function()
  local sub = pg.listen("once", { queue = 2 })
  local none = sub:next("20ms") == nil
  pg.notify("once", "a")
  local first, first_gap = sub:next("5s")
  for i = 1, 4 do pg.notify("once", "b" .. i) end
  pg.notify("once", "last")
  task.sleep(0.1)
  local after, is_gap = sub:next()
  sub:close()
  local ok, err = pcall(sub.next, sub)
  return { none = none, first = first, first_gap = first_gap, after = after, is_gap = is_gap, closed = err }
end)

routes:get("/closed", {}, function()
  local sub = pg.listen("closing")
  return task.all { function() return { was_nil = sub:next() == nil } end,
    function() task.sleep(0.02) sub:close() return { yes = true } end }
end)

routes:get("/deadline", { deadline = "200ms" }, function()
  local sub = pg.listen("silent")
  sub:next()
  return { never = true }
end)

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  return ok and "no error" or type(err) == "table" and err.code .. ": " .. err.message or err
end
routes:get("/misuse", {}, function()
  return {
    channel = failure(pg.listen, 7), long = failure(pg.listen, ("x"):rep(64)),
    option = failure(pg.listen, "a", { q = 1 }),
    payload = failure(pg.notify, "a", {}), too_long = failure(pg.notify, "a", ("x"):rep(8000)),
    listen = failure(pg.listen, "a"),
  }
end)
return routes
]=]

describe("pg.listen", function()
  local s
  setup(function() s = server.start { app = APP, config = { workers = 2, jobs = { workers = 0 } } } end)
  teardown(function() s:stop() end)

  local function get(path)
    local answer = s:get(path)
    assert.equal(200, answer.status, answer.body)
    return answer.json
  end
  -- Connections go to either worker: ask until both have said the same.
  local function both(what, test)
    local seen = 0
    server.eventually(what, function()
      seen = test(get("/heard")) and seen + 1 or 0
      return seen >= 12
    end)
  end
  local LISTENERS = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"

  it("delivers to every worker, and goes on after a function failed", function()
    server.eventually("both listen", function() return #s:sql("SELECT pid " .. LISTENERS) == 2 end)
    for _, payload in ipairs { "1", "fail", "2" } do
      assert.equal(204, s:post("/notify?payload=" .. payload).status)
    end
    both("1 and 2", function(j) return table.concat(j.heard, ",") == "1,2" and j.fails == 1 and j.gaps == 0 end)
    assert.truthy(s:logged("this one fails"))
  end)

  it("listens again after its connection was lost, and tells the gap", function()
    s:exec("SELECT pg_terminate_backend(pid, 5000) " .. LISTENERS)
    both("a gap", function(j) return j.gaps == 1 end)
    s:post("/notify?payload=3")
    both("3", function(j) return table.concat(j.heard, ","):find("1,2,3$") end)
  end)

  it("takes one at a time, with a timeout and a bounded queue", function()
    local j = get("/next")
    assert.is_true(j.none)
    assert.equal("a", j.first)
    assert.is_false(j.first_gap)
    assert.is_true(j.is_gap)
    assert.truthy(j.closed:find("^app.lua:%d+: this subscription is closed"), j.closed)
  end)

  it("wakes who waits when it is closed", function()
    assert.same({ { was_nil = true }, { yes = true } }, get("/closed"))
  end)

  it("ends with the request's deadline", function() assert.equal(503, s:get("/deadline").status) end)

  it("says what is wrong", function()
    local m = get("/misuse")
    assert.truthy(m.channel:find("expected a channel", 1, true), m.channel)
    assert.truthy(m.long:find("1 to 63 bytes", 1, true), m.long)
    assert.truthy(m.option:find('unknown option "q"', 1, true), m.option)
    assert.truthy(m.payload:find("json.encode", 1, true), m.payload)
    assert.truthy(m.too_long:find("^pg_error"), m.too_long)
    assert.equal("no error", m.listen)
  end)
end)

describe("pg.listen under transaction pooling", function()
  it("is refused, with what to write instead; notify works", function()
    local s = server.start { config = { workers = 1, pg = { pool_mode = "transaction" } }, app = [=[
      local app, pg = require "chowk.app", require "chowk.pg"
      local routes = app.routes()
      routes:get("/", {}, function()
        pg.notify("x", "y")
        local ok, err = pcall(pg.listen, "x")
        return { code = err.code, message = err.message }
      end)
      return routes]=] }
    local j = s:get("/").json
    s:stop()
    assert.equal("refused", j.code)
    assert.truthy(j.message:find("task.sleep", 1, true), j.message)
  end)
end)
