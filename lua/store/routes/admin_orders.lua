--- What the shop's people do with orders: look at them, make them ready, ship, deliver, take back, cancel, refund.
-- Moves are compare-and-set: of two at once, one gets 409, with what is and what was wanted.
local app = require "chowk.app"
local pg = require "chowk.pg"
local t = require "chowk.schema"
local admin_token = require "store.admin_token"
local cancel = require "store.workflows.cancel"
local fulfil = require "store.workflows.fulfil"
local moving = require "store.routes.moving"
local orders = require "store.orders"
local refund_request = require "store.workflows.refund_request"

local routes = app.routes()

local ACTOR = "admin"
local NUMBER = { number = t.string { max = 16, pattern = "^[%w/-]+$" } }
local text = t.string { min = 1, max = 100, pattern = "^%C+$" }
local STATES = { "pending", "confirmed", "processing", "shipped", "delivered", "returned", "cancelled", "expired" }

local function not_found() app.fail(404, "order_not_found", "There is no such order.") end

routes:get("/api/admin/orders", {
  summary = "All orders, the newest first, page by page; attention=true: those whose money should have gone back",
  limit = "admin", auth = admin_token.check,
  query = {
    status = t.optional(t.enum(STATES)),
    attention = t.optional(t.boolean()),
    cursor = t.optional(t.string { max = 256 }),
    limit = t.integer { min = 1, max = 100, default = 20 },
  },
}, function(req) return orders.all(req.query) end)

routes:get("/api/admin/orders/:number", {
  summary = "An order with its events", limit = "admin", auth = admin_token.check, params = NUMBER,
}, function(req) return orders.find_any(req.params.number) or not_found() end)

-- One POST per move; `fn(tx, order, body)` moves the locked order.
local function move(name, summary, body, fn)
  routes:post("/api/admin/orders/:number/" .. name, {
    summary = summary, limit = "admin", auth = admin_token.check, params = NUMBER, body = body,
  }, moving(function(req)
    local number = req.params.number
    local given = body and req:json()
    pg.tx(function(tx) fn(tx, orders.lock(tx, number) or not_found(), given) end)
    return orders.state(number)
  end))
end

move("process", "Make an order ready", nil, function(tx, order) fulfil.process(tx, order, ACTOR) end)

move("ship", "Hand an order to its carrier; issues the invoice",
  t.object { carrier = text, tracking_number = t.optional(text) },
  function(tx, order, body) fulfil.ship(tx, order, ACTOR, body) end)

move("deliver", "An order has arrived", nil, function(tx, order) fulfil.deliver(tx, order, ACTOR) end)

move("return", "An order has come back; restock says whether its goods can be sold again",
  t.object { restock = t.boolean() },
  function(tx, order, body) fulfil.take_back(tx, order, ACTOR, body.restock) end)

move("cancel", "Cancel an order that has not been shipped; paid money goes back",
  t.object { reason = t.optional(text) },
  function(tx, order, body) cancel.cancel(tx, order, { actor = ACTOR, reason = body.reason, may_stop = true }) end)

routes:post("/api/admin/orders/:number/refunds", {
  summary = "Give money back, whole or in part; by_hand: it was, outside Razorpay (Idempotency-Key required)",
  limit = "admin", auth = admin_token.check, params = NUMBER, idempotent = true,
  body = t.object {
    amount_paise = t.optional(t.paise { min = 1 }),
    payment_id = t.optional(t.string { max = 64, pattern = "^[%w_]+$" }),
    reason = t.optional(text),
    by_hand = t.optional(t.object { reference = text }),   -- by which the bank's or the cash book finds it
  },
}, function(req, tx)
  local order = orders.lock(tx, req.params.number) or not_found()
  local body = req:json()
  local request = { amount_paise = body.amount_paise, payment_id = body.payment_id, actor = ACTOR,
    reason = body.reason or "by the shop", reference = body.by_hand and body.by_hand.reference }
  if body.by_hand then return 201, refund_request.by_hand(tx, order, request) end
  return 202, refund_request.request(tx, order, request)
end)

return routes
