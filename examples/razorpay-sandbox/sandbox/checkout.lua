--- What happens to payments: by the customer in Checkout, by the bank, by refunds; each with its webhooks.
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local settings = require "chowk.config".settings
local webhooks = require "sandbox.webhooks"
local world = require "sandbox.world"

local M = {}

local function new_payment(order, method)
  return world.put("payments", {
    id = world.id "pay", entity = "payment", amount = order.amount, currency = order.currency, status = "created",
    order_id = order.id, invoice_id = json.null, international = false, method = method, amount_refunded = 0,
    refund_status = json.null, captured = false, description = json.null, card_id = json.null, bank = json.null,
    wallet = json.null, vpa = method == "upi" and "success@razorpay" or json.null, email = "buyer@example.in",
    contact = "+919876543210", notes = json.array {}, fee = json.null, tax = json.null, error_code = json.null,
    error_description = json.null, error_source = json.null, error_step = json.null, error_reason = json.null,
    acquirer_data = { rrn = tostring(100000000000 + #world.get().payments) }, created_at = world.now(),
  })
end

local function order_of(payment) return world.get().orders[payment.order_id] end

local function fail(payment)
  payment.status = "failed"
  payment.error_code, payment.error_description = "BAD_REQUEST_ERROR", "Payment failed"
  payment.error_source, payment.error_step, payment.error_reason = "bank", "payment_authorization", "payment_failed"
  webhooks.emit("payment.failed", { payment = payment })
end

local function authorize(payment)
  payment.status = "authorized"
  payment.error_code, payment.error_description, payment.error_source = json.null, json.null, json.null
  payment.error_step, payment.error_reason = json.null, json.null
  webhooks.emit("payment.authorized", { payment = payment })
end

--- Captures an authorised payment: its order is paid. A second one for a paid order is refunded by itself.
function M.capture(payment)
  local order = order_of(payment)
  payment.status, payment.captured = "captured", true
  payment.fee, payment.tax = math.floor(payment.amount * 236 / 10000), math.floor(payment.amount * 36 / 10000)
  webhooks.emit("payment.captured", { payment = payment })
  if order.status == "paid" then
    M.refund(payment, payment.amount, {})
    return
  end
  order.status, order.amount_paid, order.amount_due = "paid", order.amount, 0
  webhooks.emit("order.paid", { payment = payment, order = order })
end

-- What became of a refund. One that failed has given nothing back.
local function conclude(refund, payment, status)
  refund.status = status
  if status == "failed" then
    payment.amount_refunded = payment.amount_refunded - refund.amount
    payment.refund_status = payment.amount_refunded > 0 and "partial" or json.null
    payment.status = "captured"
  end
  webhooks.emit("refund." .. status, { refund = refund, payment = payment })
end

--- Refunds part of a captured payment: at once, or as the day's behaviour says.
-- @return the refund
function M.refund(payment, amount, options)
  local refund = world.put("refunds", {
    id = world.id "rfnd", entity = "refund", amount = amount, currency = payment.currency, payment_id = payment.id,
    notes = options.notes and next(options.notes) and options.notes or json.array {}, batch_id = json.null,
    receipt = options.receipt or json.null, acquirer_data = { arn = json.null }, created_at = world.now(),
    status = "pending", speed_processed = "normal", speed_requested = options.speed or "normal",
  })
  payment.amount_refunded = payment.amount_refunded + amount
  local is_whole = payment.amount_refunded == payment.amount
  payment.refund_status = is_whole and "full" or "partial"
  if is_whole then payment.status = "refunded" end
  webhooks.emit("refund.created", { refund = refund, payment = payment })
  local outcome = world.get().behaviour.refunds or "processed"
  if outcome ~= "pending" then conclude(refund, payment, outcome) end
  return refund
end

--- Ends a pending refund. @param status string  processed, failed  @return the refund; nil, reason
function M.settle_refund(id, status)
  local refund = world.get().refunds[id]
  if not refund then return nil, "there is no refund " .. id end
  if refund.status ~= "pending" then return nil, "the refund is " .. refund.status .. " already" end
  conclude(refund, world.get().payments[refund.payment_id], status)
  return refund
end

local OUTCOMES = {
  captured = function(payment) authorize(payment) M.capture(payment) end,
  authorized = authorize,
  failed = fail,
  late = function(payment) fail(payment) authorize(payment) M.capture(payment) end,
}

local function is_under_way(order)
  return #world.find("payments", function(p) return p.order_id == order.id and p.status == "authorized" end) > 0
end

--- The customer pays in Checkout.
-- @param outcome string  captured, authorized, failed, late
-- @return what Checkout hands to the shop's page; nil, reason
function M.pay(order_id, outcome, method)
  local order, run = world.get().orders[order_id], OUTCOMES[outcome]
  if not order then return nil, "there is no order " .. tostring(order_id) end
  if not run then return nil, "outcome is captured, authorized, failed or late" end
  if order.status == "paid" then return nil, "the order has been paid already" end
  if is_under_way(order) then return nil, "a payment of this order is authorized: no second one can start" end
  order.attempts = order.attempts + 1
  if order.status == "created" then order.status = "attempted" end
  local payment = new_payment(order, method)
  run(payment)
  return {
    razorpay_order_id = order.id,
    razorpay_payment_id = payment.id,
    razorpay_signature = crypto.hex(crypto.hmac_sha256(settings.key_secret, order.id .. "|" .. payment.id)),
  }
end

--- The bank's late yes to a payment that had failed, or the capture of one that is authorised.
-- @return the payment; nil, reason
function M.late(payment_id)
  local payment = world.get().payments[payment_id]
  if not payment then return nil, "there is no payment " .. payment_id end
  if payment.status == "failed" then authorize(payment) end
  if payment.status ~= "authorized" then return nil, "the payment is " .. payment.status end
  M.capture(payment)
  return payment
end

--- An authorised payment that nobody captured in time goes back to the customer. @return the payment; nil, reason
function M.expire(payment_id)
  local payment = world.get().payments[payment_id]
  if not payment then return nil, "there is no payment " .. payment_id end
  if payment.status ~= "authorized" then return nil, "the payment is " .. payment.status end
  M.refund(payment, payment.amount, {})
  return payment
end

return M
