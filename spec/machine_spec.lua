-- State machines: moves by compare-and-set with their events and jobs, many at once, and mistakes in a definition.
local jobs = require "spec.support.jobs"
local server = require "spec.support.server"

local MACHINE = [[
local order = machine.define {
  name = "order", table = "orders", column = "status", events = { table = "order_events", key = "order_id" },
  states = { "pending", "confirmed", "shipped", "cancelled" }, initial = "pending",
  moves = {
    confirm = { from = { "pending" }, to = "confirmed" },
    ship = { from = { "confirmed" }, to = "shipped", jobs = { "mail" } },
    cancel = { from = { "pending", "confirmed" }, to = "cancelled" },
  },
}
]]
local APP = [[
local app, pg, machine = require "chowk.app", require "chowk.pg", require "chowk.machine"
require("chowk.jobs").define("mail", function() end)
local routes = app.routes()
]] .. MACHINE .. [[
routes:post("/orders/:id/:move", function(req)
  local was = pg.tx(function(tx)
    return order:move(tx, tonumber(req.params.id), req.params.move,
      { actor = "admin", data = { note = "x" }, set = req.query.note and { note = req.query.note } })
  end)
  return { was = was or "nothing" }
end)
routes:post("/undone/:id", function(req)
  pg.tx(function(tx)
    order:move(tx, tonumber(req.params.id), "confirm", { actor = "admin" })
    app.fail(409, "undone")
  end)
end)
routes:post("/caught/:id", function(req)
  local was, err = try(pg.tx, function(tx) return order:move(tx, tonumber(req.params.id), "ship", { actor = "x" }) end)
  return { was = was, code = err and err.code, from = err and err.from, to = err and err.to }
end)
-- The same moves as statements, by who has locked the row (or only says so), with what is to fail behind them.
routes:post("/deferred/:id/:move", function(req)
  local id, state = tonumber(req.params.id), req.query.state
  pg.tx(function(tx)
    if not state then state = tx:lock("orders", id).status end
    tx:defer(order:statements(state, id, req.params.move,
      { actor = "admin", data = { note = "y" }, set = { note = "later" } }))
    if req.query.fails then tx:defer { { "SELECT 1 / 0" } } end
  end)
  return { now = order:to(req.params.move) }
end)
routes:get("/moves", function()
  return { order:from("pending"), order:from("shipped"), order:can("pending", "ship"), order:can("confirmed", "ship") }
end)
return routes
]]

describe("chowk.machine", function()
  local s
  setup(function()
    s = jobs.start { app = APP, config = { workers = 2, jobs = { workers = 0 } } }
    s:exec [[
      CREATE TYPE order_status AS ENUM ('pending', 'confirmed', 'shipped', 'cancelled');
      CREATE TABLE orders (id int PRIMARY KEY, status order_status NOT NULL DEFAULT 'pending', note text,
        version int NOT NULL DEFAULT 0, updated_at timestamptz);
      CREATE TABLE order_events (id int GENERATED ALWAYS AS IDENTITY, order_id int, type text, from_status text,
        to_status text, actor text, data jsonb);
      INSERT INTO orders (id) SELECT generate_series(1, 20)]]
  end)
  teardown(function() s:stop() end)

  it("moves a row, with its event", function()
    assert.equal("pending", s:post("/orders/1/confirm?note=hello").json.was)
    assert.same({ status = "confirmed", version = 1, note = "hello" },
      s:sql("SELECT status, version, note FROM orders WHERE id = 1")[1])
    assert.same({ { type = "order.confirm", from_status = "pending", to_status = "confirmed", actor = "admin",
      data = { note = "x" } } }, s:sql("SELECT type, from_status, to_status, actor, data FROM order_events"))
    assert.equal("confirmed", s:post("/orders/1/ship").json.was)
  end)

  it("refuses what the table does not have, and writes nothing", function()
    local a = s:post("/orders/1/confirm")
    assert.same({ 409, "conflict" }, { a.status, a.json.code })
    assert.same({ code = "illegal_transition", from = "pending", to = "shipped" }, s:post("/caught/2").json)
    assert.equal("nothing", s:post("/orders/99/confirm").json.was)
    assert.equal(409, s:post("/undone/3").status)
    assert.equal(500, s:post("/orders/2/fly").status)
    assert.equal(2, s:sql("SELECT count(*) AS n FROM order_events")[1].n)
    assert.equal("pending", s:sql("SELECT status FROM orders WHERE id = 3")[1].status)
  end)

  it("lets one of many win", function()
    local calls = {}
    for i = 1, 40 do calls[i] = { "POST", "/orders/5/" .. (i % 2 == 0 and "confirm" or "cancel") } end
    local won = { confirm = 0, cancel = 0 }
    for i, a in ipairs(s:parallel(calls)) do
      if a.status == 200 then
        local move = i % 2 == 0 and "confirm" or "cancel"
        won[move] = won[move] + 1
      else
        assert.equal(409, a.status)
      end
    end
    local events = s:sql("SELECT type FROM order_events WHERE order_id = 5 ORDER BY id")
    assert.equal(won.confirm + won.cancel, #events)
    assert.truthy(won.confirm <= 1 and won.cancel == 1)
    assert.equal("cancelled", s:sql("SELECT status FROM orders WHERE id = 5")[1].status)
  end)

  it("moves a locked row together with the commit, with its event and its jobs", function()
    s:exec "DELETE FROM jobs"
    assert.equal("confirmed", s:post("/deferred/6/confirm").json.now)
    assert.equal(500, s:post("/deferred/6/ship?fails=1").status)
    assert.equal(0, jobs.count(s, "jobs"))
    assert.equal("shipped", s:post("/deferred/6/ship").json.now)
    assert.same({ status = "shipped", version = 2, note = "later" },
      s:sql("SELECT status, version, note FROM orders WHERE id = 6")[1])
    assert.same({ { was = "pending", now = "confirmed" }, { was = "confirmed", now = "shipped" } },
      s:sql("SELECT from_status AS was, to_status AS now FROM order_events WHERE order_id = 6 ORDER BY id"))
    assert.same({ { kind = "mail", args = { id = 6, from = "confirmed", to = "shipped", move = "ship",
      data = { note = "y" } } } }, s:sql("SELECT kind, args FROM jobs"))
    assert.equal(409, s:post("/deferred/6/ship").status)
  end)

  it("fails the transaction when a row it took for locked has moved", function()
    s:post("/orders/7/cancel")
    assert.equal(500, s:post("/deferred/7/confirm?state=pending").status)
    assert.truthy(s:logged("order: the row is not locked, its state has changed"))
    assert.equal(1, s:sql("SELECT count(*) AS n FROM order_events WHERE order_id = 7")[1].n)
    assert.equal("cancelled", s:sql("SELECT status FROM orders WHERE id = 7")[1].status)
  end)

  it("enqueues a move's jobs with it, or not at all", function()
    local before = jobs.count(s, "jobs")
    s:post("/orders/8/confirm")
    assert.equal(before, jobs.count(s, "jobs"))
    assert.equal(200, s:post("/orders/8/ship").status)
    assert.equal(before + 1, jobs.count(s, "jobs"))
    assert.equal(409, s:post("/orders/8/ship").status)
    assert.equal(before + 1, jobs.count(s, "jobs"))
  end)

  it("says which moves there are", function()
    assert.same({ { "cancel", "confirm" }, {}, false, true }, s:get("/moves").json)
  end)

  it("finds mistakes in a definition while loading", function()
    local function refused(from, to, text)
      local app = APP:gsub(from, to, 1)
      local ok, why = pcall(server.start, { app = app })
      assert.falsy(ok)
      assert.truthy(tostring(why):find(text, 1, true), why)
    end
    refused('to = "shipped"', 'to = "shiped"', 'app.lua:4: machine.define: order.ship: "shiped" is no state')
    refused('"cancelled" }, initial', '"cancelled", "lost" }, initial', 'no move leads to "lost"')
    refused('jobs = { "mail" }', 'jobs = "mail"', "order.ship: jobs: expected a list of names")
    refused('initial = "pending"', 'initial = "new"', 'initial: "new" is no state')
  end)
end)
