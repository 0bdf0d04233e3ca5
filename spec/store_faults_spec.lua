-- The shop while its PostgreSQL crashes, its sessions end and its wire is cut: customers who try again with their
-- Idempotency-Key end up with one order each, with the number they were told, and the stock is exact.
local server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"
local shop = require "spec.support.shop"
local socket = require "socket"

local MUG = "MGCHAI-11OZ"
local TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
  .. "AND application_name = 'chowk'"

describe("the shop without its PostgreSQL", function()
  local db, wire, s

  setup(function()
    db = postgres.start()
    wire = proxy.start(db.socket)
    s = shop.start({ start = function(opts)
      opts.pg = db
      opts.url = function(name) return ("postgresql://chowk@127.0.0.1:%d/%s"):format(wire.port, name) end
      return server.start(opts)
    end }, { config = { workers = 1 }, env = { LIMITS = "off" } })
    s:exec("UPDATE inventory SET track = true, on_hand = 1000000, reserved = 0 WHERE sku = '" .. MUG .. "'")
  end)
  teardown(function()
    s:stop()
    wire:stop()
    db:destroy()
  end)

  it("loses no order and takes none twice", function()
    local from, retries, queue, keys = socket.gettime(), {}, {}, {}
    local told, n_failed = {}, 0
    local events = {
      { 0.5, function() wire:tell("trap seen \\0chowk_commit\\0") end },
      { 0.8, function() wire:tell("trap unseen \\0chowk_commit\\0") end },
      { 1.0, function() wire:tell("cut") end }, { 1.4, function() s:exec(TERMINATE) end },
      { 1.8, function() db:signal("immediate") end }, { 2.6, function() db:spawn() end },
      { 4.0, function() wire:tell("cut") end }, { 4.4, function() wire:tell("trap seen \\0chowk_commit\\0") end },
    }
    s:flow(24, function()
      local now = socket.gettime() - from
      while events[1] and now >= events[1][1] do table.remove(events, 1)[2]() end
      local key = table.remove(queue, 1)
      if not key and now < 6 then
        key = shop.key()
        keys[#keys + 1] = key
      end
      if not key then return nil end
      retries[#retries + 1] = key
      return shop.order_call({ [MUG] = 1 }, nil, key)
    end, function(i, answer)
      local key = retries[i]
      if answer.status == 201 then
        if told[key] then assert.equal(told[key], answer.json.number) end
        told[key] = answer.json.number
      else
        assert.truthy(answer.status == 503 or answer.status == 409, answer.status .. " " .. answer.body)
        n_failed = n_failed + 1
        queue[#queue + 1] = key
      end
    end, 90)
    -- What was still failing when the load ended tries once more, in peace.
    for _, key in ipairs(keys) do
      if not told[key] then told[key] = shop.place(s, { [MUG] = 1 }, nil, key).number end
    end
    assert.truthy(n_failed > 0, "the faults were not felt")
    assert.truthy(tonumber(wire:tell("trapped")) >= 2)
    local found = {}
    for _, row in ipairs(s:sql("SELECT order_number FROM orders")) do found[row.order_number] = true end
    local n, numbers = 0, {}
    for _, number in pairs(told) do
      n = n + 1
      assert.truthy(found[number], number .. " was acknowledged and is lost")
      assert.is_nil(numbers[number])
      numbers[number] = true
    end
    assert.truthy(n > 100, n)
    assert.equal(n, s:sql("SELECT count(*) AS n FROM orders")[1].n) -- one order a customer
    assert.equal(n, s:sql("SELECT sum(quantity) AS n FROM order_items")[1].n)
    assert.equal(n, s:sql("SELECT reserved AS n FROM inventory WHERE sku = '" .. MUG .. "'")[1].n)
  end)
end)
