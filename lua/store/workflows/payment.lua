--- What is known about a payment, and what it does to its order. The one place where an order becomes paid.
--
-- News of one payment comes from the customer's browser and from webhooks: late, repeated, in any order. All of it goes
-- through `decide`, under the order's row lock: lower-ranked news is ignored, what is left moves the order by
-- store.machines.payment and .order. The caller commits.
local app = require "chowk.app"
local config = require "chowk.config"
local log = require "chowk.log"
local pg = require "chowk.pg"
local razorpay = require "chowk.razorpay"
local order_machine = require "store.machines.order"
local payment_machine = require "store.machines.payment"
local coupon = require "store.workflows.coupon"
local refund_request = require "store.workflows.refund_request"
local stock = require "store.workflows.stock"

local M = {}

-- failed < authorized: a bank's late yes follows an early no.
local RANK = { created = 0, failed = 1, authorized = 2, captured = 3, refunded = 4 }

-- payment news → the moves of the order's money, of which the first that is possible is made
local MOVES = { failed = { "fail" }, authorized = { "authorize" }, captured = { "capture", "capture_again" },
  refunded = { "lapse" } }

-- `status` is what everybody calls it, `order_status` the order's own axis.
local LOCK_BY_RAZORPAY_ID = [[
  SELECT id::text, order_number, state AS status, status AS order_status, payment_status, total_paise, currency,
         razorpay_order_id
  FROM orders WHERE razorpay_order_id = $1 FOR UPDATE]]

--- Statement: an order, locked, by the id Razorpay knows it by.
function M.lock_order(razorpay_order_id) return { LOCK_BY_RAZORPAY_ID, razorpay_order_id } end

--- Statement: what we knew about a payment; to run behind lock_order, so that it cannot change any more.
function M.known(payment_id)
  return { "SELECT order_id::text, status FROM payments WHERE razorpay_payment_id = $1", payment_id }
end

local function record(order, news)
  return { [[
    INSERT INTO payments AS p (order_id, razorpay_payment_id, status, method, amount_paise, fee_paise, tax_paise,
      error_code, error_reason, raw)
    VALUES ($1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (razorpay_payment_id) DO UPDATE
      SET status = EXCLUDED.status, method = coalesce(EXCLUDED.method, p.method),
          fee_paise = coalesce(EXCLUDED.fee_paise, p.fee_paise), tax_paise = coalesce(EXCLUDED.tax_paise, p.tax_paise),
          error_code = EXCLUDED.error_code, error_reason = EXCLUDED.error_reason,
          raw = coalesce(EXCLUDED.raw, p.raw), updated_at = now()]],
    order.id, news.payment_id, news.status, news.method or pg.null, news.amount_paise, news.fee_paise or pg.null,
    news.tax_paise or pg.null, news.error_code or pg.null, news.error_reason or pg.null,
    news.raw and pg.jsonb(news.raw) or pg.null }
end

--- Statement: news that changes nothing, in its order's history, once.
-- @param order row {id, payment_status}  @param news table {payment_id, status, amount_paise, currency, actor}
function M.ignore(order, news)
  return { [[
    INSERT INTO order_events (order_id, type, from_status, actor, data)
    SELECT $1::uuid, 'payment.ignore', $2, $3, data
    FROM jsonb_build_object('payment_id', $4::text, 'payment', $5::text, 'amount_paise', $6::bigint,
      'currency', $7::text) AS data
    WHERE NOT EXISTS (SELECT 1 FROM order_events e
      WHERE e.order_id = $1::uuid AND e.type = 'payment.ignore' AND e.data = data)]],
    order.id, order.payment_status, news.actor, news.payment_id, news.status, news.amount_paise, news.currency }
end

local function append(list, more)
  for _, statement in ipairs(more) do list[#list + 1] = statement end
end

local function move_order(order, name, news, last)
  append(last, order_machine:statements(order.order_status, order.id, name,
    { actor = news.actor, data = { payment_id = news.payment_id } }))
end

local function give_back(order, news, last)
  append(last, refund_request.statements { payment_id = news.payment_id, amount_paise = news.amount_paise,
    order_number = order.order_number, key = "late-" .. news.payment_id, reason = "paid after the order had ended" })
end

--- Money for an order that was given up meanwhile: sell it after all if the stock is still there, else give it back.
-- @return string  the order's next status; statements to run are added to `last`. Yields.
local function revive(tx, order, news, last)
  if stock.retake(tx, order.id) then
    last[#last + 1] = coupon.take_again(order.id)
    move_order(order, "revive", news, last)
    return "confirmed"
  end
  give_back(order, news, last)
  return order.status
end

-- What a capture does to its order. @return string  its status afterwards. Yields.
local function confirm(tx, order, news, last)
  if order_machine:can(order.order_status, "revive") then return revive(tx, order, news, last) end
  if not order_machine:can(order.order_status, "confirm") then return order.status end
  move_order(order, "confirm", news, last)
  return "confirmed"
end

local IS_AUTHORIZED = [[
  SELECT EXISTS (SELECT 1 FROM payments
    WHERE order_id = $1::uuid AND status = 'authorized' AND razorpay_payment_id <> $2)]]

-- What the news does to the order's money, or nil. Yields.
local function move_of(tx, order, news)
  for _, move in ipairs(MOVES[news.status]) do
    if payment_machine:can(order.payment_status, move) then
      -- Given back before it was captured: the order can be paid anew, unless another payment is on its way.
      return (move ~= "lapse" or not tx:value(IS_AUTHORIZED, order.id, news.payment_id)) and move or nil
    end
  end
end

local function move_payment(order, move, news, last)
  append(last, payment_machine:statements(order.payment_status, order.id, move, {
    actor = news.actor, data = { payment_id = news.payment_id, amount_paise = news.amount_paise },
    set = move == "capture_again" and { refunded_paise = 0 } or nil,   -- this payment alone is the whole price
  }))
end

--- What one piece of news does to its order.
-- @param tx      the transaction that locked `order` (lock_order) and then read `known` (known)
-- @param order   row   @param known row|nil
-- @param news    table {payment_id, status, amount_paise, currency, actor, method?, fee_paise?, tax_paise?,
--                       error_code?, error_reason?, raw?}
-- @return table {status, payment_status} of the order afterwards, and the statements that make it so;
--         or nil, reason: the news is not about this order
-- Yields. Raises what pg raises.
function M.decide(tx, order, known, news)
  if known and known.order_id ~= order.id then return nil, "the payment belongs to another order" end
  if known and RANK[news.status] <= RANK[known.status] then return order, {} end
  if news.status ~= "failed" and (news.amount_paise ~= order.total_paise or news.currency ~= order.currency) then
    return nil, ("amount mismatch: %s %d for an order of %s %d"):format(news.currency, news.amount_paise,
      order.currency, order.total_paise)
  end
  local last, move, status = { record(order, news) }, move_of(tx, order, news), order.status
  if news.status == "captured" and move ~= "capture" then
    -- Paid twice by two payments. Razorpay gives one of them back by itself, and need not mean this one.
    log.error("second capture for an order", { order = order.order_number, payment = news.payment_id })
    -- Somebody should look; and of an order that has ended all goes back.
    if order_machine:can(order.order_status, "revive") then give_back(order, news, last) end
  end
  if not move then
    last[#last + 1] = M.ignore(order, news)
    return order, last
  end
  move_payment(order, move, news, last)
  if move == "capture" then status = confirm(tx, order, news, last) end
  return { status = status, payment_status = payment_machine:to(move) }, last
end

--- A customer's proof of payment from the checkout form. The signature proves authorisation; whether that is enough
-- for "paid" is the operator's choice (payments.confirm).
-- @param proof table {razorpay_order_id, razorpay_payment_id, razorpay_signature}
-- @return table {number, status, payment_status}
-- Yields. Fails with 404 (no such order), 409 (payment of another order); raises bad_signature (400), what pg raises.
function M.verify(proof)
  return pg.tx(function(tx)
    local r = tx:all { M.lock_order(proof.razorpay_order_id), M.known(proof.razorpay_payment_id) }
    local order = r[1][1] or app.fail(404, "order_not_found", "There is no such order.")
    razorpay.verify_checkout {
      order_id = order.razorpay_order_id,   -- ours, not the client's
      payment_id = proof.razorpay_payment_id,
      signature = proof.razorpay_signature,
    }
    local confirmed = config.get("payments.confirm") == "signature"
    local now, last = M.decide(tx, order, r[2][1], {
      payment_id = proof.razorpay_payment_id,
      status = confirmed and "captured" or "authorized",
      amount_paise = order.total_paise,   -- Razorpay made the payment for this order, whose amount we set
      currency = order.currency,
      actor = "customer",
    })
    if not now then app.fail(409, "payment_mismatch", last) end
    if #last > 0 then tx:commit(last) end
    return { number = order.order_number, status = now.status, payment_status = now.payment_status }
  end)
end

return M
