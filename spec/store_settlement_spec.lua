-- The shop and Razorpay's API: a payment opened, asked for, captured, given back; and what no webhook told.
local razorpay = require "spec.support.sandbox"
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local MUG = "MGCHAI-11OZ"

describe("a shop that asks Razorpay", function()
  local sandbox, s
  setup(function()
    sandbox = razorpay.start(server, { key_secret = shop.KEY_SECRET })
    s = shop.start(server, {
      config = { workers = 1, payments = { confirm = "fetch" }, razorpay = { timeout = "500ms" } },
      env = { RAZORPAY_URL = razorpay.url(sandbox), RAZORPAY_KEY_ID = "rzp_test_development" },
    })
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
  end)

  -- As production places it: not known to Razorpay yet.
  local function place()
    local order = shop.place(s, { [MUG] = 1 })
    s:exec("UPDATE orders SET razorpay_order_id = NULL WHERE order_number = '" .. order.number .. "'")
    return order
  end
  local function open(order, token)
    return s:post("/api/orders/" .. order.number .. "/payment", { json = {}, timeout = 60,
      headers = { Authorization = "Order " .. (token or order.access_token) } })
  end
  local function pay(opened, outcome)
    return sandbox:post("/sandbox/pay",
      { json = { order_id = opened.razorpay_order_id, outcome = outcome or "authorized" } }).json
  end
  local function verify(proof) return s:post("/api/payments/verify", { json = proof, timeout = 60 }) end
  local function run(kind, args)
    s:exec(("INSERT INTO jobs (kind, args) VALUES ('%s', '%s')"):format(kind, args))
  end
  local function becomes(state, order)
    server.eventually("order is " .. state, function() return shop.state(s, order) == state end)
  end
  local function fail_payments(times)
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/payments", times = times, how = "500" } } })
  end
  local function grow_old(order)
    s:exec("UPDATE orders SET created_at = now() - interval '10 minutes' WHERE order_number = '" .. order.number .. "'")
  end

  it("opens one payment for an order, for whom it belongs to", function()
    local order = place()
    local first = open(order)
    assert.equal(200, first.status, first.body)
    assert.same({ order.total_paise, "INR", "rzp_test_development" },
      { first.json.amount_paise, first.json.currency, first.json.key_id })
    assert.same(first.json, open(order).json)
    assert.equal(404, open(order, ("A"):rep(43)).status)
    assert.equal(404, open({ number = "PC-NONE", access_token = order.access_token }).status)
  end)

  it("captures what the customer proves, and says paid only then", function()
    local order = place()
    local answer = verify(pay(open(order).json))
    assert.same({ number = order.number, status = "confirmed", payment_status = "paid" }, answer.json)
    assert.equal("confirmed/paid", shop.state(s, order))
    assert.equal(409, open(order).status)
  end)

  it("says authorized when Razorpay cannot be asked, and asks again later", function()
    local order = place()
    local proof = pay(open(order).json)
    fail_payments(1000)
    assert.equal("authorized", verify(proof).json.payment_status)
    assert.equal("pending/authorized", shop.state(s, order))
    fail_payments(0)
    grow_old(order)
    run("payment.reconcile", "{}")
    becomes("confirmed/paid", order)
  end)

  it("finds a payment of which nobody told it", function()
    local order, unpaid = place(), place()
    pay(open(order).json, "captured")
    open(unpaid)
    grow_old(order)
    grow_old(unpaid)
    run("payment.reconcile", "{}")
    becomes("confirmed/paid", order)
    assert.equal("pending/unpaid", shop.state(s, unpaid))
  end)

  it("gives late money back once, however often its job runs", function()
    local order = place()
    local proof = pay(open(order).json)
    assert.equal("paid", verify(proof).json.payment_status)
    local args = ('{"payment_id":"%s","amount_paise":%d,"order_number":"%s"}'):format(proof.razorpay_payment_id,
      order.total_paise, order.number)
    run("refund.send", args)
    run("refund.send", args)
    server.eventually("both jobs ended", function()
      return #s:sql("SELECT 1 FROM jobs WHERE kind = 'refund.send' AND state <> 'completed'") == 0
    end)
    assert.equal(1, #sandbox:get("/sandbox/refunds").json.items)
    local kept = s:sql("SELECT amount_paise, razorpay_refund_id FROM refunds WHERE idem_key = 'late-"
      .. proof.razorpay_payment_id .. "'")
    assert.equal(1, #kept)
    assert.equal(order.total_paise, kept[1].amount_paise)
    assert.truthy(kept[1].razorpay_refund_id:find "^rfnd_")
  end)
end)
