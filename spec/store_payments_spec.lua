-- Paying: the customer's signature, webhooks in any order and number, refunds, money that comes too late.
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local MUG = "MGCHAI-11OZ"

describe("a payment", function()
  local s
  setup(function() s = shop.start(server, { config = { workers = 2 } }) end)
  teardown(function() s:stop() end)

  local function place() return shop.place(s, { [MUG] = 1 }) end
  local function verify(proof) return s:post("/api/payments/verify", { json = proof }) end
  local function hook(name, order, payment_id, more, event_id)
    local answer = shop.webhook(s, shop.payment_event(name, order, payment_id, more), event_id)
    assert.equal(200, answer.status, answer.body)
    return answer
  end
  local function becomes(state, order)
    server.eventually("order is " .. state, function() return shop.state(s, order) == state end)
  end
  local function settled()
    server.eventually("every webhook applied or parked", function()
      return #s:sql("SELECT 1 FROM webhook_events WHERE processed_at IS NULL AND next_attempt_at <> 'infinity'") == 0
    end)
  end
  local function payments(order)
    return s:sql("SELECT p.* FROM payments p JOIN orders o ON o.id = p.order_id WHERE o.order_number = '"
      .. order.number .. "' ORDER BY p.id")
  end

  describe("proved by the customer", function()
    it("makes the order paid, once", function()
      local order, payment_id = place(), shop.payment_id()
      local proof = shop.proof(order, payment_id)
      local first = verify(proof)
      assert.equal(200, first.status)
      assert.same({ number = order.number, status = "confirmed", payment_status = "paid" }, first.json)
      assert.same(first.json, verify(proof).json)
      assert.equal("order.place payment.capture order.confirm", shop.events(s, order))
      assert.same({ payment_id, "captured", 34900 }, (function()
        local p = payments(order)[1]
        return { p.razorpay_payment_id, p.status, p.amount_paise }
      end)())
      assert.equal(1, #payments(order))
    end)

    it("is refused when forged", function()
      local order, other, payment_id = place(), place(), shop.payment_id()
      local forged = {
        shop.proof(order, payment_id, "another secret"),
        shop.proof(order, shop.payment_id()),   -- of another payment
        shop.proof(other, payment_id),          -- of another order
        shop.proof(order, payment_id),
        shop.proof(order, payment_id),
      }
      forged[2].razorpay_payment_id = payment_id
      forged[3].razorpay_order_id = order.razorpay_order_id
      forged[4].razorpay_signature = forged[4].razorpay_signature:sub(1, 63)
      forged[5].razorpay_signature = ("g"):rep(64)
      for i, proof in ipairs(forged) do assert.equal(400, verify(proof).status, "forgery " .. i) end
      assert.equal("pending/unpaid", shop.state(s, order))
      assert.equal(0, #payments(order))
    end)

    it("is 404 for no order, 422 for no proof, 409 for another order's payment", function()
      local order, other, payment_id = place(), place(), shop.payment_id()
      assert.equal(404, verify(shop.proof({ razorpay_order_id = "order_NoSuchOrder000" }, payment_id)).status)
      assert.equal(422, verify({ razorpay_order_id = order.razorpay_order_id }).status)
      assert.equal(200, verify(shop.proof(order, payment_id)).status)
      assert.equal(409, verify(shop.proof(other, payment_id)).status)
      assert.equal("pending/unpaid", shop.state(s, other))
    end)

    it("is recorded but moves nothing when the order is paid already", function()
      local order = place()
      verify(shop.proof(order, shop.payment_id()))
      local second = verify(shop.proof(order, shop.payment_id()))
      assert.same({ 200, "paid" }, { second.status, second.json.payment_status })
      assert.equal(2, #payments(order))
      assert.equal("order.place payment.capture order.confirm payment.ignore", shop.events(s, order))
    end)
  end)

  describe("reported by a webhook", function()
    it("makes the order paid and keeps what was signed", function()
      local order, payment_id = place(), shop.payment_id()
      local body = shop.payment_event("payment.captured", order, payment_id)
      assert.equal(200, shop.webhook(s, body, "EvtKept").status)
      becomes("confirmed/paid", order)
      local stored = s:sql("SELECT convert_from(raw, 'UTF8') AS raw, event, account_id, processed_at"
        .. " FROM webhook_events WHERE event_id = 'EvtKept'")[1]
      assert.same({ body, "payment.captured", "acc_Spec" }, { stored.raw, stored.event, stored.account_id })
      assert.is_string(stored.processed_at)
      assert.same({ "upi", 14 }, { payments(order)[1].method, payments(order)[1].fee_paise })
    end)

    it("is applied once, whatever its events are called", function()
      local order, payment_id = place(), shop.payment_id()
      hook("payment.authorized", order, payment_id)
      becomes("pending/authorized", order)
      hook("payment.captured", order, payment_id)
      hook("order.paid", order, payment_id)
      hook("payment.captured", order, payment_id, { fee = 15 })
      becomes("confirmed/paid", order)
      settled()
      assert.equal(1, #payments(order))
      assert.equal("order.place payment.authorize payment.capture order.confirm", shop.events(s, order))
    end)

    it("is refused when forged, and nothing is stored", function()
      local order = place()
      local body = shop.payment_event("payment.captured", order, shop.payment_id())
      local signature = shop.hmac(shop.WEBHOOK_SECRET, body)
      local forged = {
        { body, shop.hmac("guess", body) },
        { body, shop.hmac(shop.KEY_SECRET, body) },   -- the other secret
        { body .. "\n", signature },
        { body:gsub(", ", ","), signature },          -- re-spaced, as a careless proxy would
        { body, "" },
        { body, signature:upper() .. "00" },
      }
      for i, f in ipairs(forged) do
        assert.equal(400, shop.webhook(s, f[1], "EvtForged" .. i, f[2]).status, "forgery " .. i)
      end
      local unsigned = s:post("/api/webhooks/razorpay",
        { body = body, headers = { ["X-Razorpay-Event-Id"] = "EvtForged0" } })
      assert.equal(400, unsigned.status)
      assert.equal(0, #s:sql("SELECT 1 FROM webhook_events WHERE event_id LIKE 'EvtForged%'"))
      assert.equal("pending/unpaid", shop.state(s, order))
    end)

    it("may still be signed with the secret before", function()
      local order = place()
      local body = shop.payment_event("payment.captured", order, shop.payment_id())
      assert.equal(200, shop.webhook(s, body, nil, shop.hmac("old_webhook_secret", body)).status)
      becomes("confirmed/paid", order)
    end)

    it("is refused when signed but no event", function()
      for _, body in ipairs { "[]", "{}", "nonsense", '{"event":1}', '{"event":"a\\u0000b"}', '{"event":""}' } do
        assert.equal(400, shop.webhook(s, body).status, body)
      end
    end)

    it("is known by its content when it has no id", function()
      local order = place()
      local body = shop.payment_event("payment.captured", order, shop.payment_id())
      assert.equal("stored", shop.webhook(s, body, false).json.status)
      assert.equal("duplicate", shop.webhook(s, body, false).json.status)
      assert.equal(1, #s:sql("SELECT 1 FROM webhook_events WHERE event_id LIKE 'sha256:%'"))
      becomes("confirmed/paid", order)
    end)

    it("is not lost to another event that took its id", function()
      local order, other = place(), place()
      hook("payment.captured", other, shop.payment_id(), nil, "EvtTaken")
      hook("payment.captured", order, shop.payment_id(), nil, "EvtTaken")
      becomes("confirmed/paid", order)
      becomes("confirmed/paid", other)
    end)

    it("never unpays: failed and authorized after captured", function()
      local order, payment_id = place(), shop.payment_id()
      hook("payment.captured", order, payment_id)
      becomes("confirmed/paid", order)
      hook("payment.failed", order, payment_id)
      hook("payment.authorized", order, payment_id)
      hook("payment.failed", order, shop.payment_id())   -- an earlier try of the same order
      settled()
      assert.equal("confirmed/paid", shop.state(s, order))
      assert.equal("captured", payments(order)[1].status)
    end)

    it("pays after a failure", function()
      local order, payment_id = place(), shop.payment_id()
      hook("payment.failed", order, payment_id)
      becomes("pending/failed", order)
      hook("payment.captured", order, payment_id)
      becomes("confirmed/paid", order)
    end)

    it("is parked when the amount or the currency is wrong", function()
      local order = place()
      hook("payment.captured", order, shop.payment_id(), { amount = 100 }, "EvtAmount")
      hook("payment.captured", order, shop.payment_id(), { currency = "USD" }, "EvtCurrency")
      server.eventually("parked", function()
        return #s:sql("SELECT 1 FROM webhook_events WHERE event_id IN ('EvtAmount', 'EvtCurrency')"
          .. " AND next_attempt_at = 'infinity' AND last_error LIKE 'amount mismatch%'") == 2
      end)
      assert.equal("pending/unpaid", shop.state(s, order))
      assert.equal(0, #payments(order))
    end)

    it("waits for its order, and its job applies it later", function()
      local order = place()
      local later = { razorpay_order_id = "order_SpecNotYet00001", total_paise = order.total_paise,
                      number = order.number }
      hook("payment.captured", later, shop.payment_id(), nil, "EvtEarly")
      server.eventually("noted", function()
        return #s:sql("SELECT 1 FROM webhook_events WHERE event_id = 'EvtEarly'"
          .. " AND last_error LIKE 'unknown order%'") == 1
      end)
      s:exec("UPDATE orders SET razorpay_order_id = 'order_SpecNotYet00001' WHERE order_number = '"
        .. order.number .. "'")
      becomes("confirmed/paid", later)
    end)

    it("finds its order by the receipt, if it is for the same money", function()
      local order = shop.place_unopened(s, { [MUG] = 1 })
      local function paid(razorpay_order_id, amount, currency)
        order.razorpay_order_id = razorpay_order_id
        local opened = ('{"order":{"entity":{"id":"%s","amount":%d,"currency":"%s","receipt":"%s"}},"payment":'):format(
          razorpay_order_id, amount, currency, order.number)
        local body = shop.payment_event("order.paid", order, shop.payment_id()):gsub('{"payment":', opened)
        assert.equal(200, shop.webhook(s, body, "Evt" .. razorpay_order_id).status)
      end
      paid("order_SpecOther00001", order.total_paise - 1, "INR")
      paid("order_SpecOther00002", order.total_paise, "USD")
      server.eventually("neither applied", function()
        return #s:sql "SELECT 1 FROM webhook_events WHERE event_id LIKE 'Evtorder_SpecOther%' AND attempts > 0" == 2
      end)
      assert.equal("pending/unpaid", shop.state(s, order))
      s:exec "DELETE FROM webhook_events WHERE event_id LIKE 'Evtorder_SpecOther%'"
      paid("order_SpecOurs000001", order.total_paise, "INR")
      becomes("confirmed/paid", order)
    end)

    it("is found again when its job is gone", function()
      local order = place()
      local body = shop.payment_event("payment.captured", order, shop.payment_id())
      s:exec("INSERT INTO webhook_events (event_id, event, payload, raw, next_attempt_at) VALUES ('EvtLeft',"
        .. " 'payment.captured', '" .. body .. "', convert_to('" .. body .. "', 'UTF8'), now() - interval '1 hour')")
      shop.run(s, "webhook.sweep")
      becomes("confirmed/paid", order)
    end)

    it("has its job from the same commit", function()
      local order = place()
      s:exec([[CREATE FUNCTION refuse_job() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no room''; END';
        CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION refuse_job()]])
      local body = shop.payment_event("payment.captured", order, shop.payment_id())
      assert.equal(500, shop.webhook(s, body, "EvtNoJob").status)   -- Razorpay sends it again
      s:exec("DROP TRIGGER refuse ON jobs")
      assert.equal(0, #s:sql("SELECT 1 FROM webhook_events WHERE event_id = 'EvtNoJob'"))
      assert.equal("stored", shop.webhook(s, body, "EvtNoJob").json.status)
      becomes("confirmed/paid", order)
    end)

    it("is kept when its shape is wrong, and holds up no other", function()
      local order = place()
      local template = shop.payment_event("payment.captured", order, shop.payment_id())
      local wrong = {
        { '"amount":%d+', '"amount":null' }, { '"amount":%d+', '"amount":"34900"' }, { '"amount":%d+', '"amount":1.5' },
        { '"id":"[%w_]+"', '"id":7' }, { '"id":"[%w_]+"', '"id":"a\\u0000b"' }, { '"currency":"INR"', '"currency":{}' },
        { '"order_id":"[%w_]+"', '"order_id":{"a":1}' }, { '"entity":{.-null}', '"entity":5' },
        { '"payload":{.*}},', '"payload":[],' }, { '"payload":{.*}},', '"payload":null,' },
      }
      for i, change in ipairs(wrong) do
        local body, n = template:gsub(change[1], (change[2]:gsub("%%", "%%%%")), 1)
        assert.equal(1, n, change[1])
        local answer = shop.webhook(s, body, "EvtShape" .. i)
        assert.equal(200, answer.status, body .. "\n" .. answer.body)
      end
      server.eventually("each is done or parked", function()
        return #s:sql("SELECT 1 FROM webhook_events WHERE event_id LIKE 'EvtShape%'"
          .. " AND (processed_at IS NOT NULL OR next_attempt_at = 'infinity')") == #wrong
      end)
      assert.equal("pending/unpaid", shop.state(s, order))
      hook("payment.captured", order, shop.payment_id())
      becomes("confirmed/paid", order)
    end)

    it("is stored with an odd id, time, account or method", function()
      local order = place()
      local body = shop.payment_event("payment.captured", order, shop.payment_id())
        :gsub('"created_at":%d+', '"created_at":1e300'):gsub('"account_id":"acc_Spec"', '"account_id":{}')
        :gsub('"method":"upi"', '"method":{"a":"\\\\u0000\\u0000"}'):gsub('"fee":14', '"fee":"14"')
      assert.equal(200, shop.webhook(s, body, "\255\254").status)
      becomes("confirmed/paid", order)
    end)

    it("does not keep others waiting when it cannot be applied", function()
      local order, stuck = place(), place()
      s:exec([[CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF NEW.razorpay_payment_id = ''pay_SpecStuck'' THEN RAISE ''not today''; END IF; RETURN NEW; END';
        CREATE TRIGGER refuse BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION refuse()]])
      hook("payment.captured", stuck, "pay_SpecStuck", nil, "EvtStuck")
      server.eventually("tried again", function()
        return s:sql("SELECT attempts FROM webhook_events WHERE event_id = 'EvtStuck'")[1].attempts >= 2
      end)
      hook("payment.captured", order, shop.payment_id(), nil, "EvtBehind")
      becomes("confirmed/paid", order)
      s:exec("DROP TRIGGER refuse ON payments")
      becomes("confirmed/paid", stuck)
    end)

    it("is kept when nobody handles it", function()
      local body = '{"entity":"event","event":"settlement.processed","payload":{}}'
      assert.equal(200, shop.webhook(s, body, "EvtOther").status)
      server.eventually("done", function()
        return #s:sql("SELECT 1 FROM webhook_events WHERE event_id = 'EvtOther' AND processed_at IS NOT NULL") == 1
      end)
    end)
  end)

  it("is made once by 50 copies of a webhook and the customer, all at once", function()
    for _ = 1, 3 do
      local order, payment_id = place(), shop.payment_id()
      local captured = shop.payment_event("payment.captured", order, payment_id)
      local paid = shop.payment_event("order.paid", order, payment_id)
      local calls = {}
      for i = 1, 50 do calls[i] = shop.webhook_call(captured, "Evt" .. payment_id) end
      calls[51] = { "POST", "/api/payments/verify", { json = shop.proof(order, payment_id) } }
      calls[52] = shop.webhook_call(paid, "Paid" .. payment_id)
      for i, answer in ipairs(s:parallel(calls)) do assert.equal(200, answer.status, i .. ": " .. answer.body) end
      becomes("confirmed/paid", order)
      server.eventually("all applied", function()
        return #s:sql("SELECT 1 FROM webhook_events WHERE processed_at IS NULL AND event_id LIKE '%"
          .. payment_id .. "'") == 0
      end)
      assert.equal(1, #payments(order))
      assert.equal("order.place payment.capture order.confirm", shop.events(s, order))
    end
  end)

  describe("given back", function()
    local function refund(name, order, payment_id, id, amount)
      assert.equal(200, shop.webhook(s, shop.refund_event(name, order, payment_id, id, amount)).status)
    end

    it("in parts, then whole, each counted once", function()
      local order, payment_id = place(), shop.payment_id()
      hook("payment.captured", order, payment_id)
      refund("created", order, payment_id, "rfnd_SpecA00001", 10000)
      refund("processed", order, payment_id, "rfnd_SpecA00001", 10000)
      refund("processed", order, payment_id, "rfnd_SpecA00001", 10000)
      becomes("confirmed/partially_refunded", order)
      assert.equal(10000, s:sql("SELECT refunded_paise AS n FROM orders WHERE order_number = '"
        .. order.number .. "'")[1].n)
      refund("processed", order, payment_id, "rfnd_SpecA00002", 24900)
      becomes("confirmed/refunded", order)
      assert.equal("refunded", payments(order)[1].status)
      hook("payment.captured", order, payment_id, { fee = 16 })   -- a late copy of the capture
      settled()
      assert.equal("confirmed/refunded", shop.state(s, order))
    end)

    it("once, when it came twice: the order stays paid", function()
      local order, first, second = place(), shop.payment_id(), shop.payment_id()
      hook("payment.captured", order, first)
      becomes("confirmed/paid", order)
      hook("payment.captured", order, second)
      refund("processed", order, second, "rfnd_SpecC00001", 34900)   -- by Razorpay itself
      settled()
      assert.equal("confirmed/paid", shop.state(s, order))
      local kept = payments(order)
      assert.same({ first, "captured", second, "refunded" },
        { kept[1].razorpay_payment_id, kept[1].status, kept[2].razorpay_payment_id, kept[2].status })
      refund("processed", order, first, "rfnd_SpecC00002", 34900)
      becomes("confirmed/refunded", order)
      assert.equal(34900, s:sql("SELECT refunded_paise AS n FROM orders WHERE order_number = '"
        .. order.number .. "'")[1].n)
    end)

    -- Razorpay has captured the first and given the second back by itself, whatever is heard first.
    local function hear(order, of, after_one)
      local first, second = shop.payment_id(), shop.payment_id()
      for i, what in ipairs(of) do
        if what == "refund" then
          refund("processed", order, second, "rfnd_" .. second:sub(5), 34900)
        else
          hook("payment.captured", order, what == "first" and first or second)
        end
        settled()
        if i == 1 and after_one then after_one() end
      end
      return first
    end
    local function requested(payment_id)
      return s:sql("SELECT coalesce(sum(r.amount_paise), 0) AS n FROM refunds r JOIN payments p ON p.id = r.payment_id"
        .. " WHERE r.status = 'requested' AND p.razorpay_payment_id = '" .. payment_id .. "'")[1].n
    end
    local ARRIVALS = { { "first", "second", "refund" }, { "second", "refund", "first" },
      { "second", "first", "refund" } }

    for _, arrival in ipairs(ARRIVALS) do
      local name = table.concat(arrival, ", ")

      it("once, when it came twice, heard as " .. name .. ": the order is paid", function()
        local order = place()
        local first = hear(order, arrival)
        assert.equal("confirmed/paid", shop.state(s, order))
        assert.equal(0, s:sql("SELECT refunded_paise AS n FROM orders WHERE order_number = '"
          .. order.number .. "'")[1].n)
        assert.equal(0, requested(first))
      end)

      it("whole, when it came twice, heard as " .. name .. ", and the order was cancelled", function()
        local order = place()
        local first = hear(order, arrival, function()
          local answer = s:post("/api/orders/" .. order.number .. "/cancel",
            { headers = { Authorization = "Order " .. order.access_token } })
          assert.equal(200, answer.status, answer.body)
        end)
        assert.equal("cancelled/paid", shop.state(s, order))
        assert.equal(34900, requested(first))
      end)
    end

    it("or not: then somebody hears of it", function()
      local order, payment_id = place(), shop.payment_id()
      hook("payment.captured", order, payment_id)
      refund("created", order, payment_id, "rfnd_SpecD00001", 34900)
      refund("failed", order, payment_id, "rfnd_SpecD00001", 34900)
      refund("failed", order, payment_id, "rfnd_SpecD00001", 34900)
      settled()
      assert.equal("order.place payment.capture order.confirm refund.fail", shop.events(s, order))
      assert.equal("confirmed/paid", shop.state(s, order))
      assert.truthy(s:logged("a refund failed: give the money back by hand"))
    end)

    it("even when the refund overtakes the capture", function()
      local order, payment_id = place(), shop.payment_id()
      refund("processed", order, payment_id, "rfnd_SpecB00001", 34900)
      server.eventually("tried", function()
        return #s:sql("SELECT 1 FROM webhook_events WHERE last_error LIKE 'refund of a payment%'") > 0
      end)
      assert.equal("pending/unpaid", shop.state(s, order))
      hook("payment.captured", order, payment_id)
      becomes("confirmed/refunded", order)
    end)
  end)

  describe("for an order that had been given up", function()
    local BOTTLE = "WBPLAIN-500"
    local function given_up(on_hand)
      s:exec("UPDATE inventory SET on_hand = 9, reserved = 0 WHERE sku = '" .. BOTTLE .. "'")
      local order = shop.place(s, { [BOTTLE] = 2 })
      s:exec("UPDATE orders SET status = 'expired' WHERE order_number = '" .. order.number .. "'")
      s:exec("UPDATE inventory SET on_hand = " .. on_hand .. ", reserved = 0 WHERE sku = '" .. BOTTLE .. "'")
      return order
    end

    it("takes the stock again", function()
      local order = given_up(2)
      hook("payment.captured", order, shop.payment_id())
      becomes("confirmed/paid", order)
      assert.equal(2, s:sql("SELECT reserved FROM inventory WHERE sku = '" .. BOTTLE .. "'")[1].reserved)
    end)

    it("is to be refunded when the stock is gone", function()
      local order, payment_id = given_up(1), shop.payment_id()
      hook("payment.captured", order, payment_id)
      becomes("expired/paid", order)
      local job = s:sql("SELECT args FROM jobs WHERE kind = 'refund.send' AND unique_key = 'late-"
        .. payment_id .. "'")[1]
      assert.equal(order.total_paise, job.args.amount_paise)
    end)
  end)
end)

describe("a payment that Razorpay has to confirm", function()
  local s
  setup(function()
    s = shop.start(server, { config = { payments = { confirm = "fetch" } },
      env = { RAZORPAY_ACCOUNT_ID = "acc_Spec" } })
  end)
  teardown(function() s:stop() end)

  it("is only authorized by the customer's signature", function()
    local order, payment_id = shop.place(s, { [MUG] = 1 }), shop.payment_id()
    local answer = s:post("/api/payments/verify", { json = shop.proof(order, payment_id) })
    assert.same({ 200, "authorized", "pending" }, { answer.status, answer.json.payment_status, answer.json.status })
    shop.webhook(s, shop.payment_event("payment.captured", order, payment_id))
    server.eventually("paid", function() return shop.state(s, order) == "confirmed/paid" end)
  end)

  it("is not believed when it was made to another account", function()
    local order = shop.place(s, { [MUG] = 1 })
    local event = shop.payment_event("payment.captured", order, shop.payment_id(), { account = "acc_Other" })
    shop.webhook(s, event, "EvtOther")
    server.eventually("parked", function()
      return #s:sql("SELECT 1 FROM webhook_events WHERE event_id = 'EvtOther' AND next_attempt_at = 'infinity'"
        .. " AND last_error = 'another account: acc_Other'") == 1
    end)
    assert.equal("pending/unpaid", shop.state(s, order))
  end)
end)
