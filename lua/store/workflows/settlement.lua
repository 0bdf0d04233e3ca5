--- The shop and Razorpay, where we ask: opening an order there, learning what became of a payment, giving money back.
-- Every call can be made again: an order by its receipt, a refund by its stored key. No call is made in a transaction.
local config = require "chowk.config"
local log = require "chowk.log"
local pg = require "chowk.pg"
local razorpay = require "chowk.razorpay"
local payment = require "store.workflows.payment"

local M = {}

-- By Razorpay itself; what it cannot capture within 12 minutes goes back to the customer.
local CAPTURE = { capture = "automatic",
  capture_options = { automatic_expiry_period = 12, refund_speed = "normal" } }

--- Razorpay's order for one of ours, opened the first time.
-- @param number string  @param token_hash string
-- @return table {razorpay_order_id, amount_paise, currency, key_id}; nil: no such order, or not yours; or nil, the
--   payment_status that leaves nothing to pay. Yields. Raises what chowk.razorpay raises.
function M.open(number, token_hash)
  local order = pg.one([[
    SELECT id::text, order_number, total_paise, currency, status, payment_status, razorpay_order_id FROM orders
    WHERE order_number = $1 AND access_token_hash = decode($2, 'hex')]], number, token_hash)
  if not order then return nil end
  local is_open = order.status == "pending" and (order.payment_status == "unpaid" or order.payment_status == "failed")
  if not is_open then return nil, order.payment_status end
  local id = order.razorpay_order_id
  if not id then
    id = razorpay.orders.create { amount = order.total_paise, currency = order.currency, receipt = order.order_number,
      payment = CAPTURE }.id
    pg.exec("UPDATE orders SET razorpay_order_id = $2 WHERE id = $1::uuid AND razorpay_order_id IS NULL", order.id, id)
  end
  return { razorpay_order_id = id, amount_paise = order.total_paise, currency = order.currency,
    key_id = config.get "razorpay.key_id" }
end

-- What Razorpay says of a payment, applied to its order as a webhook's news would be.
local function apply(p)
  return pg.tx(function(tx)
    local r = tx:all { payment.lock_order(p.order_id), payment.known(p.id) }
    local order = r[1][1]
    if not order then return nil end
    local now, last = payment.decide(tx, order, r[2][1], { payment_id = p.id, status = p.status,
      amount_paise = p.amount, currency = p.currency, method = p.method, actor = "razorpay", raw = p })
    if not now then
      log.error("payment parked", { order = order.order_number, payment = p.id, reason = last })
      return order
    end
    tx:defer(last)
    return now
  end)
end

local NEWS = { authorized = true, captured = true, failed = true }

--- Asks what became of a payment, captures what is only authorised, and applies it.
-- @return table {status, payment_status} of its order, or nil: not one of ours. Yields.
function M.settle(payment_id)
  local p = razorpay.payments.fetch(payment_id)
  if p.status == "authorized" then p = razorpay.payments.capture(payment_id, p.amount, p.currency) end
  return NEWS[p.status] and apply(p) or nil
end

local WAITING = [[
  SELECT razorpay_order_id FROM orders
  WHERE payment_status IN ('unpaid', 'authorized', 'failed') AND razorpay_order_id IS NOT NULL
    AND created_at BETWEEN now() - interval '3 days' AND now() - $1::int * interval '1 second'
  ORDER BY created_at DESC LIMIT 200]]

--- Asks for the payments of orders that have waited long: webhooks stop after a day, and lists lag, so by id.
-- @param age_s integer  @return integer  orders asked for. Yields.
function M.reconcile(age_s)
  local waiting = pg.query(WAITING, age_s)
  for _, order in ipairs(waiting) do
    local payments, err = try(razorpay.orders.payments, order.razorpay_order_id)
    if err then log.warn("not reconciled", { order = order.razorpay_order_id, error = err.message }) end
    for _, p in ipairs(payments or {}) do
      if p.status == "authorized" or p.status == "captured" then M.settle(p.id) end
    end
  end
  return #waiting
end

-- ---- refunds ------------------------------------------------------------------------------------------------

local REQUEST = [[
  INSERT INTO refunds (payment_id, idem_key, amount_paise, reason)
  SELECT id, $2, $3, $4 FROM payments WHERE razorpay_payment_id = $1
  ON CONFLICT (idem_key) DO NOTHING]]
-- The webhook may have told of it first, in a row of its own; then ours goes.
local SENT = [[
  WITH known AS (SELECT 1 FROM refunds WHERE razorpay_refund_id = $2),
  gone AS (DELETE FROM refunds WHERE idem_key = $1 AND razorpay_refund_id IS NULL AND EXISTS (SELECT 1 FROM known))
  UPDATE refunds SET razorpay_refund_id = $2, status = 'pending', updated_at = now()
  WHERE idem_key = $1 AND razorpay_refund_id IS NULL AND NOT EXISTS (SELECT 1 FROM known)]]

--- Gives a payment's money back, once: its key is stored before Razorpay is asked. Its webhooks say how it ends.
-- @param refund table {payment_id, amount_paise, order_number}   Yields. Raises what chowk.razorpay raises.
function M.refund(refund)
  local key = "late-" .. refund.payment_id
  pg.exec(REQUEST, refund.payment_id, key, refund.amount_paise, "paid after the order had ended")
  local sent = razorpay.refunds.create(refund.payment_id, { key = key, amount = refund.amount_paise,
    notes = { order = refund.order_number } })
  pg.exec(SENT, key, sent.id)
end

return M
