--- What a refund webhook does. Refunds may also be made by hand in Razorpay's dashboard, so unknown ones are recorded.
local pg = require "chowk.pg"

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

--- Statement: brings the order's refunded amount up to what has been processed; writes an event if that changed it.
local function settle(order)
  return { [[
    WITH done AS (
      SELECT least(coalesce(sum(r.amount_paise), 0), $2::bigint)::bigint AS paise
      FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE p.order_id = $1::uuid AND r.status = 'processed'),
    moved AS (
      UPDATE orders o SET refunded_paise = done.paise, version = version + 1, updated_at = now(),
             payment_status = (CASE WHEN done.paise >= o.total_paise THEN 'refunded'
                               ELSE 'partially_refunded' END)::payment_status
      FROM done
      WHERE o.id = $1::uuid AND o.payment_status IN ('paid', 'partially_refunded') AND o.refunded_paise < done.paise
      RETURNING o.id, o.payment_status, o.refunded_paise),
    marked AS (
      UPDATE payments p SET status = 'refunded', updated_at = now() FROM moved
      WHERE p.order_id = moved.id AND p.status = 'captured' AND moved.payment_status = 'refunded')
    INSERT INTO order_events (order_id, type, from_status, to_status, actor, data)
    SELECT id, 'payment_' || payment_status::text, $3::text, payment_status::text, 'razorpay',
           jsonb_build_object('refunded_paise', refunded_paise) FROM moved]],
    order.id, order.total_paise, order.payment_status }
end

--- @param tx       the transaction that locked `order`
-- @param refund    table {id, payment_id, amount_paise, arn?}
-- @param event     "created" | "processed" | "failed"
-- @return the statements to commit, or nil, reason when it should be tried again later
-- Yields. Raises what pg raises.
function M.decide(tx, order, refund, event)
  local payment = tx:one("SELECT id, status FROM payments WHERE razorpay_payment_id = $1 AND order_id = $2::uuid",
    refund.payment_id, order.id)
  -- Overtook its own capture: the capture comes, or is fetched; until then there is nothing to refund.
  if not payment or (payment.status ~= "captured" and payment.status ~= "refunded") then
    return nil, "refund of a payment not known to be captured"
  end
  return { record(refund, payment.id, STATUS[event]), settle(order) }
end

return M
