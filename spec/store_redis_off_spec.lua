-- The shop's money while its Redis dies, comes back, falls silent and dies again: orders cancelled, shipped, given
-- back in parts, expired, paid too late, found by asking Razorpay. Every answer is as it would be with Redis; in the
-- end the books agree with what was asked for, with each other and with Razorpay's, to the paisa.
local bookkeeping = require "spec.support.books"
local razorpay = require "spec.support.sandbox"
local redis = require "spec.support.redis"
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local BOTTLE, TOTE = "WBPLAIN-500", "TBBOOK-NAT"
local ADMIN = "Bearer spec-admin"
local NOTHING = setmetatable({}, { __jsontype = "object" })   -- {}, where an empty table is written as []

describe("the shop's money without Redis", function()
  local node, s, sandbox, books

  local function behave(behaviour) assert.equal(200, sandbox:post("/sandbox/behave", { json = behaviour }).status) end

  setup(function()
    node = redis.start { args = "--appendonly yes --appendfsync no" }   -- kept, also when it is killed
    s, sandbox = razorpay.with_shop(server, shop, { redis_url = node:url(),
      config = { workers = 2, limit = { store = "redis" }, payments = { confirm = "fetch" },
        razorpay = { timeout = "1s" }, http_client = { breaker_failures = 0 } },
      env = { LIMITS = "report", ADMIN_TOKEN = "spec-admin" } })
    books = bookkeeping.open(s, sandbox, { [BOTTLE] = 1000, [TOTE] = 2 })
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
    redis.stop_all()
  end)

  -- ---- the steps of an order's life -------------------------------------------------------------------------------
  -- Each gives a request and says which status is right (200); where `take` of the answer is true it is asked again.

  local function buyers(order) return { Authorization = "Order " .. order.access_token } end
  local function admins(what, body)
    return { function(order)
      return { "POST", "/api/admin/orders/" .. order.number .. "/" .. what, { json = body,
        headers = { Authorization = ADMIN } } }
    end }
  end

  local PLACE = { function(order) return shop.order_call { [order.sku] = order.quantity } end, status = 201,
    take = function(order, answer) for name, value in pairs(answer) do order[name] = value end end }
  local OPEN = { function(order)
    return { "POST", "/api/orders/" .. order.number .. "/payment", { json = {}, headers = buyers(order) } }
  end, take = function(order, answer) order.razorpay_order_id = answer.razorpay_order_id end }
  local function pay(outcome)
    return { function(order)
      return { "POST", "/sandbox/pay", { json = { order_id = order.razorpay_order_id, outcome = outcome } },
        port = sandbox.port }
    end, take = function(order, answer) order.proof = answer end }
  end
  local VERIFY = { function(order) return { "POST", "/api/payments/verify", { json = order.proof } } end,
    take = function(_, answer) return answer.payment_status ~= "paid" end }
  local CANCEL = { function(order) return { "POST", "/api/orders/" .. order.number .. "/cancel",
    { headers = buyers(order) } } end }
  local PROCESS, DELIVER = admins("process"), admins("deliver")
  local SHIP, TAKE_BACK = admins("ship", { carrier = "Delhivery" }), admins("return", { restock = true })

  -- Asked for twice under one key, as whoever has lost the first answer does.
  local function refund(share, by_hand)
    local key, first = shop.key()
    return { function(order)
      local body = (share or by_hand) and { amount_paise = share and order.total_paise * share, by_hand = by_hand }
      return { "POST", "/api/admin/orders/" .. order.number .. "/refunds", { json = body or NOTHING,
        headers = { Authorization = ADMIN, ["Idempotency-Key"] = key } } }
    end, status = by_hand and 201 or 202, take = function(_, _, body)
      local is_first = not first
      first = first or body
      assert.equal(first, body)
      return is_first
    end }
  end

  -- Runs the lives side by side. weather: after so many answers, what befalls Redis.
  local function live(lives, weather)
    local ready, n_answers = {}, 0
    for i, life in ipairs(lives) do ready[i] = { life = life, at = 1, order = life.order } end
    while #ready > 0 do
      local asked = {}
      s:flow(8, function()
        local one = table.remove(ready, 1)
        asked[#asked + 1] = one
        return one and one.life[one.at][1](one.order)
      end, function(i, answer)
        local one = asked[i]
        local step = one.life[one.at]
        n_answers = n_answers + 1
        if weather and weather[n_answers] then weather[n_answers]() end
        assert.equal(step.status or 200, answer.status, answer.body)
        local again = step.take and step.take(one.order, answer.json, answer.body)
        if not again then one.at = one.at + 1 end
        if one.life[one.at] then ready[#ready + 1] = one end
      end)
    end
    return n_answers
  end
  local function run(order, ...)
    live { { order = order, ... } }
    return order
  end

  -- ---- Redis, and the clock ---------------------------------------------------------------------------------------

  local function starts() node:start() end
  local function dies() node:kill() end
  local function falls_silent() node:signal "STOP" end
  local function speaks_again() node:signal "CONT" end
  local function comes_back()
    starts()
    server.eventually("every worker has found it", function()
      for _ = 1, 8 do
        if s:get("/readyz").json.redis ~= "up" then return false end
      end
      return true
    end)
  end
  local function change(order, set)
    s:exec("UPDATE orders SET " .. set .. " WHERE order_number = '" .. order.number .. "'")
  end
  local function run_job(kind) shop.enqueue(s, kind) end
  local function becomes(state, order)
    server.eventually(order.number .. " is " .. state, function() return shop.state(s, order) == state end)
  end

  local PAID = { PLACE, OPEN, pay "authorized", VERIFY }
  local function after(steps, ...)
    local all = { unpack(steps) }
    for _, step in ipairs { ... } do all[#all + 1] = step end
    return all
  end
  local SHIPPED = after(PAID, PROCESS, SHIP)
  local CONFIRMS, SHIPS = "payment.capture order.confirm", "fulfilment.process fulfilment.ship"

  -- How an order may live: its steps, made anew for each, and its entry in the books.
  local LIVES = {
    { function() return { PLACE, CANCEL, CANCEL } end, axes = "cancelled/unpaid/unfulfilled",
      events = "order.cancel" },
    { function() return after(PAID, CANCEL, CANCEL) end, axes = "cancelled/refunded/unfulfilled", refunds = { 1 },
      events = CONFIRMS .. " order.cancel payment.refund" },
    { function() return after(PAID, refund(0.25)) end, axes = "confirmed/partially_refunded/unfulfilled", held = true,
      refunds = { 0.25 }, events = CONFIRMS .. " payment.refund_part" },
    { function() return after(SHIPPED) end, axes = "confirmed/paid/shipped", gone = "sold",
      events = CONFIRMS .. " " .. SHIPS },
    { function() return after(SHIPPED, refund(0.25), refund(0.75)) end, axes = "confirmed/refunded/shipped",
      gone = "sold", refunds = { 0.25, 0.75 }, events = CONFIRMS .. " " .. SHIPS
      .. " payment.refund_part payment.refund" },
    { function() return after(SHIPPED, DELIVER, TAKE_BACK, refund()) end, axes = "confirmed/refunded/returned",
      gone = "returned", refunds = { 1 }, events = CONFIRMS .. " " .. SHIPS
      .. " fulfilment.deliver fulfilment.take_back payment.refund" },
  }

  it("follows a price that is set while Redis is away, which comes back with the old one", function()
    local function shown()
      for _, item in ipairs(s:get("/api/products?limit=100").json.items) do
        if item.slug == "paani-bottle" then return item.price_paise end
      end
    end
    assert.equal(69900, shown())
    assert.equal("1", node:cli "exists chowk:v:products:newest:100:")
    dies()
    assert.equal(200, s:patch("/api/admin/products/paani-bottle", { json = { price_paise = 79900 },
      headers = { Authorization = ADMIN } }).status)
    local order = run({ sku = BOTTLE, quantity = 1 }, PLACE)
    assert.equal(79900, order.total_paise)
    books:expect(order, { axes = "pending/unpaid/unfulfilled", held = true })
    comes_back()
    assert.equal(79900, shown())
    books:are_exact()
    assert.equal(79900, shown())
  end)

  it("can be taken, says the shop, also while Redis is silent", function()
    falls_silent()
    for _ = 1, 4 do assert.equal(200, s:get("/readyz").status) end
    speaks_again()
  end)

  local function expire(order)
    change(order, "expires_at = now() - interval '1 minute'")
    run_job "order.expire"
    becomes("expired/unpaid", order)
  end

  it("is exact for orders that expire, and are paid too late", function()
    local sold_out, sold = { sku = TOTE, quantity = 2 }, { sku = BOTTLE, quantity = 1 }
    run(sold_out, PLACE, OPEN)
    dies()
    run(sold, PLACE, OPEN)
    expire(sold_out)
    expire(sold)
    local rival = run({ sku = TOTE, quantity = 2 }, PLACE)   -- of what was given back
    comes_back()
    run(sold_out, pay "captured")
    run(sold, pay "captured")
    dies()
    becomes("confirmed/paid", sold)
    becomes("expired/refunded", sold_out)
    books:expect(sold, { axes = "confirmed/paid/unfulfilled", held = true,
      events = "order.expire payment.capture order.revive" })
    books:expect(sold_out, { axes = "expired/refunded/unfulfilled", refunds = { 1 },
      events = "order.expire payment.capture payment.refund" })
    books:expect(rival, { axes = "pending/unpaid/unfulfilled", held = true })
    books:are_exact()
  end)

  it("is exact for payments and refunds of which no webhook tells", function()
    behave { drop = true, refunds = "pending" }
    local authorized = run({ sku = BOTTLE, quantity = 1 }, PLACE, OPEN, pay "authorized")
    local captured = run({ sku = BOTTLE, quantity = 3 }, PLACE, OPEN, pay "captured")
    local unpaid = run({ sku = BOTTLE, quantity = 1 }, PLACE, OPEN)
    for _, order in ipairs { authorized, captured, unpaid } do
      change(order, "created_at = now() - interval '10 minutes'")
    end
    run_job "payment.reconcile"
    becomes("confirmed/paid", authorized)
    becomes("confirmed/paid", captured)
    run(captured, refund(0.25))
    server.eventually("Razorpay has it", function()
      return #s:sql "SELECT 1 FROM refunds WHERE status = 'pending' AND razorpay_refund_id IS NOT NULL" == 1
    end)
    comes_back()
    local id = s:sql("SELECT razorpay_refund_id AS id FROM refunds WHERE status = 'pending'")[1].id
    assert.equal(200, sandbox:post("/sandbox/refunds/" .. id, { json = { status = "processed" } }).status)
    s:exec "UPDATE refunds SET check_at = now() WHERE status = 'pending'"
    dies()
    run_job "refund.reconcile"
    becomes("confirmed/partially_refunded", captured)
    behave(NOTHING)
    books:expect(authorized, { axes = "confirmed/paid/unfulfilled", held = true, events = CONFIRMS })
    books:expect(captured, { axes = "confirmed/partially_refunded/unfulfilled", held = true, refunds = { 0.25 },
      events = CONFIRMS .. " payment.refund_part" })
    books:expect(unpaid, { axes = "pending/unpaid/unfulfilled", held = true })
    books:are_exact()
  end)

  it("is exact when a refund fails, and is asked for again", function()
    local order = run({ sku = BOTTLE, quantity = 2 }, unpack(PAID))
    behave { refunds = "failed" }
    run(order, refund())
    server.eventually("its failure", function() return shop.events(s, order):find("refund.fail", 1, true) end)
    behave(NOTHING)
    run(order, refund())
    books:expect(order, { axes = "confirmed/refunded/unfulfilled", held = true, failed = { 1 }, refunds = { 1 },
      events = CONFIRMS .. " refund.fail payment.refund" })
    books:are_exact()
  end)

  it("is exact when a refund fails, and the money is given back by hand", function()
    local whole = run({ sku = BOTTLE, quantity = 1 }, unpack(SHIPPED))
    local part = run({ sku = BOTTLE, quantity = 2 }, unpack(SHIPPED))
    behave { refunds = "failed" }
    run(whole, refund())
    run(part, refund(0.25))
    for _, order in ipairs { whole, part } do
      server.eventually("its failure", function() return shop.events(s, order):find("refund.fail", 1, true) end)
    end
    behave(NOTHING)
    run(whole, refund(nil, { reference = "UTR 42" }))
    run(part, refund(0.25, { reference = "cash book, p. 7" }), refund(0.75))
    local events = CONFIRMS .. " " .. SHIPS .. " refund.fail"
    books:expect(whole, { axes = "confirmed/refunded/shipped", gone = "sold", failed = { 1 }, refunds = { 1 },
      by_hand = 1, events = events .. " refund.by_hand payment.refund" })
    books:expect(part, { axes = "confirmed/refunded/shipped", gone = "sold", failed = { 0.25 },
      refunds = { 0.25, 0.75 }, by_hand = 0.25,
      events = events .. " refund.by_hand payment.refund_part payment.refund" })
    books:are_exact()
  end)

  it("is exact for orders cancelled, shipped and given back, though Razorpay answers late, or not", function()
    comes_back()
    local lives = {}
    for i = 1, 3 * #LIVES do
      local kind = LIVES[i % #LIVES + 1]
      lives[i] = kind[1]()
      lives[i].order, lives[i].kind = { sku = BOTTLE, quantity = i % 3 + 1 }, kind
    end
    behave { refund_ms = 1100 }   -- too late for the first call
    local n = live(lives, { [10] = dies, [30] = starts, [45] = falls_silent, [55] = dies, [75] = starts, [80] = dies,
      [90] = function() behave { fail = { path = "/refund", times = 6, how = "500" } } end })
    assert.truthy(n > 100)
    assert.is_false(node:is_alive())
    for _, life in ipairs(lives) do books:expect(life.order, life.kind) end
    books:are_exact()
    behave(NOTHING)
  end)
end)
