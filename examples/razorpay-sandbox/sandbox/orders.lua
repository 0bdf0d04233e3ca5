--- /v1/orders.
local app = require "chowk.app"
local json = require "chowk.json"
local answers = require "sandbox.answers"
local world = require "sandbox.world"

local guarded, refusal = answers.guarded, answers.refusal
local routes = app.routes()

local FIELDS = { amount = true, currency = true, receipt = true, notes = true, partial_payment = true, payment = true,
  unique_receipt = true, first_payment_min_amount = true, customer_id = true, method = true, offer_id = true,
  payment_capture = true }

local function check(body)
  if body.amount == nil then return "amount: is required.", "amount" end
  if type(body.amount) ~= "number" or body.amount % 1 ~= 0 then return "The amount must be an integer.", "amount" end
  if body.amount < 100 then return "The amount must be at least INR 1.00", "amount" end
  if body.currency ~= "INR" then return "The currency is not supported.", "currency" end
  if body.receipt and #tostring(body.receipt) > 40 then
    return "The receipt may not be greater than 40 characters.", "receipt"
  end
end

routes:post("/orders", guarded(function(req)
  local body, problem, field = answers.body(req, FIELDS)
  if body then problem, field = check(body) end
  if problem then return refusal(400, problem, field) end
  local earlier = body.receipt and world.get().by_receipt[body.receipt]
  if earlier and body.unique_receipt then return earlier end
  if earlier and world.get().behaviour.unique_receipts then
    return refusal(400, "Order receipt should be unique.", "receipt")
  end
  local order = world.put("orders", {
    id = world.id "order", entity = "order", amount = body.amount, amount_paid = 0, amount_due = body.amount,
    currency = body.currency, receipt = body.receipt or json.null, offer_id = json.null, status = "created",
    attempts = 0, notes = answers.notes(body.notes), created_at = world.now(),
  })
  if body.receipt then world.get().by_receipt[body.receipt] = order end
  return order
end))

local function payments_of(order)
  return world.find("payments", function(p) return p.order_id == order.id end)
end

local function is_authorized(order)
  for _, p in ipairs(payments_of(order)) do
    if p.status == "authorized" or p.status == "captured" or p.status == "refunded" then return true end
  end
  return false
end

local function with_payments(order)
  local copy, payments = {}, payments_of(order)
  for k, v in pairs(order) do copy[k] = v end
  copy.payments = { entity = "collection", count = #payments, items = json.array(payments) }
  return copy
end

routes:get("/orders", guarded(function(req)
  local receipt, authorized = req.query.receipt, req.query.authorized
  local status, answer = answers.collection(req, "orders", function(order)
    return (not receipt or order.receipt == receipt) and (not authorized or is_authorized(order) == (authorized == "1"))
  end)
  if type(status) == "number" then return status, answer end
  if answers.expands(req, "payments") then
    for i, order in ipairs(status.items) do status.items[i] = with_payments(order) end
  end
  return status
end))

routes:get("/orders/:id", guarded(function(req)
  local order = world.get().orders[req.params.id]
  if not order then return answers.missing() end
  return answers.expands(req, "payments") and with_payments(order) or order
end))
routes:patch("/orders/:id", answers.patch "orders")

routes:get("/orders/:id/payments", guarded(function(req)
  local order = world.get().orders[req.params.id]
  if not order then return answers.missing() end
  local payments = payments_of(order)
  return { entity = "collection", count = #payments, items = json.array(payments) }
end))

return routes
