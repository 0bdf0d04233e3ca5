-- The stand-in for Razorpay: that it behaves as Razorpay's documents say, and what its webhooks, doubled, shuffled,
-- late, lost or signed with the secret before, do to a shop.
local razorpay = require "spec.support.sandbox"
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local MUG = "MGCHAI-11OZ"
local AS_USUAL = setmetatable({}, { __jsontype = "object" })
local KEYS = "Basic " .. require("mime").b64("rzp_test_development:" .. shop.KEY_SECRET)

describe("the sandbox", function()
  local sandbox
  setup(function() sandbox = razorpay.start(server, { key_secret = shop.KEY_SECRET }) end)
  teardown(function() sandbox:stop() end)
  before_each(function() sandbox:post("/sandbox/reset") end)

  local function ask(method, path, body, headers)
    headers = headers or {}
    headers.Authorization = headers.Authorization or KEYS
    return sandbox:request(method, "/v1" .. path, { json = body, headers = headers })
  end
  local function order(more)
    local body = { amount = 50000, currency = "INR", receipt = shop.key() }
    for k, v in pairs(more or {}) do body[k] = v end
    return ask("POST", "/orders", body)
  end
  local function pay(id, outcome)
    return sandbox:post("/sandbox/pay", { json = { order_id = id, outcome = outcome } })
  end
  local function refund(payment_id, body, key)
    return ask("POST", "/payments/" .. payment_id .. "/refund", body, { ["X-Refund-Idempotency"] = key })
  end
  local function behave(behaviour) assert.equal(200, sandbox:post("/sandbox/behave", { json = behaviour }).status) end
  local function description(answer) return answer.status .. " " .. answer.json.error.description end

  it("knows its keys, its fields and its addresses", function()
    assert.equal(401, ask("GET", "/orders", nil, { Authorization = "basic " .. KEYS:sub(7) }).status)
    assert.equal("400 colour is/are not required and should not be sent", description(order { colour = "red" }))
    assert.equal("400 amount: is required.", description(ask("POST", "/orders", { currency = "INR" })))
    assert.equal("400 The requested URL was not found on the server.", description(ask("GET", "/nowhere")))
    assert.equal("400 The id provided does not exist", description(ask("GET", "/orders/order_None0000000000")))
  end)

  it("makes a receipt unique when asked to, by the request or for the day", function()
    local first = order { receipt = "PC-1", unique_receipt = true }.json
    assert.same(first, order { receipt = "PC-1", unique_receipt = true }.json)
    assert.are_not.equal(first.id, order { receipt = "PC-1" }.json.id)
    behave { unique_receipts = true }
    assert.equal("400 Order receipt should be unique.", description(order { receipt = "PC-1" }))
  end)

  it("writes empty notes as [], and changes nothing else", function()
    local plain, noted = order(), order { notes = { city = "Pune" } }
    assert.truthy(plain.body:find('"notes":[]', 1, true))
    assert.same({ city = "Pune" }, noted.json.notes)
    assert.truthy(ask("PATCH", "/orders/" .. noted.json.id, { notes = {} }).body:find('"notes":[]', 1, true))
    assert.equal("400 amount is/are not required and should not be sent",
      description(ask("PATCH", "/orders/" .. noted.json.id, { amount = 1 })))
  end)

  it("lists by page, time and receipt, with what is in it", function()
    local ids = {}
    for i = 1, 12 do ids[i] = order().json.id end
    assert.equal(10, ask("GET", "/orders").json.count)
    local page = ask("GET", "/orders?count=3&skip=2").json.items
    assert.same({ ids[10], ids[9], ids[8] }, { page[1].id, page[2].id, page[3].id })
    assert.equal(0, ask("GET", "/orders?to=1000").json.count)
    assert.equal(0, ask("GET", "/orders?from=4000000000").json.count)
    assert.equal(400, ask("GET", "/orders?count=101").status)
    assert.equal(400, ask("GET", "/orders?skip=few").status)
    local payment = pay(ids[1], "authorized").json.razorpay_payment_id
    local authorized = ask("GET", "/orders?authorized=1&expand%5B%5D=payments").json
    assert.same({ 1, ids[1], payment },
      { authorized.count, authorized.items[1].id, authorized.items[1].payments.items[1].id })
    assert.is_nil(ask("GET", "/payments/" .. payment).json.upi)
    assert.is_table(ask("GET", "/payments/" .. payment .. "?expand%5B%5D=upi").json.upi)
  end)

  it("starts no second payment beside an authorized one, none for a paid order, and gives a late one back", function()
    local id = order().json.id
    local first = pay(id, "failed").json.razorpay_payment_id
    local second = pay(id, "authorized").json.razorpay_payment_id
    assert.equal(422, pay(id).status)
    assert.equal(200, ask("POST", "/payments/" .. second .. "/capture", { amount = 50000, currency = "INR" }).status)
    assert.equal(422, pay(id).status)
    assert.equal("paid", ask("GET", "/orders/" .. id).json.status)
    assert.equal(200, sandbox:post("/sandbox/payments/" .. first .. "/late", { json = {} }).status)
    assert.equal("refunded", ask("GET", "/payments/" .. first).json.status)
    assert.equal("captured", ask("GET", "/payments/" .. second).json.status)
    assert.equal("paid", ask("GET", "/orders/" .. id).json.status)
  end)

  it("refunds once per key, and says 409 while it is at it", function()
    local payment = pay(order().json.id).json.razorpay_payment_id
    behave { refund_ms = 400 }
    local body = { amount = 20000 }
    local call = { "POST", "/v1/payments/" .. payment .. "/refund",
      { json = body, headers = { Authorization = KEYS, ["X-Refund-Idempotency"] = "key-0000001" } } }
    local answers = sandbox:parallel { call, call, call }
    local seen = {}
    for _, answer in ipairs(answers) do seen[answer.status] = (seen[answer.status] or 0) + 1 end
    assert.same({ [200] = 1, [409] = 2 }, seen)
    behave(AS_USUAL)
    local again = refund(payment, body, "key-0000001").json
    assert.equal(20000, ask("GET", "/payments/" .. payment).json.amount_refunded)
    assert.same(again, ask("GET", "/payments/" .. payment .. "/refunds/" .. again.id).json)
    assert.equal("400 Different request with the same idempotency key has already been processed.",
      description(refund(payment, { amount = 1000 }, "key-0000001")))
    assert.equal("400 The refund amount provided is greater than amount captured",
      description(refund(payment, { amount = 30001 }, "key-0000002")))
    assert.equal(200, refund(payment, nil, "key-0000002").status)
    assert.equal("full", ask("GET", "/payments/" .. payment).json.refund_status)
    assert.equal("400 The payment has been fully refunded already", description(refund(payment, nil, "key-0000003")))
  end)

  it("keeps a refund pending, and takes back one that failed", function()
    local payment = pay(order().json.id).json.razorpay_payment_id
    behave { refunds = "pending" }
    local pending = refund(payment, nil, "key-pending1").json
    assert.equal("pending", pending.status)
    assert.equal("refunded", ask("GET", "/payments/" .. payment).json.status)
    local function fail() return sandbox:post("/sandbox/refunds/" .. pending.id, { json = { status = "failed" } }) end
    assert.equal("failed", fail().json.status)
    assert.equal("captured", ask("GET", "/payments/" .. payment).json.status)
    assert.equal(422, fail().status)
    local names = {}
    server.eventually("what was sent", function()
      names = {}
      for _, d in ipairs(sandbox:get("/sandbox/deliveries").json.items) do names[d.event] = true end
      return names["refund.created"] and names["refund.failed"]
    end)
    assert.is_nil(names["refund.processed"])
  end)

  it("has a page for people", function()
    local page = sandbox:get "/"
    assert.same({ 200, "text/html; charset=utf-8" }, { page.status, page.headers["content-type"] })
  end)
end)

describe("a shop with webhooks from the sandbox", function()
  local s, sandbox
  setup(function()
    s, sandbox = razorpay.with_shop(server, shop,
      { config = { workers = 2, payments = { confirm = "fetch" }, razorpay = { timeout = "1s" } } })
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
  end)

  local function behave(behaviour) assert.equal(200, sandbox:post("/sandbox/behave", { json = behaviour }).status) end
  before_each(function() behave(AS_USUAL) end)
  local function opened()
    local order = shop.place_unopened(s, { [MUG] = 1 })
    local answer = s:post("/api/orders/" .. order.number .. "/payment", { json = {}, timeout = 60,
      headers = { Authorization = "Order " .. order.access_token } })
    assert.equal(200, answer.status, answer.body)
    order.razorpay_order_id = answer.json.razorpay_order_id
    return order
  end
  local function pay(order, outcome)
    local answer = sandbox:post("/sandbox/pay", { json = { order_id = order.razorpay_order_id, outcome = outcome } })
    assert.equal(200, answer.status, answer.body)
    return answer.json
  end
  local function becomes(state, order)
    server.eventually(order.number .. " is " .. state, function() return shop.state(s, order) == state end)
  end
  local function settled()
    server.eventually("every webhook applied or parked", function()
      return #s:sql("SELECT 1 FROM webhook_events WHERE processed_at IS NULL AND next_attempt_at <> 'infinity'") == 0
    end)
  end
  local function deliveries() return sandbox:get("/sandbox/deliveries").json.items end
  local function paid_once(order)
    assert.equal("confirmed/paid", shop.state(s, order))
    local moves = s:sql(("SELECT count(*) FILTER (WHERE e.to_status = 'paid') AS paid, (SELECT count(*) FROM payments p"
      .. " WHERE p.order_id = o.id AND p.status = 'captured') AS captured FROM orders o JOIN order_events e"
      .. " ON e.order_id = o.id WHERE o.order_number = '%s' GROUP BY o.id"):format(order.number))[1]
    assert.same({ paid = 1, captured = 1 }, moves)
  end

  it("is paid once by three copies of each, in any order, without the customer's proof", function()
    behave { duplicates = 3, shuffle = true }
    local orders = {}
    for i = 1, 6 do
      orders[i] = opened()
      pay(orders[i], i % 2 == 0 and "late" or "captured")
    end
    for _, order in ipairs(orders) do becomes("confirmed/paid", order) end
    server.eventually("all copies", function() return #deliveries() == 3 * (3 * 3 + 3 * 4) end)
    settled()
    for _, order in ipairs(orders) do paid_once(order) end
    for _, d in ipairs(deliveries()) do assert.equal(200, d.status) end
  end)

  it("is paid once by the proof before late webhooks", function()
    behave { delay_ms = 500, duplicates = 2 }
    local order = opened()
    local proof = pay(order)
    local before = #deliveries()
    assert.equal("paid", s:post("/api/payments/verify", { json = proof, timeout = 60 }).json.payment_status)
    server.eventually("the late ones", function() return #deliveries() == before + 6 end)
    settled()
    paid_once(order)
  end)

  it("asks for what no webhook told, and takes it calmly when all of them come in the end", function()
    behave { drop = true }
    local order = opened()
    pay(order)
    s:exec("UPDATE orders SET created_at = now() - interval '10 minutes' WHERE order_number = '" .. order.number .. "'")
    shop.run(s, "payment.reconcile")
    becomes("confirmed/paid", order)
    behave { shuffle = true }
    local n, before = sandbox:post("/sandbox/redeliver").json.sent, #deliveries()
    server.eventually("all again", function() return #deliveries() == before + n end)
    settled()
    paid_once(order)
  end)

  it("takes the secret before, and no other", function()
    behave { sign_with = "old_webhook_secret" }
    local order = opened()
    pay(order)
    becomes("confirmed/paid", order)
    behave { sign_with = "somebody_elses_secret" }
    local other, before = opened(), #deliveries()
    pay(other)
    server.eventually("refusals", function() return #deliveries() >= before + 3 end)
    for i, d in ipairs(deliveries()) do
      if i > before then assert.equal(400, d.status) end
    end
    assert.equal("pending/unpaid", shop.state(s, other))
    behave(AS_USUAL)
    sandbox:post "/sandbox/redeliver"
    becomes("confirmed/paid", other)
  end)

  it("gets them again after it was away", function()
    local order = opened()
    s:kill "TERM"
    s:wait_exit()
    pay(order)
    server.eventually("a try in vain", function()
      local all = deliveries()
      return all[#all].status == 0
    end)
    s:start_process()
    becomes("confirmed/paid", order)
    settled()
    paid_once(order)
  end)

  it("stays paid when a second payment was given back", function()
    local order = opened()
    local first = pay(order, "failed").razorpay_payment_id
    becomes("pending/failed", order)
    pay(order)
    becomes("confirmed/paid", order)
    sandbox:post("/sandbox/payments/" .. first .. "/late", { json = {} })
    server.eventually("its refund", function()
      return #s:sql("SELECT 1 FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.status = 'processed'"
        .. " AND p.razorpay_payment_id = '" .. first .. "'") == 1
    end)
    settled()
    assert.equal("confirmed/paid", shop.state(s, order))
  end)
end)
