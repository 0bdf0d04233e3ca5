-- The shop and Razorpay's API: a payment opened, asked for, captured, given back; and what no webhook told.
local mime = require "mime"
local razorpay = require "spec.support.sandbox"
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local MUG = "MGCHAI-11OZ"
local ADMIN = { Authorization = "Bearer spec-admin" }
local API = { Authorization = "Basic " .. mime.b64("rzp_test_development:" .. shop.KEY_SECRET) }   -- of the sandbox

describe("a shop that asks Razorpay", function()
  local sandbox, s
  setup(function()
    sandbox = razorpay.start(server, { key_secret = shop.KEY_SECRET })
    s = shop.start(server, {
      config = { workers = 1, payments = { confirm = "fetch" }, razorpay = { timeout = "500ms" } },
      env = { RAZORPAY_URL = razorpay.url(sandbox), RAZORPAY_KEY_ID = "rzp_test_development",
        ADMIN_TOKEN = "spec-admin" },
    })
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
  end)

  local function place() return shop.place_unopened(s, { [MUG] = 1 }) end
  local function open(order, token)
    return s:post("/api/orders/" .. order.number .. "/payment", { json = {}, timeout = 60,
      headers = { Authorization = "Order " .. (token or order.access_token) } })
  end
  local function pay(opened, outcome)
    return sandbox:post("/sandbox/pay",
      { json = { order_id = opened.razorpay_order_id, outcome = outcome or "authorized" } }).json
  end
  local function verify(proof) return s:post("/api/payments/verify", { json = proof, timeout = 60 }) end
  local function run(kind, args) shop.run(s, kind, args) end
  local function becomes(state, order)
    server.eventually("order is " .. state, function() return shop.state(s, order) == state end)
  end
  local function fail_payments(times)
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/payments", times = times, how = "500" } } })
  end
  local function refund_by_hand(payment_id, amount)
    local answer = sandbox:post("/v1/payments/" .. payment_id .. "/refund", { json = { amount = amount },
      headers = API })
    assert.equal(200, answer.status, answer.body)
  end
  local function refunds_of(payment_id)
    local found = {}
    for _, r in ipairs(sandbox:get("/sandbox/refunds").json.items) do
      if r.payment_id == payment_id then found[#found + 1] = r.id end
    end
    return found
  end
  local function razorpay_state(payment_id)
    return sandbox:get("/v1/payments/" .. payment_id, { headers = API }).json.status
  end
  local function payment_state(payment_id)
    local row = s:sql("SELECT status FROM payments WHERE razorpay_payment_id = '" .. payment_id .. "'")[1]
    return row and row.status
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
    run("payment.reconcile")
    becomes("confirmed/paid", order)
  end)

  it("finds a payment of which nobody told it", function()
    local order, unpaid = place(), place()
    pay(open(order).json, "captured")
    open(unpaid)
    grow_old(order)
    grow_old(unpaid)
    run("payment.reconcile")
    becomes("confirmed/paid", order)
    assert.equal("pending/unpaid", shop.state(s, unpaid))
  end)

  it("captures no payment that is not for an order of ours", function()
    local foreign = sandbox:post("/v1/orders", { json = { amount = 50000, currency = "INR" }, headers = API }).json
    local id = pay({ razorpay_order_id = foreign.id }).razorpay_payment_id
    shop.webhook(s, shop.refund_event("processed", { razorpay_order_id = foreign.id, total_paise = 50000 }, id,
      "rfnd_SpecForeign01", 100), "EvtForeignRefund")   -- of it, Razorpay is asked
    server.eventually("parked", function()
      return #s:sql "SELECT 1 FROM webhook_events WHERE event_id = 'EvtForeignRefund' AND next_attempt_at = 'infinity'"
        == 1
    end)
    assert.equal("authorized", razorpay_state(id))
    assert.truthy(s:logged "payment not captured")
  end)

  it("captures no payment that is not an order's price, and says so once", function()
    local order, other = place(), place()
    local proofs = { pay(open(order).json), pay(open(other).json) }
    for _, o in ipairs { order, other } do grow_old(o) end
    s:exec("UPDATE orders SET subtotal_paise = subtotal_paise + 1, total_paise = total_paise + 1 WHERE order_number = '"
      .. order.number .. "'")
    s:exec("UPDATE orders SET currency = 'USD' WHERE order_number = '" .. other.number .. "'")
    assert.equal("authorized", verify(proofs[1]).json.payment_status)
    s:exec "UPDATE orders SET payment_check_at = NULL"
    run("payment.reconcile")
    for i, o in ipairs { order, other } do
      server.eventually("noted", function() return shop.events(s, o):find("payment.ignore", 1, true) end)
      assert.equal("authorized", razorpay_state(proofs[i].razorpay_payment_id))
    end
    assert.equal("order.place payment.authorize payment.ignore", shop.events(s, order))
    assert.equal("order.place payment.ignore", shop.events(s, other))
    assert.same({ "pending/authorized", "pending/unpaid" }, { shop.state(s, order), shop.state(s, other) })
    s:exec("DELETE FROM payments WHERE razorpay_payment_id = '" .. proofs[1].razorpay_payment_id .. "'")
    s:exec(("DELETE FROM orders WHERE order_number IN ('%s', '%s')"):format(order.number, other.number))
  end)

  it("knows an order by its receipt before it captures its payment", function()
    local order = place()
    local proof = pay(open(order).json)
    s:exec("UPDATE orders SET razorpay_order_id = NULL WHERE order_number = '" .. order.number .. "'")
    shop.webhook(s, shop.refund_event("processed", { razorpay_order_id = proof.razorpay_order_id,
      total_paise = order.total_paise }, proof.razorpay_payment_id, "rfnd_SpecEarly0001", 100))
    becomes("confirmed/partially_refunded", order)
  end)

  it("does not let one order keep the others from their turn", function()
    local before, refused, after = place(), place(), place()
    for _, order in ipairs { before, refused, after } do
      order.proof = pay(open(order).json)
      grow_old(order)
    end
    s:exec([[CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN IF NEW.razorpay_payment_id = '']] .. refused.proof.razorpay_payment_id .. [['' THEN RAISE ''not today'';
      END IF; RETURN NEW; END';
      CREATE TRIGGER refuse BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION refuse()]])
    run("payment.reconcile")
    becomes("confirmed/paid", before)
    becomes("confirmed/paid", after)
    assert.equal("pending/unpaid", shop.state(s, refused))
    s:exec("DROP TRIGGER refuse ON payments")
    s:exec("UPDATE orders SET payment_check_at = now() WHERE order_number = '" .. refused.number .. "'")
    run("payment.reconcile")
    becomes("confirmed/paid", refused)
  end)

  it("asks for the order that waited longest, however many are newer", function()
    local order = place()
    pay(open(order).json, "captured")
    s:exec("UPDATE orders SET created_at = now() - interval '1 day' WHERE order_number = '" .. order.number .. "'")
    s:exec([[INSERT INTO orders (order_number, email, subtotal_paise, total_paise, shipping_address, razorpay_order_id,
        created_at)
      SELECT 'NEWER-' || i, 'a@b.in', 100, 100, '{}', 'order_Newer' || i, now() - interval '1 hour'
      FROM generate_series(1, 201) i]])
    run("payment.reconcile")
    becomes("confirmed/paid", order)
    s:exec("DELETE FROM orders WHERE order_number LIKE 'NEWER-%'")
  end)

  it("learns what was given back elsewhere", function()
    local whole, part = place(), place()
    local proofs = { pay(open(whole).json, "captured"), pay(open(part).json, "captured") }
    refund_by_hand(proofs[1].razorpay_payment_id, whole.total_paise)
    refund_by_hand(proofs[2].razorpay_payment_id, 100)
    grow_old(whole)
    grow_old(part)
    run("payment.reconcile")
    becomes("confirmed/partially_refunded", part)
    server.eventually("noted", function() return payment_state(proofs[1].razorpay_payment_id) == "refunded" end)
    assert.equal("pending/unpaid", shop.state(s, whole))   -- nothing to ship
  end)

  it("expires what needs no answer of Razorpay's before what does", function()
    local lost, unpaid = place(), place()
    open(lost)
    s:exec("UPDATE orders SET payment_status = 'authorized', expires_at = now() - interval '6 days',"
      .. " updated_at = now() - interval '6 days' WHERE order_number = '" .. lost.number .. "'")
    s:exec("UPDATE orders SET expires_at = now() - interval '1 minute' WHERE order_number = '" .. unpaid.number .. "'")
    run("order.expire")
    becomes("expired/failed", lost)
    assert.same({ { number = unpaid.number }, { number = lost.number } }, s:sql(([[
      SELECT o.order_number AS number FROM order_events e JOIN orders o ON o.id = e.order_id
      WHERE e.type = 'order.expire' AND o.order_number IN ('%s', '%s') ORDER BY e.id]])
      :format(lost.number, unpaid.number)))
  end)

  it("knows an order by its receipt when a webhook names one it has not heard of", function()
    local order = place()
    local opened = open(order).json
    s:exec("UPDATE orders SET razorpay_order_id = NULL WHERE order_number = '" .. order.number .. "'")
    order.razorpay_order_id = opened.razorpay_order_id
    shop.webhook(s, shop.payment_event("payment.captured", order, shop.payment_id()), "EvtReceipt")
    becomes("confirmed/paid", order)
    local foreign = { razorpay_order_id = "order_Foreign0000001", total_paise = 100 }
    shop.webhook(s, shop.payment_event("payment.captured", foreign, shop.payment_id()), "EvtForeign")
    server.eventually("parked", function()
      return #s:sql("SELECT 1 FROM webhook_events WHERE event_id = 'EvtForeign' AND next_attempt_at = 'infinity'") == 1
    end)
  end)

  it("asks for the capture that a refund presupposes", function()
    local order = place()
    order.razorpay_order_id = open(order).json.razorpay_order_id
    local proof = pay(order, "captured")
    refund_by_hand(proof.razorpay_payment_id, 100)
    local refund_id = refunds_of(proof.razorpay_payment_id)[1]
    shop.webhook(s, shop.refund_event("processed", order, proof.razorpay_payment_id, refund_id, 100))
    becomes("confirmed/partially_refunded", order)
  end)

  it("gives up an order that stayed authorized only when Razorpay says that nothing came of it", function()
    local lost, captured = place(), place()
    open(lost)
    pay(open(captured).json, "captured")
    for _, order in ipairs { lost, captured } do
      s:exec("UPDATE orders SET payment_status = 'authorized', expires_at = now() - interval '6 days',"
        .. " updated_at = now() - interval '6 days' WHERE order_number = '" .. order.number .. "'")
    end
    run("order.expire")
    becomes("expired/failed", lost)
    becomes("confirmed/paid", captured)
  end)

  it("lets an order be paid anew whose authorized payment has gone back, unless another one is on its way", function()
    local order, other = place(), place()
    for _, o in ipairs { order, other } do
      o.razorpay_order_id = open(o).json.razorpay_order_id
      o.payment_id = pay(o).razorpay_payment_id
      shop.webhook(s, shop.payment_event("payment.authorized", o, o.payment_id))
      becomes("pending/authorized", o)
    end
    s:exec("INSERT INTO payments (order_id, razorpay_payment_id, status, amount_paise) SELECT id, 'pay_SpecOnItsWay',"
      .. " 'authorized', total_paise FROM orders WHERE order_number = '" .. other.number .. "'")
    for _, o in ipairs { order, other } do
      assert.equal(200, sandbox:post("/sandbox/payments/" .. o.payment_id .. "/expire", { json = {} }).status)
      shop.webhook(s, shop.refund_event("processed", o, o.payment_id, refunds_of(o.payment_id)[1], o.total_paise))
      server.eventually("heard of", function() return payment_state(o.payment_id) == "refunded" end)
    end
    assert.equal("pending/authorized", shop.state(s, other))
    assert.equal("pending/failed", shop.state(s, order))
    assert.equal("paid", verify(pay(open(order).json)).json.payment_status)
  end)

  it("gives late money back once, however often its job runs", function()
    local order = place()
    local proof = pay(open(order).json)
    assert.equal("paid", verify(proof).json.payment_status)
    local args = ('{"payment_id":"%s","amount_paise":%d,"order_number":"%s"}'):format(proof.razorpay_payment_id,
      order.total_paise, order.number)
    run("refund.send", args)
    run("refund.send", args)
    assert.equal(1, #refunds_of(proof.razorpay_payment_id))
    local kept = s:sql("SELECT amount_paise, razorpay_refund_id FROM refunds WHERE idem_key = 'late-"
      .. proof.razorpay_payment_id .. "'")
    assert.equal(1, #kept)
    assert.equal(order.total_paise, kept[1].amount_paise)
    assert.truthy(kept[1].razorpay_refund_id:find "^rfnd_")
    -- Who revives it long afterwards does not ask again: Razorpay may have forgotten the key.
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/v1/", times = 9, how = "500" } } })
    run("refund.send", args)
    assert.equal(9, sandbox:get("/sandbox/behave").json.fail.times)
    fail_payments(0)
  end)

  it("asks for refunds that are under way, and sends those that were never sent", function()
    local told, lost = place(), place()
    for _, order in ipairs { told, lost } do
      order.payment_id = pay(open(order).json, "captured").razorpay_payment_id
      grow_old(order)
    end
    run("payment.reconcile")
    becomes("confirmed/paid", told)
    becomes("confirmed/paid", lost)
    refund_by_hand(told.payment_id, told.total_paise)
    s:exec(([[INSERT INTO refunds (payment_id, idem_key, razorpay_refund_id, amount_paise, status, check_at)
      SELECT p.id, 'spec-refund-' || p.id, CASE WHEN p.razorpay_payment_id = '%s' THEN '%s' END, p.amount_paise,
             CASE WHEN p.razorpay_payment_id = '%s' THEN 'pending' ELSE 'requested' END, now()
      FROM payments p WHERE p.razorpay_payment_id IN ('%s', '%s')]])
      :format(told.payment_id, refunds_of(told.payment_id)[1], told.payment_id, told.payment_id, lost.payment_id))
    run("refund.reconcile")
    becomes("confirmed/refunded", told)
    becomes("confirmed/refunded", lost)
    assert.equal(2, #s:sql("SELECT 1 FROM refunds WHERE idem_key LIKE 'spec-refund-%' AND status = 'processed'"))
  end)

  it("need not send what somebody gave back by hand", function()
    local order = place()
    local payment_id = pay(open(order).json, "captured").razorpay_payment_id
    grow_old(order)
    run("payment.reconcile")
    becomes("confirmed/paid", order)
    refund_by_hand(payment_id, order.total_paise)
    run("refund.send", ('{"payment_id":"%s","amount_paise":%d,"order_number":"%s"}'):format(payment_id,
      order.total_paise, order.number))
    becomes("confirmed/refunded", order)
    assert.equal(0, #s:sql("SELECT 1 FROM refunds WHERE status = 'requested'"))
  end)

  it("gives back what is left when somebody gave part of it back by hand, and says so", function()
    local order = place()
    local proof = pay(open(order).json)
    assert.equal("paid", verify(proof).json.payment_status)
    refund_by_hand(proof.razorpay_payment_id, 10000)
    local args = ('{"payment_id":"%s","amount_paise":%d,"order_number":"%s"}'):format(proof.razorpay_payment_id,
      order.total_paise, order.number)
    run("refund.send", args)
    becomes("confirmed/refunded", order)
    run("refund.send", args)   -- again changes nothing
    local found = {}
    for _, r in ipairs(s:sql("SELECT r.idem_key, r.status, r.amount_paise FROM refunds r JOIN payments p"
      .. " ON p.id = r.payment_id WHERE p.razorpay_payment_id = '" .. proof.razorpay_payment_id .. "'")) do
      found[r.idem_key:match "^late.*" or "by hand"] = r.status .. " " .. r.amount_paise
    end
    local key = "late-" .. proof.razorpay_payment_id
    assert.same({ ["by hand"] = "processed 10000", [key] = "failed 34900", [key .. "-rest"] = "processed 24900" },
      found)
    assert.equal(2, #refunds_of(proof.razorpay_payment_id))
    assert.truthy(shop.events(s, order):find("refund.fail", 1, true))
    assert.truthy(s:logged "a refund was refused: part of the money had gone back elsewhere")
  end)

  it("gives up a refund that Razorpay goes on refusing, where somebody sees it and can ask again", function()
    local order = place()
    local proof = pay(open(order).json)
    assert.equal("paid", verify(proof).json.payment_status)
    local id = proof.razorpay_payment_id
    local function ended(state)
      return #s:sql("SELECT 1 FROM jobs WHERE kind = 'refund.send' AND args->>'payment_id' = '" .. id
        .. "' AND state = '" .. state .. "'")
    end
    local function refund()
      return s:sql("SELECT status FROM refunds WHERE idem_key = 'late-" .. id .. "'")[1].status
    end
    local function needs_attention()
      local found = s:get("/api/admin/orders?attention=true&limit=100", { headers = ADMIN })
      return found.body:find(order.number, 1, true) ~= nil
    end
    local function send()
      shop.enqueue(s, "refund.send", ('{"payment_id":"%s","amount_paise":%d,"order_number":"%s"}'):format(id,
        order.total_paise, order.number))
    end
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/refund", times = 1000, how = "400" } } })
    send()
    server.eventually("refused", function() return ended "discarded" == 1 end)
    assert.same({ "requested", false }, { refund(), needs_attention() })   -- it will be asked again
    s:exec("UPDATE refunds SET created_at = now() - interval '2 hours' WHERE idem_key = 'late-" .. id .. "'")
    assert.is_true(needs_attention())
    s:exec("UPDATE refunds SET created_at = now() - interval '4 days', check_at = now() WHERE idem_key = 'late-" .. id
      .. "'")
    run("refund.reconcile")
    server.eventually("refused for good", function() return ended "discarded" == 2 end)
    assert.same({ "failed", true }, { refund(), needs_attention() })
    assert.truthy(shop.events(s, order):find("refund.fail", 1, true))
    assert.truthy(s:logged "a refund is refused: give the money back by hand")
    send()   -- it is decided: Razorpay is not asked any more
    server.eventually("done", function() return ended "completed" == 1 end)
    fail_payments(0)
    assert.equal(202, s:post("/api/admin/orders/" .. order.number .. "/refunds", { json = { amount_paise = 100 },
      headers = { Authorization = ADMIN.Authorization, ["Idempotency-Key"] = shop.key() } }).status)
    assert.is_false(needs_attention())
    becomes("confirmed/partially_refunded", order)
  end)
end)

describe("a shop whose Razorpay is slow, and opens what it is asked to", function()
  local sandbox, s
  setup(function()
    sandbox = razorpay.start(server, { key_secret = shop.KEY_SECRET })
    s = shop.start(server, {
      config = { workers = 1, payments = { confirm = "fetch" }, http = { deadline = "12s" },
        razorpay = { timeout = "20s", unique_receipt = false } },
      env = { RAZORPAY_URL = razorpay.url(sandbox), RAZORPAY_KEY_ID = "rzp_test_development" },
    })
  end)
  teardown(function()
    s:stop()
    sandbox:stop()
  end)

  local function place()
    local order = shop.place(s, { [MUG] = 1 })
    s:exec("UPDATE orders SET razorpay_order_id = NULL WHERE order_number = '" .. order.number .. "'")
    return order
  end
  local function opening(order)
    return { "POST", "/api/orders/" .. order.number .. "/payment",
      { json = {}, headers = { Authorization = "Order " .. order.access_token } } }
  end
  local function n_orders() return #sandbox:get("/sandbox/orders").json.items end

  it("gives all who open an order at once the same payment", function()
    local order, calls = place(), {}
    for i = 1, 6 do calls[i] = opening(order) end
    -- Whoever has its id from Razorpay waits to write it down, until all have one.
    local lock = s:hold("BEGIN; SELECT 1 FROM orders WHERE order_number = '" .. order.number .. "' FOR UPDATE")
    finally(function() lock:close() end)
    lock:write([[DO $$ BEGIN WHILE (SELECT count(*) FROM pg_locks WHERE NOT granted) < 6 LOOP PERFORM pg_sleep(0.01);
      END LOOP; END $$; COMMIT;]], "\n")
    lock:flush()
    local ids = {}
    for _, answer in ipairs(s:parallel(calls)) do
      assert.equal(200, answer.status, answer.body)
      ids[answer.json.razorpay_order_id] = true
    end
    local stored = s:sql("SELECT razorpay_order_id AS id FROM orders WHERE order_number = '" .. order.number .. "'")
    assert.same({ [stored[1].id] = true }, ids)
  end)

  it("finds the order it opened and forgot by its receipt", function()
    local order = place()
    local call = opening(order)
    assert.equal(200, s:request(unpack(call)).status)
    local before = n_orders()
    s:exec("UPDATE orders SET razorpay_order_id = NULL WHERE order_number = '" .. order.number .. "'")
    assert.equal(200, s:request(unpack(call)).status)
    assert.equal(before, n_orders())
  end)

  -- Without a limit of its own a call takes longer than a job may: 4 times 20 s.
  it("ends its run over orders that stayed authorized", function()
    local order = place()
    assert.equal(200, s:request(unpack(opening(order))).status)
    s:exec("UPDATE orders SET payment_status = 'authorized', expires_at = now() - interval '6 days',"
      .. " updated_at = now() - interval '6 days' WHERE order_number = '" .. order.number .. "'")
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/payments", times = 1000, how = "hang" } } })
    local id = shop.enqueue(s, "order.expire")
    server.eventually("the run to end", function()
      return #s:sql("SELECT 1 FROM jobs WHERE id = " .. id .. " AND state = 'completed'") == 1
    end, 50)
    assert.equal("pending/authorized", shop.state(s, order))
    assert.truthy(s:logged "an order cannot be expired")
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/payments", times = 0, how = "hang" } } })
  end)

  it("says authorized, and does not wait for it until nobody waits any more", function()
    local order = place()
    local opened = s:request(unpack(opening(order))).json
    local proof = sandbox:post("/sandbox/pay",
      { json = { order_id = opened.razorpay_order_id, outcome = "authorized" } }).json
    sandbox:post("/sandbox/behave", { json = { fail = { path = "/payments", times = 1000, how = "hang" } } })
    local answer = s:post("/api/payments/verify", { json = proof, timeout = 60 })
    assert.same({ 200, "authorized" }, { answer.status, answer.json.payment_status })
  end)
end)
