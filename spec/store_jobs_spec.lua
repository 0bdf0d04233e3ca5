-- What the shop does by the clock: unpaid orders give back what they hold, old keys go.
local server = require "spec.support.server"
local shop = require "spec.support.shop"

local BOTTLE = "WBPLAIN-500"

describe("an unpaid order", function()
  local s
  setup(function() s = shop.start(server) end)
  teardown(function() s:stop() end)

  local function run(kind) shop.run(s, kind) end
  local function place(coupon)
    s:exec("UPDATE inventory SET on_hand = 9, reserved = 0 WHERE sku = '" .. BOTTLE .. "'")
    return shop.place(s, { [BOTTLE] = 4 }, { coupon = coupon })
  end
  local function change(order, what)
    s:exec("UPDATE orders SET " .. what .. " WHERE order_number = '" .. order.number .. "'")
  end
  local function reserved() return s:sql("SELECT reserved AS n FROM inventory WHERE sku = '" .. BOTTLE .. "'")[1].n end
  local function used(code) return s:sql("SELECT used AS n FROM coupons WHERE code = '" .. code .. "'")[1].n end
  local function pay(order)
    shop.webhook(s, shop.payment_event("payment.captured", order, shop.payment_id()))
  end

  it("gives back its stock and its coupon when its time is over", function()
    local order = place "FLAT100"
    assert.same({ 4, 1 }, { reserved(), used "FLAT100" })
    local other = shop.place(s, { [BOTTLE] = 1 })
    run "order.expire"
    assert.equal("pending/unpaid", shop.state(s, order))   -- its time is not over
    change(order, "expires_at = now() - interval '1 second'")
    run "order.expire"
    assert.equal("expired/unpaid", shop.state(s, order))
    assert.equal("pending/unpaid", shop.state(s, other))
    assert.same({ 1, 0 }, { reserved(), used "FLAT100" })
    assert.equal("order.place order.expire", shop.events(s, order))
    run "order.expire"                                     -- again changes nothing
    assert.same({ 1, 0 }, { reserved(), used "FLAT100" })
    pay(order)                                             -- and comes back when it is paid all the same
    server.eventually("sold after all", function() return shop.state(s, order) == "confirmed/paid" end)
    assert.same({ 5, 1 }, { reserved(), used "FLAT100" })
  end)

  it("keeps them while its payment may still come", function()
    local failed, authorized, paid = place(), place(), place()
    for _, order in ipairs { failed, authorized, paid } do change(order, "expires_at = now() - interval '1 minute'") end
    change(failed, "payment_status = 'failed'")
    change(authorized, "payment_status = 'authorized'")
    pay(paid)
    server.eventually("paid", function() return shop.state(s, paid) == "confirmed/paid" end)
    run "order.expire"
    assert.same({ "pending/failed", "pending/authorized", "confirmed/paid" },
      { shop.state(s, failed), shop.state(s, authorized), shop.state(s, paid) })
    change(failed, "updated_at = now() - interval '21 minutes'")
    run "order.expire"
    assert.equal("expired/failed", shop.state(s, failed))
  end)

  it("is given up when its authorized payment was never captured", function()
    local order = place()
    change(order, "payment_status = 'authorized', expires_at = now() - interval '6 days'")
    run "order.expire"
    assert.equal("pending/authorized", shop.state(s, order))
    change(order, "updated_at = now() - interval '6 days'")
    run "order.expire"
    assert.equal("expired/failed", shop.state(s, order))
    assert.equal("order.place payment.lapse order.expire", shop.events(s, order))
    assert.equal(0, reserved())
  end)

  it("that cannot be expired holds up no other", function()
    local stuck, order = place(), shop.place(s, { [BOTTLE] = 1 })
    change(stuck, "expires_at = now() - interval '2 minutes'")
    change(order, "expires_at = now() - interval '1 minute'")
    s:exec(([[CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''stuck''; END';
      CREATE TRIGGER refuse BEFORE UPDATE ON orders FOR EACH ROW WHEN (OLD.order_number = '%s')
      EXECUTE FUNCTION refuse()]])
      :format(stuck.number))
    run "order.expire"
    assert.equal("expired/unpaid", shop.state(s, order))
    assert.equal("pending/unpaid", shop.state(s, stuck))
    assert.truthy(s:logged("an order cannot be expired"))
    s:exec "DROP TRIGGER refuse ON orders"
    run "order.expire"
    assert.equal("expired/unpaid", shop.state(s, stuck))
  end)

  it("is left alone by who cannot lock it", function()
    local order = place()
    change(order, "expires_at = now() - interval '1 minute'")
    local lock = s:hold("BEGIN; SELECT 1 FROM orders WHERE order_number = '" .. order.number .. "' FOR UPDATE")
    run "order.expire"
    assert.equal("pending/unpaid", shop.state(s, order))
    lock:close()
    run "order.expire"
    assert.equal("expired/unpaid", shop.state(s, order))
  end)

  it("and others leave keys behind, which go when they have expired", function()
    place()
    assert.truthy(#s:sql("SELECT 1 FROM idempotency_keys") > 0)
    run "idempotency.reap"
    local before = #s:sql("SELECT 1 FROM idempotency_keys")
    assert.truthy(before > 0)
    s:exec("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
    s:exec("UPDATE idempotency_keys SET locked_until = now() + interval '1 hour' WHERE ctid IN"
      .. " (SELECT ctid FROM idempotency_keys LIMIT 1)")   -- somebody is at this one
    run "idempotency.reap"
    assert.equal(1, #s:sql("SELECT 1 FROM idempotency_keys"))
  end)

  it("and webhooks leave their bytes behind, which go a month after they were applied", function()
    local function add(id, received, processed)
      s:exec(("INSERT INTO webhook_events (event_id, event, payload, raw, received_at, processed_at, next_attempt_at)"
        .. " VALUES ('%s', 'spec', '{}', '{}', now() - interval '%s', now() - interval '%s', 'infinity')")
        :format(id, received, processed))
    end
    add("EvtOld", "40 days", "31 days")
    add("EvtRecent", "29 days", "29 days")
    add("EvtReplayed", "40 days", "1 day")
    add("EvtParked", "400 days", "0 days")
    s:exec("UPDATE webhook_events SET processed_at = NULL WHERE event_id = 'EvtParked'")
    run "webhook.reap"
    assert.same({ { id = "EvtParked" }, { id = "EvtRecent" }, { id = "EvtReplayed" } },
      s:sql("SELECT event_id AS id FROM webhook_events WHERE event = 'spec' ORDER BY 1"))
  end)
end)
