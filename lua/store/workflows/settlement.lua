--- The shop and Razorpay, where we ask: opening an order there, learning what became of a payment, giving money back.
-- Every call can be made again: an order by its receipt, a refund by its stored key. No call is made in a transaction.
local config = require "chowk.config"
local log = require "chowk.log"
local pg = require "chowk.pg"
local razorpay = require "chowk.razorpay"
local time = require "chowk.time"
local orders = require "store.orders"
local payment = require "store.workflows.payment"
local refund_request = require "store.workflows.refund_request"
local refunds = require "store.workflows.refund"

local M = {}

-- By Razorpay itself; what it cannot capture within 12 minutes goes back to the customer.
local CAPTURE = { capture = "automatic",
  capture_options = { automatic_expiry_period = 12, refund_speed = "normal" } }

local CALL = { timeout = "15s" } -- of a call that nobody waits for

-- ---- opening --------------------------------------------------------------------------------------------------

-- Of several at once the first one's order is everybody's.
local OPENED = [[
  UPDATE orders SET razorpay_order_id = coalesce(razorpay_order_id, $2) WHERE id = $1::uuid
  RETURNING razorpay_order_id]]

--- Razorpay's order for one of ours, opened the first time.
-- @param number string  @param buyer table  (store/buyer.lua)
-- @return table {razorpay_order_id, amount_paise, currency, key_id}; nil: no such order, or not yours; or nil, the
--   payment_status that leaves nothing to pay. Yields. Raises what chowk.razorpay raises.
function M.open(number, buyer)
  local order = orders.to_pay(number, buyer)
  if not order then return nil end
  local is_open = order.status == "pending" and (order.payment_status == "unpaid" or order.payment_status == "failed")
  if not is_open then return nil, order.payment_status end
  local id = order.razorpay_order_id
  if not id then
    id = razorpay.orders.create { amount = order.total_paise, currency = order.currency, receipt = order.order_number,
      payment = CAPTURE }.id
    id = pg.value(OPENED, order.id, id)
  end
  return { razorpay_order_id = id, amount_paise = order.total_paise, currency = order.currency,
    key_id = config.get "razorpay.key_id" }
end

--- Does an error of chowk.razorpay's say that there is no such thing? (Its id may also be one of another mode.)
function M.is_unknown(err) return err.code == "razorpay_error" and (err.status == 400 or err.status == 404) end

-- Razorpay's id for the order whose number is its receipt, if it is for the same money.
M.ADOPT = [[
  UPDATE orders SET razorpay_order_id = $1
  WHERE order_number = $2 AND razorpay_order_id IS NULL AND total_paise = $3 AND currency = $4]]

--- Is an order of Razorpay's ours, although we do not know its id? Its receipt is our number. From then on we know it.
-- @return boolean. Yields. Raises what chowk.razorpay raises when it cannot be asked.
function M.adopt(razorpay_order_id)
  local o, err = try(razorpay.orders.fetch, razorpay_order_id, CALL)
  if err and not M.is_unknown(err) then error(err, 0) end
  if not o or type(o.receipt) ~= "string" then return false end
  return pg.exec(M.ADOPT, o.id, o.receipt, o.amount, o.currency) == 1
end

-- ---- what became of a payment -----------------------------------------------------------------------------------

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

local EVENTS = { pending = "created", processed = "processed", failed = "failed" }

-- Our request has become Razorpay's refund. Its webhook may have told of it first, in a row of its own; then ours goes.
local SENT = [[
  WITH known AS (SELECT 1 FROM refunds WHERE razorpay_refund_id = $2),
  gone AS (DELETE FROM refunds WHERE idem_key = $1 AND razorpay_refund_id IS NULL AND EXISTS (SELECT 1 FROM known))
  UPDATE refunds SET razorpay_refund_id = $2, status = 'pending', updated_at = now()
  WHERE idem_key = $1 AND razorpay_refund_id IS NULL AND NOT EXISTS (SELECT 1 FROM known)]]

-- What Razorpay says of a refund; of our own request, which `key` names, that it was heard.
local function apply_refund(r, key)
  pg.tx(function(tx)
    local order = tx:all { payment.lock_order(refunds.order_of(tx, r.payment_id)) }[1][1]
    if key then tx:exec(SENT, key, r.id) end
    local last, why = refunds.decide(tx, order, { id = r.id, payment_id = r.payment_id, amount_paise = r.amount,
      arn = type(r.acquirer_data) == "table" and type(r.acquirer_data.arn) == "string" and r.acquirer_data.arn or nil },
      EVENTS[r.status] or "created")
    if last then tx:defer(last) else log.error("refund parked", { refund = r.id, reason = why }) end
  end)
end

local function apply_refunds(payment_id)
  for _, r in ipairs(razorpay.payments.refunds(payment_id, CALL)) do apply_refund(r) end
end

local NEWS = { authorized = true, captured = true, failed = true, refunded = true }

-- Neither its id nor its price changes any more: no lock.
local PRICE = [[
  SELECT id::text, order_number, payment_status, total_paise, currency FROM orders WHERE razorpay_order_id = $1]]

local function order_of(p)
  if type(p.order_id) ~= "string" then return nil end
  return pg.one(PRICE, p.order_id) or M.adopt(p.order_id) and pg.one(PRICE, p.order_id) or nil
end

-- Is it for an order of ours, and its price? Any other is somebody else's, or a mistake: uncaptured, Razorpay gives it
-- back by itself within days.
local function may_capture(p)
  local order = order_of(p)
  if order and p.amount == order.total_paise and p.currency == order.currency then return true end
  local is_new = not order or pg.exec(unpack(payment.ignore(order, { payment_id = p.id, status = p.status,
    amount_paise = p.amount, currency = p.currency, actor = "razorpay" }))) == 1
  if is_new then
    log.error("payment not captured: it is not the price of an order of ours", { payment = p.id,
      order = order and order.order_number, amount_paise = p.amount, currency = p.currency })
  end
  return false
end

-- Captures a payment that is only authorised; then its news, and its refunds' (made elsewhere, their webhooks lost).
local function settle(p, options)
  if p.status == "authorized" then
    if not may_capture(p) then return nil end
    p = razorpay.payments.capture(p.id, p.amount, p.currency, options)
  end
  if not NEWS[p.status] or type(p.order_id) ~= "string" then return nil end
  local order = apply(p) or M.adopt(p.order_id) and apply(p) or nil
  if order and (tonumber(p.amount_refunded) or 0) > 0 then apply_refunds(p.id) end
  return order
end

--- Asks what became of a payment, captures what is only authorised and the price of an order of ours, and applies it.
-- @param seconds number|nil  how long Razorpay may take in all
-- @return table {status, payment_status} of its order, or nil: not one of ours. Yields.
function M.settle(payment_id, seconds)
  local ends_ms = time.mono_ms() + (seconds or 30) * 1000
  local p = razorpay.payments.fetch(payment_id, { timeout = seconds or 30 })
  return settle(p, { timeout = math.max(0, ends_ms - time.mono_ms()) / 1000 })
end

-- ---- what nobody told us ----------------------------------------------------------------------------------------

local RUN_MS = 180000     -- of one reconciliation; the next goes on where it ended
local MAX_SILENCES = 3    -- Razorpay is away: so many calls in a row without an answer end the run

local SILENT = { unavailable = true, timeout = true, queue_full = true, bad_response = true }

-- Runs fn(row) for each, and `checked` with (id, failed) after it. What fails for one does not keep the others from
-- their turn.
local function each(what, rows, fn, checked)
  local ends_ms, silences = time.mono_ms() + RUN_MS, 0
  for _, row in ipairs(rows) do
    local _, err = try(fn, row)
    pg.exec(checked, row.id, err ~= nil)
    if err then log.warn("not reconciled", { [what] = row.name, error = err.message }) end
    silences = err and SILENT[err.code] and silences + 1 or 0
    if silences == MAX_SILENCES or time.mono_ms() > ends_ms then return end
  end
end

-- Bank transfers may come through for five days. Who waited longest for being asked is first.
local WAITING = [[
  SELECT id::text, order_number AS name, razorpay_order_id FROM orders
  WHERE payment_status IN ('unpaid', 'authorized', 'failed') AND razorpay_order_id IS NOT NULL
    AND created_at BETWEEN now() - interval '5 days' AND now() - $1::int * interval '1 second'
    AND coalesce(payment_check_at, created_at) <= now()
  ORDER BY coalesce(payment_check_at, created_at) LIMIT 200]]
-- At 2, 4, 8 … minutes, then every six hours; after a failure soon again.
local CHECKED = [[
  UPDATE orders SET payment_check_at = now() + CASE WHEN $2::boolean THEN interval '10 minutes'
    ELSE least(greatest(now() - created_at, interval '2 minutes'), interval '6 hours') END
  WHERE id = $1::uuid]]

local function ask(order)
  for _, p in ipairs(razorpay.orders.payments(order.razorpay_order_id, CALL)) do settle(p, CALL) end
end

--- Asks for the payments of orders that have waited long: webhooks stop after a day, and lists lag, so by id.
-- @param age_s integer  @return integer  orders that were due. Yields.
function M.reconcile(age_s)
  local waiting = pg.query(WAITING, age_s)
  each("order", waiting, ask, CHECKED)
  return #waiting
end

-- ---- refunds ------------------------------------------------------------------------------------------------

-- → the request that is there already; what Razorpay has refused for so long, it refuses for good
local REQUEST = [[
  WITH new AS (
    INSERT INTO refunds (payment_id, idem_key, amount_paise, reason)
    SELECT id, $2, $3, $4 FROM payments WHERE razorpay_payment_id = $1
    ON CONFLICT (idem_key) DO NOTHING)
  SELECT status, created_at < now() - interval '3 days' AS is_old FROM refunds WHERE idem_key = $2]]
local TAKE_BACK = "DELETE FROM refunds WHERE idem_key = $1 AND razorpay_refund_id IS NULL"

-- Refused, because somebody gave it back by hand? All of it: then there is nothing to ask for; or too much of it: then
-- what is left.
local function is_given_back(refund, key)
  local p = razorpay.payments.fetch(refund.payment_id, CALL)
  local left = p.status == "refunded" and 0 or p.amount - (tonumber(p.amount_refunded) or 0)
  if left >= refund.amount_paise then return false end
  apply_refunds(refund.payment_id)
  if left == 0 then
    pg.exec(TAKE_BACK, key)
  else
    pg.tx(function(tx)
      local order = tx:all { payment.lock_order(p.order_id) }[1][1]
      refund_request.replace(tx, order, { payment_id = refund.payment_id, key = key })
    end)
  end
  return true
end

-- Refused although the money is there. It may be the account's balance, so it is asked again for some days.
local function refuse(refund, key, was, err)
  if was and was.is_old and M.is_unknown(err) then
    pg.tx(function(tx)
      local order = tx:all { payment.lock_order(refunds.order_of(tx, refund.payment_id)) }[1][1]
      refund_request.give_up(tx, order, { payment_id = refund.payment_id, key = key }, err.message)
    end)
  end
  error(err, 0)
end

--- Gives a payment's money back, once: its key is stored before Razorpay is asked. Its webhooks say how it ends, or
-- `reconcile_refunds`.
-- @param refund table {payment_id, amount_paise, order_number, key?}   Yields. Raises what chowk.razorpay raises.
function M.refund(refund)
  local key = refund.key or "late-" .. refund.payment_id
  local was = pg.one(REQUEST, refund.payment_id, key, refund.amount_paise, "paid after the order had ended")
  if was and was.status ~= "requested" then return end   -- Razorpay has taken it, or it has failed
  local sent, err = try(razorpay.refunds.create, refund.payment_id, { key = key, amount = refund.amount_paise,
    notes = { order = refund.order_number } })
  if sent then
    apply_refund(sent, key)
  elseif err.code ~= "razorpay_error" or err.retryable then
    error(err, 0)
  elseif not is_given_back(refund, key) then
    refuse(refund, key, was, err)
  end
end

local OPEN_REFUNDS = [[
  SELECT r.id, r.idem_key AS name, r.razorpay_refund_id, r.amount_paise, p.razorpay_payment_id, o.order_number
  FROM refunds r JOIN payments p ON p.id = r.payment_id JOIN orders o ON o.id = p.order_id
  WHERE r.status IN ('requested', 'pending') AND r.check_at <= now() ORDER BY r.check_at LIMIT 200]]
local REFUND_CHECKED = [[
  UPDATE refunds SET check_at = now() + CASE WHEN $2::boolean THEN interval '10 minutes'
    ELSE least(greatest(now() - created_at, interval '15 minutes'), interval '6 hours') END
  WHERE id = $1]]

--- Asks for the refunds that are under way, by id; those that Razorpay never heard of are sent again.
-- @param send function(refund)  enqueues M.refund, unless it waits already   Yields.
function M.reconcile_refunds(send)
  each("refund", pg.query(OPEN_REFUNDS), function(row)
    if row.razorpay_refund_id then
      apply_refund(razorpay.refunds.fetch(row.razorpay_refund_id, CALL))
    else
      send { payment_id = row.razorpay_payment_id, amount_paise = row.amount_paise, order_number = row.order_number,
        key = row.name }
    end
  end, REFUND_CHECKED)
end

return M
