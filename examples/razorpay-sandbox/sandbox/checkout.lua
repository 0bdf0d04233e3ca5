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

--- Refunds part of a captured payment. @return the refund
function M.refund(payment, amount, options)
  local refund = world.put("refunds", {
    id = world.id "rfnd", entity = "refund", amount = amount, currency = payment.currency, payment_id = payment.id,
    notes = options.notes or json.array {}, receipt = options.receipt or json.null,
    acquirer_data = { arn = json.null }, created_at = world.now(), batch_id = json.null, status = "processed",
    speed_processed = "normal", speed_requested = options.speed or "normal",
  })
  payment.amount_refunded = payment.amount_refunded + amount
  local is_whole = payment.amount_refunded == payment.amount
  payment.refund_status = is_whole and "full" or "partial"
  if is_whole then payment.status = "refunded" end
  webhooks.emit("refund.created", { refund = refund, payment = payment })
  webhooks.emit("refund.processed", { refund = refund, payment = payment })
  return refund
end

local OUTCOMES = {
  captured = function(payment) authorize(payment) M.capture(payment) end,
  authorized = authorize,
  failed = fail,
  late = function(payment) fail(payment) authorize(payment) M.capture(payment) end,
}

--- The customer pays in Checkout.
-- @param outcome string  captured, authorized, failed, late
-- @return what Checkout hands to the shop's page; nil, reason
function M.pay(order_id, outcome, method)
  local order, run = world.get().orders[order_id], OUTCOMES[outcome]
  if not order then return nil, "there is no order " .. tostring(order_id) end
  if not run then return nil, "outcome is captured, authorized, failed or late" end
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

return M
