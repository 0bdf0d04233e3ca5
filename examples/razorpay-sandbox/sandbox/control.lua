--- /sandbox: the customer in Checkout, and the weather.
local app = require "chowk.app"
local json = require "chowk.json"
local t = require "chowk.schema"
local checkout = require "sandbox.checkout"
local webhooks = require "sandbox.webhooks"
local world = require "sandbox.world"

local routes = app.routes()

routes:post("/pay", {
  summary = "Pay an order, as a customer would in Checkout",
  body = t.object {
    order_id = t.string {},
    outcome = t.optional(t.enum { "captured", "authorized", "failed", "late" }),
    method = t.optional(t.enum { "card", "upi", "netbanking", "wallet" }),
  },
}, function(req)
  local body = req:json()
  local paid, why = checkout.pay(body.order_id, body.outcome or "captured", body.method or "upi")
  return paid or app.fail(422, "cannot_pay", why)
end)

routes:post("/payments/:id/late", {
  summary = "The bank says yes after all, and the money is captured", params = { id = t.string {} },
}, function(req)
  local payment, why = checkout.late(req.params.id)
  return payment or app.fail(422, "not_possible", why)
end)

routes:post("/payments/:id/expire", {
  summary = "Nobody has captured it in time: the money goes back", params = { id = t.string {} },
}, function(req)
  local payment, why = checkout.expire(req.params.id)
  return payment or app.fail(422, "not_possible", why)
end)

routes:post("/refunds/:id", {
  summary = "How a pending refund ends", params = { id = t.string {} },
  body = t.object { status = t.enum { "processed", "failed" } },
}, function(req)
  local refund, why = checkout.settle_refund(req.params.id, req:json().status)
  return refund or app.fail(422, "not_possible", why)
end)

routes:post("/behave", {
  summary = "How webhooks and the API behave from now on",
  body = t.object {
    duplicates = t.optional(t.integer { min = 1, max = 100 }),
    delay_ms = t.optional(t.integer { min = 0, max = 60000 }),
    shuffle = t.optional(t.boolean()),
    drop = t.optional(t.boolean()),
    sign_with = t.optional(t.string {}),
    refunds = t.optional(t.enum { "processed", "pending", "failed" }),
    refund_ms = t.optional(t.integer { min = 0, max = 60000 }),
    unique_receipts = t.optional(t.boolean()),
    fail = t.optional(t.object {
      path = t.string {}, method = t.optional(t.enum { "GET", "POST" }), times = t.integer { min = 0 },
      how = t.enum { "400", "429", "500", "hang", "lost" },
    }),
  },
}, function(req)
  local body = req:json()
  body.duplicates, body.delay_ms = body.duplicates or 1, body.delay_ms or 0
  world.get().behaviour = body
  return body
end)

routes:get("/behave", { summary = "… and what is left of the faults that were asked for" }, function()
  return world.get().behaviour
end)

routes:post("/redeliver", { summary = "Send every webhook again" }, function()
  return { sent = webhooks.redeliver() }
end)

routes:get("/deliveries", { summary = "What was sent, and what came back" }, function()
  return { items = json.array(world.get().deliveries) }
end)

for _, kind in ipairs { "orders", "payments", "refunds" } do
  routes:get("/" .. kind, { summary = "All " .. kind .. ", newest first" }, function()
    return { items = json.array(world.find(kind, function() return true end)) }
  end)
end


routes:post("/reset", { summary = "Forget everything" }, function()
  world.reset()
  return app.empty
end)

return routes
