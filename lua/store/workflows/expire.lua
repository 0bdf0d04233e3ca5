--- Orders that were never paid: they give back their stock and their coupon.
--
-- An order keeps both until its expires_at (settings.orders.payment_minutes). A payment that failed may still come
-- through, by the same bank, minutes later (late authorisation), so such an order waits a little longer. Money that
-- comes even later finds the order expired: workflows/payment.lua sells it after all, or gives the money back.
local pg = require "chowk.pg"
local coupon = require "store.workflows.coupon"
local stock = require "store.workflows.stock"

local M = {}

local AFTER_FAILURE = "20 minutes"
local BATCH = 100

local IS_DUE = [[
  status = 'pending' AND payment_status IN ('unpaid', 'failed') AND expires_at <= now()
  AND (payment_status = 'unpaid' OR updated_at <= now() - interval ']] .. AFTER_FAILURE .. "')"

-- Somebody who pays at this moment holds the lock: then it is not expired.
local LOCK = "SELECT id::text, coupon_code FROM orders WHERE id = $1::uuid AND " .. IS_DUE .. " FOR UPDATE SKIP LOCKED"

local function move(order)
  return { [[
    WITH moved AS (
      UPDATE orders SET status = 'expired', version = version + 1, updated_at = now() WHERE id = $1::uuid
      RETURNING id)
    INSERT INTO order_events (order_id, type, from_status, to_status, actor)
    SELECT id, 'order_expired', 'pending', 'expired', 'timer' FROM moved]], order.id }
end

--- Expires one order, if it is still due. Locks as everyone does: order, SKUs in their order, coupon.
-- @return boolean. Yields.
function M.expire(order_id)
  return pg.tx(function(tx)
    local order = tx:one(LOCK, order_id)
    if not order then return false end
    local last = { stock.release(order.id), move(order) }
    if order.coupon_code then last[#last + 1] = coupon.give_back(order.id) end
    tx:commit(last)
    return true
  end)
end

--- Expires what is due, the oldest first. @return integer  how many. Yields.
function M.run()
  local n = 0
  repeat
    local due = pg.query("SELECT id::text FROM orders WHERE " .. IS_DUE .. " ORDER BY expires_at LIMIT $1", BATCH)
    local before = n
    for _, order in ipairs(due) do
      if M.expire(order.id) then n = n + 1 end
    end
  until #due < BATCH or n == before
  return n
end

return M
