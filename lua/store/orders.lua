--- Orders as they are read: by their buyer, who is signed in or has the order's token, and by the shop's people. Also
-- how an order is locked for whatever moves it. Every function yields.
--
-- A buyer is { user_id = … } or { token_hash = … } (store/buyer.lua); whoever is neither learns nothing, not even
-- whether a number exists. Buyers and the shop's people see the same order; the latter also its events.
local pg = require "chowk.pg"

local M = {}

local BRIEF = [[
  SELECT o.order_number AS number, o.state AS status, o.payment_status, o.currency, o.total_paise, o.refunded_paise,
         o.created_at, o.id
  FROM orders o]]

local WHOLE = [[
  SELECT o.order_number AS number, o.state AS status, o.payment_status, o.currency, o.subtotal_paise, o.discount_paise,
         o.shipping_paise, o.tax_paise, o.total_paise, o.refunded_paise, o.coupon_code AS coupon, o.email,
         o.shipping_address, o.razorpay_order_id, o.carrier, o.tracking_number, o.created_at, o.updated_at,
         (SELECT i.number FROM invoices i WHERE i.order_id = o.id) AS invoice,
         (SELECT coalesce(json_agg(n.number ORDER BY n.number), '[]')
          FROM credit_notes n JOIN invoices i ON i.number = n.invoice WHERE i.order_id = o.id) AS credit_notes,
         (SELECT json_agg(json_build_object('sku', i.sku, 'name', i.name, 'variant', i.variant,
                                            'quantity', i.quantity, 'unit_price_paise', i.unit_price_paise)
                          ORDER BY i.id)
          FROM order_items i WHERE i.order_id = o.id) AS items]]
local EVENTS = [[,
         (SELECT json_agg(json_build_object('type', e.type, 'from', e.from_status, 'to', e.to_status,
                                            'actor', e.actor, 'data', e.data, 'at', e.at) ORDER BY e.id)
          FROM order_events e WHERE e.order_id = o.id) AS events]]

local IS_BUYERS = " (o.access_token_hash = decode($2, 'hex') OR o.user_id = $3::uuid)"

--- @return raw JSON, or nil for both "no such order" and "not yours"
function M.find(number, buyer)
  return pg.json_one(WHOLE .. " FROM orders o WHERE o.order_number = $1 AND" .. IS_BUYERS,
    number, buyer.token_hash, buyer.user_id)
end

--- @return raw JSON, or nil
function M.find_any(number)
  return pg.json_one(WHOLE .. EVENTS .. " FROM orders o WHERE o.order_number = $1", number)
end

-- The newest first, in the order of its index.
local function page(sql, filter, ...)
  return pg.page(sql, { by = { "created_at", "id" }, desc = true, hide = { "id" }, limit = filter.limit,
    cursor = filter.cursor }, ...)
end

--- What opening an order's payment takes, for its buyer. @return row, or nil
function M.to_pay(number, buyer)
  return pg.one([[
    SELECT o.id::text, o.order_number, o.total_paise, o.currency, o.status, o.payment_status, o.razorpay_order_id
    FROM orders o WHERE o.order_number = $1 AND]] .. IS_BUYERS, number, buyer.token_hash, buyer.user_id)
end

--- A page of a user's orders. @param filter table {limit, cursor?}  @return raw JSON {items, next_cursor}
function M.of_user(user_id, filter)
  return page(BRIEF .. " WHERE o.user_id = $1::uuid", filter, user_id)
end

-- Of these money should have gone back: a refund has failed, and no other followed it, be it by hand; or Razorpay has
-- not taken it for an hour.
local ATTENTION = [[
  JOIN (SELECT DISTINCT p.order_id FROM refunds r JOIN payments p ON p.id = r.payment_id
    WHERE r.status = 'requested' AND r.created_at < now() - interval '1 hour'
      OR r.status = 'failed' AND NOT EXISTS (SELECT 1 FROM refunds later
        WHERE later.payment_id = r.payment_id AND later.id > r.id AND later.status <> 'failed')) a
    ON a.order_id = o.id]]

--- A page of all orders.
-- @param filter table {limit, cursor?, status?, attention?}   attention = true: only those that somebody has to look at
-- @return raw JSON {items, next_cursor}
function M.all(filter)
  local sql = filter.attention and BRIEF .. ATTENTION or BRIEF
  if filter.status then return page(sql .. " WHERE o.state = $1", filter, filter.status) end
  return page(sql, filter)
end

local LOCK = [[
  SELECT o.id::text, o.order_number, o.state AS status, o.status AS order_status, o.payment_status,
         o.fulfilment_status, o.coupon_code, o.total_paise, o.version
  FROM orders o WHERE o.order_number = $1]]

--- Locks an order for its buyer, or for anybody if there is none.
-- @param tx transaction  @param buyer table|nil
-- @return row {id, order_number, status, order_status, payment_status, fulfilment_status, coupon_code, total_paise,
--   version}; nil
function M.lock(tx, number, buyer)
  if not buyer then return tx:one(LOCK .. " FOR UPDATE", number) end
  return tx:one(LOCK .. " AND" .. IS_BUYERS .. " FOR UPDATE", number, buyer.token_hash, buyer.user_id)
end

--- What a move is answered with: the order's state as the transaction has made it, once it has committed.
-- @return table {number, status, payment_status}
function M.state(number)
  return pg.one("SELECT order_number AS number, state AS status, payment_status FROM orders WHERE order_number = $1",
    number)
end

return M
