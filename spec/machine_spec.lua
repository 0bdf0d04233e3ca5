-- State machines: moves by compare-and-set with their events, many at once, and mistakes in a definition.
local server = require "spec.support.server"

local MACHINE = [[
local order = machine.define {
  name = "order", table = "orders", column = "status", events = { table = "order_events", key = "order_id" },
  states = { "pending", "confirmed", "shipped", "cancelled" }, initial = "pending",
  moves = {
    confirm = { from = { "pending" }, to = "confirmed" },
    ship = { from = { "confirmed" }, to = "shipped" },
    cancel = { from = { "pending", "confirmed" }, to = "cancelled" },
  },
}
]]
local APP = [[
local app, pg, machine = require "chowk.app", require "chowk.pg", require "chowk.machine"
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
routes:get("/moves", function()
  return { order:from("pending"), order:from("shipped"), order:can("pending", "ship"), order:can("confirmed", "ship") }
end)
return routes
]]

describe("chowk.machine", function()
  local s
  setup(function()
    s = server.start { app = APP, config = { workers = 2 } }
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
    refused('to = "shipped"', 'to = "shiped"', 'app.lua:3: machine.define: order.ship: "shiped" is no state')
    refused('"cancelled" }, initial', '"cancelled", "lost" }, initial', 'no move leads to "lost"')
    refused('initial = "pending"', 'initial = "new"', 'initial: "new" is no state')
  end)
end)
