--- Money to be given back. What may still be given back is counted under the order's lock, and the request is stored
-- with the key under which Razorpay is asked, in the transaction of what it is for. A job asks (settlement.refund).
-- What somebody has given back by hand is counted likewise.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local jobs = require "chowk.jobs"
local refunds = require "store.workflows.refund"

local M = {}

local REQUEST = [[
  INSERT INTO refunds (payment_id, idem_key, amount_paise, reason)
  SELECT id, $2, $3, $4 FROM payments WHERE razorpay_payment_id = $1
  ON CONFLICT (idem_key) DO NOTHING]]

--- Statements: one refund, once per key.
-- @param refund table {payment_id, amount_paise, order_number, key, reason}   payment_id is Razorpay's
function M.statements(refund)
  return {
    { REQUEST, refund.payment_id, refund.key, refund.amount_paise, refund.reason },
    jobs.statement("refund.send", refund, { unique = refund.key }),   -- defined in store/jobs.lua
  }
end

-- Failed refunds gave nothing back; all others count from the moment they were asked for.
local CAPTURED = [[
  SELECT p.razorpay_payment_id AS payment_id, p.amount_paise - coalesce((
           SELECT sum(r.amount_paise) FROM refunds r WHERE r.payment_id = p.id AND r.status <> 'failed'), 0)::bigint
           AS left_paise
  FROM payments p WHERE p.order_id = $1::uuid AND p.status IN ('captured', 'refunded') ORDER BY p.id]]

--- Statements: all that is left of an order's payments goes back.
-- @param tx transaction  that has locked the order  @param order row {id, order_number}  @param reason string. Yields.
function M.everything(tx, order, reason)
  local list = {}
  for _, p in ipairs(tx:query(CAPTURED, order.id)) do
    if p.left_paise > 0 then
      local statements = M.statements { payment_id = p.payment_id, amount_paise = p.left_paise, reason = reason,
        order_number = order.order_number, key = "all-" .. p.payment_id .. "-" .. order.version }
      for _, statement in ipairs(statements) do list[#list + 1] = statement end
    end
  end
  return list
end

--- What is left of an order's money. @param tx transaction  that has locked the order  @return integer paise. Yields.
function M.left(tx, order)
  local left = 0
  for _, p in ipairs(tx:query(CAPTURED, order.id)) do left = left + math.max(p.left_paise, 0) end
  return left
end

-- The payment that is named, or the first of which something is left.
local function choose(captured, payment_id)
  for _, p in ipairs(captured) do
    if payment_id == p.payment_id or not payment_id and p.left_paise > 0 then return p end
  end
end

-- → Razorpay's id of the payment, and how much of it goes back
local function allow(tx, order, request)
  local p = choose(tx:query(CAPTURED, order.id), request.payment_id)
  if not p or p.left_paise <= 0 then app.fail(409, "nothing_to_refund", "There is no money to give back.") end
  local amount = request.amount_paise or p.left_paise
  if amount > p.left_paise then
    app.fail(409, "refund_too_large", ("%d paise are left to give back."):format(p.left_paise),
      { left_paise = p.left_paise })
  end
  return p.payment_id, amount
end

--- Requests one refund, whole or in part.
-- @param tx transaction  that has locked the order  @param order row {id, order_number}
-- @param request table {payment_id?, amount_paise?, reason}   default: all that is left of the first payment
-- @return table {payment_id, amount_paise, reason, status}
-- Fails with 409 nothing_to_refund, refund_too_large (left_paise). Yields.
function M.request(tx, order, request)
  local payment_id, amount = allow(tx, order, request)
  tx:defer(M.statements { payment_id = payment_id, amount_paise = amount, order_number = order.order_number,
    key = "ask-" .. crypto.uuid(), reason = request.reason })
  return { payment_id = payment_id, amount_paise = amount, reason = request.reason, status = "requested" }
end

--- Records one refund that was made outside Razorpay, by bank transfer or in cash: it is done, nobody is asked.
-- @param request table {payment_id?, amount_paise?, reason, actor, reference}   otherwise as `request`
function M.by_hand(tx, order, request)
  local payment_id, amount = allow(tx, order, request)
  tx:defer(refunds.by_hand(tx, order, { payment_id = payment_id, amount_paise = amount, reason = request.reason,
    key = "hand-" .. crypto.uuid(), actor = request.actor, reference = request.reference }))
  return { payment_id = payment_id, amount_paise = amount, reason = request.reason, status = "processed" }
end

local MIN_PAISE = 100   -- Razorpay gives back no less
local REFUSED = [[
  UPDATE refunds SET status = 'failed', updated_at = now()
  WHERE idem_key = $1 AND status = 'requested' AND razorpay_refund_id IS NULL RETURNING amount_paise, reason]]

--- A request that Razorpay refuses, because part of the money has gone back by hand, has failed; somebody is told, and
-- what is left is requested instead. Again, it finds nothing to do.
-- @param tx transaction  that has locked the order; what has gone back is recorded
-- @param order row {id, order_number}  @param request table {payment_id, key}   Yields.
function M.replace(tx, order, request)
  local refused = tx:one(REFUSED, request.key)
  if not refused then return end
  tx:defer { refunds.alert(order, { id = request.key, payment_id = request.payment_id,
    amount_paise = refused.amount_paise }, "a refund was refused: part of the money had gone back elsewhere") }
  local p = choose(tx:query(CAPTURED, order.id), request.payment_id)
  local rest = p and math.min(refused.amount_paise, p.left_paise) or 0
  if rest < MIN_PAISE then return end
  tx:defer(M.statements { payment_id = request.payment_id, amount_paise = rest, order_number = order.order_number,
    key = request.key .. "-rest", reason = refused.reason })
end

--- A request that Razorpay goes on refusing has failed: somebody is told why, and may ask again for what is left.
-- @param tx transaction  that has locked the order  @param order row {id, order_number}
-- @param request table {payment_id, key}  @param reason string   Yields.
function M.give_up(tx, order, request, reason)
  local refused = tx:one(REFUSED, request.key)
  if not refused then return end
  tx:defer { refunds.alert(order, { id = request.key, payment_id = request.payment_id,
    amount_paise = refused.amount_paise, reason = reason }, "a refund is refused: give the money back by hand") }
end

return M
