--- What is known about a refund, and what it does to its order. Refunds may also be made by hand in Razorpay's
-- dashboard, or by Razorpay itself (a second payment of a paid order), so unknown ones are recorded; so is what was
-- given back outside Razorpay, which never hears of it: a processed refund without an id of Razorpay's.
local log = require "chowk.log"
local pg = require "chowk.pg"
local payment_machine = require "store.machines.payment"

local M = {}

-- How Razorpay's event names read in our table; processed and failed are final.
local STATUS = { created = "pending", processed = "processed", failed = "failed" }

local function record(refund, payment_id, status)
  return { [[
    INSERT INTO refunds AS r (payment_id, idem_key, razorpay_refund_id, amount_paise, status, arn)
    VALUES ($1, 'razorpay-' || $2::text, $2, $3, $4, $5)
    ON CONFLICT (razorpay_refund_id) DO UPDATE
      SET status = CASE WHEN r.status IN ('processed', 'failed') THEN r.status ELSE EXCLUDED.status END,
          arn = coalesce(EXCLUDED.arn, r.arn), updated_at = now()]],
    payment_id, refund.id, refund.amount_paise, status, refund.arn or pg.null }
end

-- What each payment of the order brought, and how much of it has gone back, by Razorpay or by hand. A payment's status
-- is what Razorpay calls it.
local HELD = [[
  SELECT p.id, p.status, p.amount_paise, o.refunded_paise AS known_paise,
         least(coalesce(sum(r.amount_paise), 0), p.amount_paise)::bigint AS refunded_paise,
         coalesce(sum(r.amount_paise) FILTER (WHERE r.razorpay_refund_id IS NOT NULL), 0) >= p.amount_paise
           AS is_refunded
  FROM orders o JOIN payments p ON p.order_id = o.id
    LEFT JOIN refunds r ON r.payment_id = p.id AND r.status = 'processed'
  WHERE o.id = $1::uuid AND p.status IN ('captured', 'refunded') GROUP BY o.id, p.id ORDER BY p.id]]
local MARK = "UPDATE payments SET status = 'refunded', updated_at = now() WHERE id = $1"

--- The statements that mark the payments which Razorpay has given back whole, and move the order's money when more of
-- its price is missing than was known: captured less given back. Money that came twice and went back once leaves the
-- order paid. Yields.
local function settle(tx, order, last, actor)
  local held, known = 0, 0
  for _, p in ipairs(tx:query(HELD, order.id)) do
    if p.status == "captured" and p.is_refunded then last[#last + 1] = { MARK, p.id } end
    held, known = held + p.amount_paise - p.refunded_paise, p.known_paise
  end
  local missing = math.max(order.total_paise - held, 0)
  local move = missing >= order.total_paise and "refund" or "refund_part"
  if missing <= known or not payment_machine:can(order.payment_status, move) then return end
  local moves = payment_machine:statements(order.payment_status, order.id, move,
    { actor = actor, data = { refunded_paise = missing }, set = { refunded_paise = missing } })
  for _, statement in ipairs(moves) do last[#last + 1] = statement end
end

--- A refund that failed, where somebody finds it: in the log, and in the order's history.
-- @param refund table {id, payment_id, amount_paise, reason?}   id: Razorpay's, or the key of one that it refused
-- @return statement
function M.alert(order, refund, message)
  log.error(message, { order = order.order_number, payment = refund.payment_id, refund = refund.id,
    amount_paise = refund.amount_paise, reason = refund.reason })
  return { [[
    INSERT INTO order_events (order_id, type, actor, data)
    VALUES ($1::uuid, 'refund.fail', 'razorpay', jsonb_strip_nulls(jsonb_build_object(
      'payment_id', $2::text, 'refund_id', $3::text, 'amount_paise', $4::bigint, 'reason', $5::text)))]],
    order.id, refund.payment_id, refund.id, refund.amount_paise, refund.reason or pg.null }
end

--- Razorpay's id of the order that a payment was for; nil: it is not known. Yields.
function M.order_of(tx, payment_id)
  return tx:value([[
    SELECT o.razorpay_order_id FROM payments p JOIN orders o ON o.id = p.order_id
    WHERE p.razorpay_payment_id = $1]], payment_id)
end

--- Records a refund, and decides what follows.
-- @param tx       the transaction that locked `order`
-- @param refund    table {id, payment_id, amount_paise, arn?}
-- @param event     "created" | "processed" | "failed"
-- @return the statements to commit with it, or nil, reason when the payment has to be known first
-- Yields. Raises what pg raises.
function M.decide(tx, order, refund, event)
  local payment = tx:one("SELECT id, status FROM payments WHERE razorpay_payment_id = $1 AND order_id = $2::uuid",
    refund.payment_id, order.id)
  -- Overtook its own capture: the capture comes, or is fetched; until then there is nothing to refund.
  if not payment or (payment.status ~= "captured" and payment.status ~= "refunded") then
    return nil, "refund of a payment not known to be captured"
  end
  local was = event == "failed" and tx:value("SELECT status FROM refunds WHERE razorpay_refund_id = $1", refund.id)
  tx:exec(unpack(record(refund, payment.id, STATUS[event])))
  local last = {}
  if event == "failed" and was ~= "failed" then -- the bank has refused: nobody else tells the customer or repeats it
    last[1] = M.alert(order, refund, "a refund failed: give the money back by hand")
  end
  settle(tx, order, last, "razorpay")
  return last
end

local BY_HAND = [[
  WITH refund AS (
    INSERT INTO refunds (payment_id, idem_key, amount_paise, reason, status)
    SELECT id, $3, $4, $5, 'processed' FROM payments WHERE razorpay_payment_id = $2)
  INSERT INTO order_events (order_id, type, actor, data)
  VALUES ($1::uuid, 'refund.by_hand', $6, jsonb_build_object('payment_id', $2::text, 'amount_paise', $4::bigint,
    'reason', $5::text, 'reference', $7::text))]]

--- Records a refund that somebody has made outside Razorpay, and decides what follows.
-- @param tx transaction  that has locked the order  @param order row {id, payment_status, total_paise}
-- @param refund table {payment_id, key, amount_paise, reason, actor, reference}
-- @return the statements to commit with it. Yields.
function M.by_hand(tx, order, refund)
  tx:exec(BY_HAND, order.id, refund.payment_id, refund.key, refund.amount_paise, refund.reason, refund.actor,
    refund.reference)
  local last = {}
  settle(tx, order, last, refund.actor)
  return last
end

return M
