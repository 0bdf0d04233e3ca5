-- The shop while its PostgreSQL crashes, its sessions end and its wire is cut: customers who try again with their
-- Idempotency-Key end up with one order each, with the number they were told, and the stock is exact. And while its
-- Redis dies and comes back, which no customer may notice.
local server = require "spec.support.server"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"
local redis = require "spec.support.redis"
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
      if not key and (now < 5 or #keys < 100) then
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
    assert.equal(n, s:sql("SELECT count(*) AS n FROM orders")[1].n) -- one order a customer
    assert.equal(n, s:sql("SELECT sum(quantity) AS n FROM order_items")[1].n)
    assert.equal(n, s:sql("SELECT reserved AS n FROM inventory WHERE sku = '" .. MUG .. "'")[1].n)
  end)
end)

describe("the shop without its Redis", function()
  local N_CUSTOMERS, ON_HAND, COPIES = 60, 40, 3
  local node, s

  setup(function()
    node = redis.start()
    s = shop.start(server, { redis_url = node:url(), env = { LIMITS = "report" },
      config = { workers = 2, limit = { store = "redis" } } })
    s:exec(("UPDATE inventory SET track = true, on_hand = %d, reserved = 0 WHERE sku = '%s'"):format(ON_HAND, MUG))
    -- Each order is known to Razorpay from its birth.
    s:exec [[CREATE FUNCTION open_at_once() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN NEW.razorpay_order_id := ''order_'' || translate(NEW.order_number, ''-'', ''''); RETURN NEW; END';
      CREATE TRIGGER opened BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION open_at_once()]]
  end)
  teardown(function()
    s:stop()
    redis.stop_all()
  end)

  -- The proof, and copies of the webhook, of what a customer has just ordered.
  local function pay(order, queue)
    local payment_id = shop.payment_id()
    local copy = shop.webhook_call(shop.payment_event("payment.captured", order, payment_id), "Evt" .. payment_id)
    queue[#queue + 1] = { "POST", "/api/payments/verify", { json = shop.proof(order, payment_id) } }
    for _ = 1, COPIES do queue[#queue + 1] = copy end
  end

  it("keeps the ledger and the stock exact", function()
    local queue, sent, n_answers, n_sold, numbers = {}, {}, 0, 0, {}
    local weather = { [15] = "kill", [90] = "start", [130] = "kill" }   -- after so many answers
    for i = 1, N_CUSTOMERS do queue[i] = shop.order_call({ [MUG] = 1 }) end
    local function take()
      sent[#sent + 1] = table.remove(queue, 1)
      return sent[#sent]
    end
    local function on_answer(i, answer)
      n_answers = n_answers + 1
      local what = weather[n_answers]
      if what then node[what](node) end
      if sent[i][2] ~= "/api/orders" then
        assert.equal(200, answer.status, answer.body)
      elseif answer.status == 201 then
        n_sold = n_sold + 1
        local order = answer.json
        assert.is_nil(numbers[order.number])
        numbers[order.number] = true
        order.razorpay_order_id = "order_" .. order.number:gsub("-", "")
        pay(order, queue)
      else
        assert.same({ 409, "out_of_stock" }, { answer.status, answer.json.code })
      end
    end
    while #queue > 0 do
      sent = {}
      s:flow(16, function() return #queue > 0 and take() or nil end, on_answer)
    end
    assert.equal(ON_HAND, n_sold)
    assert.equal(N_CUSTOMERS + ON_HAND * (1 + COPIES), n_answers)
    assert.is_false(node:is_alive())
    server.eventually("each webhook applied", function()
      return s:sql("SELECT count(*) AS n FROM webhook_events WHERE processed_at IS NOT NULL")[1].n == ON_HAND
    end)
    assert.same({ n = ON_HAND, paid = ON_HAND, captured = ON_HAND, moves = ON_HAND }, s:sql([[
      SELECT count(*) AS n, count(*) FILTER (WHERE status = 'confirmed' AND payment_status = 'paid') AS paid,
        (SELECT count(*) FROM payments WHERE status = 'captured') AS captured,
        (SELECT count(*) FROM order_events WHERE to_status = 'paid') AS moves FROM orders]])[1])
    assert.equal(ON_HAND, s:sql("SELECT reserved FROM inventory WHERE sku = '" .. MUG .. "'")[1].reserved)
  end)
end)
