--- Orders that were never paid: they give back their stock and their coupon.
--
-- An order keeps both until its expires_at (settings.orders.payment_minutes). A payment that failed may still come
-- through, by the same bank, minutes later (late authorisation), so such an order waits a little longer; one that is
-- authorized waits days for its capture (settings.orders.authorized_days), until Razorpay has given the money back.
-- Money that comes even later finds the order expired: workflows/payment.lua sells it, or gives the money back.
local config = require "chowk.config"
local log = require "chowk.log"
local pg = require "chowk.pg"
local razorpay = require "chowk.razorpay"
local time = require "chowk.time"
local coupon = require "store.workflows.coupon"
local order_machine = require "store.machines.order"
local payment_machine = require "store.machines.payment"
local settings = require "store.settings"
local settlement = require "store.workflows.settlement"
local stock = require "store.workflows.stock"

local M = {}

local AFTER_FAILURE = "20 minutes"
local BATCH = 100
local ASK_S = 5            -- so long Razorpay may take for an answer,
local ASKING_MS = 20000    -- and so long authorized orders for all of theirs; the next run goes on

-- $1: days
local IS_DUE = [[
  status = 'pending' AND expires_at <= now() AND CASE payment_status
    WHEN 'unpaid' THEN true
    WHEN 'failed' THEN updated_at <= now() - interval ']] .. AFTER_FAILURE .. [['
    WHEN 'authorized' THEN updated_at <= now() - $1::int * interval '1 day'
    ELSE false END]]

local DUE = [[
  SELECT id::text, order_number, payment_status, razorpay_order_id, expires_at FROM orders
  WHERE payment_status IN ('unpaid', 'failed', 'authorized') AND (payment_status = 'authorized') = $5::boolean
    AND (expires_at, id) > ($2, $3::uuid) AND
]] .. IS_DUE .. [[ ORDER BY expires_at, id LIMIT $4]]
-- Somebody who pays at this moment holds the lock: then it is not expired.
local LOCK = [[
  SELECT id::text, coupon_code, payment_status FROM orders
  WHERE id = $2::uuid AND
]] .. IS_DUE .. " FOR UPDATE SKIP LOCKED"

local ACTOR = { actor = "timer" }

--- Expires one order, if it is still due. Locks as everyone does: order, SKUs in their order, coupon.
-- @return boolean. Yields.
function M.expire(order_id)
  return pg.tx(function(tx)
    local order = tx:one(LOCK, settings.authorized_days, order_id)
    if not order then return false end
    tx:defer { stock.release(order.id) }
    if order.payment_status == "authorized" then
      tx:defer(payment_machine:statements("authorized", order.id, "lapse", ACTOR))
    end
    tx:defer(order_machine:statements("pending", order.id, "expire", ACTOR))
    if order.coupon_code then tx:defer { coupon.give_back(order.id) } end
    return true
  end)
end

--- Has an authorized payment really come to nothing? What is not lost is captured instead. Yields.
local function is_lost(order)
  if config.get "payments.confirm" ~= "fetch" then return true end
  for _, p in ipairs(razorpay.orders.payments(order.razorpay_order_id, { timeout = ASK_S })) do
    if p.status == "authorized" or p.status == "captured" then
      settlement.settle(p.id, ASK_S)
      return false
    end
  end
  return true
end

local function expire_due(order)
  if order.payment_status == "authorized" and not is_lost(order) then return false end
  return M.expire(order.id)
end

-- Expires what is due, the oldest first. One that cannot be expired holds up no other.
local function run(is_authorized, ends_ms)
  local n, last = 0, { expires_at = "-infinity", id = "00000000-0000-0000-0000-000000000000" }
  repeat
    local due = pg.query(DUE, settings.authorized_days, last.expires_at, last.id, BATCH, is_authorized)
    for _, order in ipairs(due) do
      if time.mono_ms() >= ends_ms then return n end
      local is_done, err = try(expire_due, order)
      if err then log.error("an order cannot be expired", { order = order.order_number, error = err.message }) end
      if is_done then n = n + 1 end
    end
    last = due[#due]
  until #due < BATCH
  return n
end

--- Expires what is due: first what needs nobody's answer, so that a Razorpay that is away keeps none of it.
-- @return integer  how many. Yields.
function M.run() return run(false, math.huge) + run(true, time.mono_ms() + ASKING_MS) end

return M
