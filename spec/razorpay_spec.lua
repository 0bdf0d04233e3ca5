-- The Razorpay client against the sandbox of examples/razorpay-sandbox: what is repeated, and what comes of it.
local server = require "spec.support.server"
local http = require "spec.support.http"
local razorpay = require "spec.support.sandbox"
local shop = require "spec.support.shop"
local socket = require "socket"

local APP = [[
local app, razorpay = require "chowk.app", require "chowk.razorpay"
local routes = app.routes()
local function answer(fn, ...)
  local result, err = try(fn, ...)
  if err then return { code = err.code, message = err.message, status = err.status, retryable = err.retryable } end
  return { result = result }
end
routes:post("/orders", { deadline = "60s" }, function(req) return answer(razorpay.orders.create, req:json()) end)
routes:get("/orders/:id", function(req) return answer(razorpay.orders.fetch, req.params.id) end)
routes:get("/orders/:id/payments", function(req) return answer(razorpay.orders.payments, req.params.id) end)
routes:get("/payments/:id", function(req) return answer(razorpay.payments.fetch, req.params.id) end)
routes:post("/payments/:id/capture", { deadline = "60s" }, function(req)
  return answer(razorpay.payments.capture, req.params.id, req:json().amount)
end)
routes:post("/payments/:id/refund", { deadline = "60s" }, function(req)
  local refund = req:json()
  return answer(razorpay.refunds.create, req.params.id, { amount = refund.amount, key = refund.key },
    { timeout = refund.timeout })
end)
routes:post("/verify/:form", function(req) return answer(razorpay["verify_" .. req.params.form], req:json()) end)
routes:get("/refunds/:id", function(req) return answer(razorpay.refunds.fetch, req.params.id) end)
return routes
]]

describe("chowk.razorpay", function()
  local sandbox, s
  setup(function()
    sandbox = razorpay.start(server)
    s = server.start { app = APP, env = { RAZORPAY_URL = razorpay.url(sandbox) },
      config = { workers = 1, jobs = { workers = 0 }, razorpay = { timeout = "500ms" },
        http_client = { breaker_failures = 0 } } }
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
  end)
  before_each(function() sandbox:post("/sandbox/reset", { json = {} }) end)

  local function behave(options) assert.equal(200, sandbox:post("/sandbox/behave", { json = options }).status) end
  local function create(receipt, amount)
    return s:post("/orders", { json = { amount = amount or 75800, receipt = receipt }, timeout = 60 }).json
  end
  local function pay(order_id, outcome)
    return sandbox:post("/sandbox/pay", { json = { order_id = order_id, outcome = outcome } }).json.razorpay_payment_id
  end
  local function count(what) return #sandbox:get("/sandbox/" .. what).json.items end

  it("opens one order for a receipt, however often", function()
    local a, b = create("PC-1"), create("PC-1")
    assert.truthy(a.result.id:find("^order_%w+$"))
    assert.equal(a.result.id, b.result.id)
    assert.equal(1, count "orders")
    assert.equal("invalid", create("PC-1", 100000).code) -- another order's receipt
    assert.equal(75800, s:get("/orders/" .. a.result.id).json.result.amount)
  end)

  for _, how in ipairs { "500", "429", "hang", "lost" } do
    it("gets its order through when the API answers with " .. how, function()
      behave { fail = { path = "/orders", times = 2, how = how } }
      local answer = create("PC-2")
      assert.truthy(answer.result, answer.message)
      assert.equal(1, count "orders")
    end)
  end

  it("opens no second order where Razorpay cannot tell: it looks for the receipt", function()
    local careful = server.start { app = APP, env = { RAZORPAY_URL = razorpay.url(sandbox) },
      config = { workers = 1, jobs = { workers = 0 }, razorpay = { timeout = "500ms", unique_receipt = false },
        http_client = { breaker_failures = 0 } } }
    finally(function() careful:stop() end)
    local function open()
      return careful:post("/orders", { json = { amount = 75800, receipt = "PC-9" }, timeout = 60 }).json
    end
    behave { fail = { path = "/orders", method = "POST", times = 1, how = "lost" } }
    local first = open()
    assert.truthy(first.result, first.message)
    assert.equal(first.result.id, open().result.id)
    assert.equal(1, count "orders")
  end)

  it("says what Razorpay refuses, and does not repeat it", function()
    local answer = create("PC-3", 99)
    assert.same({ "razorpay_error", 400, false }, { answer.code, answer.status, answer.retryable })
    assert.truthy(answer.message:find("The amount must be at least INR 1.00", 1, true))
  end)

  it("captures once", function()
    local order = create("PC-4").result
    local payment = pay(order.id, "authorized")
    behave { fail = { path = "/capture", times = 1, how = "lost" } }
    local function capture()
      return s:post("/payments/" .. payment .. "/capture", { json = { amount = 75800 }, timeout = 60 }).json
    end
    assert.equal("captured", capture().result.status)
    assert.equal("captured", capture().result.status)
    assert.equal("captured", s:get("/payments/" .. payment).json.result.status)
    assert.equal(1, #s:get("/orders/" .. order.id .. "/payments").json.result)
    local other = pay(create("PC-5").result.id, "failed")
    local refused = s:post("/payments/" .. other .. "/capture", { json = { amount = 75800 } }).json
    assert.equal("razorpay_error", refused.code)
  end)

  it("refunds once for a key", function()
    local payment = pay(create("PC-6").result.id)
    behave { fail = { path = "/refund", times = 2, how = "lost" } }
    local function refund(amount, key)
      return s:post("/payments/" .. payment .. "/refund", { json = { amount = amount, key = key }, timeout = 60 }).json
    end
    local first = refund(10000, "refund-key-1")
    assert.truthy(first.result, first.message)
    assert.equal(first.result.id, refund(10000, "refund-key-1").result.id)
    assert.equal(1, count "refunds")
    assert.equal("razorpay_error", refund(20000, "refund-key-1").code) -- the key is another request's
    assert.truthy(refund(70000, "refund-key-2").message:find("greater than amount captured", 1, true))
    assert.equal(first.result.id, s:get("/refunds/" .. first.result.id).json.result.id)
  end)

  it("asks again for a refund that is under way", function()
    local payment = pay(create("PC-8").result.id)
    behave { refund_ms = 1000 }   -- the first try ends before it, the next ones hear 409
    local answer = s:post("/payments/" .. payment .. "/refund", { timeout = 60,
      json = { amount = 10000, key = "refund-key-4" } }).json
    assert.truthy(answer.result, answer.message)
    assert.equal(1, count "refunds")
  end)

  it("tells a signature from another, whatever was paid", function()
    local forms = {   -- what is signed, as Razorpay joins it
      checkout = { "order_1|pay_1", { order_id = "order_1", payment_id = "pay_1" } },
      subscription = { "pay_1|sub_1", { payment_id = "pay_1", subscription_id = "sub_1" } },
      payment_link = { "plink_1||paid|pay_1",
        { payment_link_id = "plink_1", reference_id = "", status = "paid", payment_id = "pay_1" } },
      invoice = { "inv_1|R-1|paid|pay_1",
        { invoice_id = "inv_1", receipt = "R-1", status = "paid", payment_id = "pay_1" } },
    }
    for name, form in pairs(forms) do
      local signed = form[2]
      local function verify(secret)
        signed.signature = shop.hmac(secret, form[1])
        return s:post("/verify/" .. name, { json = signed }).json.code
      end
      assert.is_nil(verify "development_key_secret", name)
      assert.equal("bad_signature", verify "another_key_secret", name)
    end
  end)

  it("ends in the time it was given, and says that it may be asked again", function()
    local payment = pay(create("PC-7").result.id)
    behave { fail = { path = "/refund", times = 1, how = "lost" } }
    local function refund(timeout)
      return s:post("/payments/" .. payment .. "/refund", { timeout = 60,
        json = { amount = 10000, key = "refund-key-3", timeout = timeout } }).json
    end
    local answer = refund "150ms" -- too short for a second try
    assert.same({ "timeout", true }, { answer.code, answer.retryable })
    assert.truthy(refund("10s").result)
    assert.equal(1, count "refunds")
  end)

  it("gives up when nobody answers", function()
    local free = server.free_port()
    local alone = server.start { app = APP, env = { RAZORPAY_URL = "http://127.0.0.1:" .. free .. "/v1" },
      config = { workers = 1, jobs = { workers = 0 }, http_client = { breaker_failures = 0 } } }
    finally(function() alone:stop() end)
    local begun = socket.gettime()
    local answer = http.request("127.0.0.1", alone.port, "POST", "/orders",
      { json = { amount = 100, receipt = "x" }, timeout = 60 }).json
    assert.equal("unavailable", answer.code)
    assert.truthy(socket.gettime() - begun < 60)
  end)
end)
