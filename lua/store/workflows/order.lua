--- Placing an order: one transaction, decided before anything is written.
--
--   1. lock the stock in SKU order, read prices; the claim of the Idempotency-Key travels with it  (one round trip)
--   2. lock the coupon and count its uses, if there is one                                          (one)
--   3. reserve the stock, insert order, lines and event; the kept answer and COMMIT with them       (one)
--
-- Locks are taken in the same sequence by everyone: key, SKUs, coupon. The order number comes from a block leased in
-- memory, so that nobody queues on one row of the database.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local log = require "chowk.log"
local pg = require "chowk.pg"
local seq = require "chowk.seq"
local coupon_policy = require "store.policies.coupon"
local gst = require "store.policies.gst"
local guest_token = require "store.guest_token"
local order_machine = require "store.machines.order"
local payment_machine = require "store.machines.payment"
local settings = require "store.settings"
local shipping = require "store.policies.shipping"
local stock = require "store.workflows.stock"

local M = {}

local MAX_QUANTITY = 99   -- of one SKU
local MIN_PAYABLE = 100   -- Razorpay takes no less

-- ---- what it costs: pure -----------------------------------------------------------------------------------

--- The same SKU twice is one line.
-- @return table[]   {sku, quantity}, in the order asked for
local function merge(items)
  local lines, by_sku = {}, {}
  for _, item in ipairs(items) do
    local line = by_sku[item.sku]
    if not line then
      line = { sku = item.sku, quantity = 0 }
      by_sku[item.sku], lines[#lines + 1] = line, line
    end
    line.quantity = line.quantity + item.quantity
  end
  return lines
end

local function refuse(status, code, detail) return nil, { status = status, code = code, detail = detail } end

--- Fills each line from the database's row. Prices come from nowhere else.
-- @return true, or nil and a refusal
local function fill(lines, rows)
  local by_sku = {}
  for _, row in ipairs(rows) do by_sku[row.sku] = row end
  for _, line in ipairs(lines) do
    local row = by_sku[line.sku]
    if not row or not row.is_active then
      return refuse(422, "unknown_sku", ("%s is not for sale."):format(line.sku))
    end
    if line.quantity > MAX_QUANTITY then
      return refuse(422, "quantity_too_large", ("At most %d of %s."):format(MAX_QUANTITY, line.sku))
    end
    if row.track and row.available < line.quantity then
      return refuse(409, "out_of_stock", ("%s: %d left."):format(line.sku, math.max(row.available, 0)))
    end
    line.name, line.variant, line.product_id = row.name, row.options, row.product_id
    line.unit_price_paise, line.gst_rate_bp, line.hsn = row.price_paise, row.gst_rate_bp, row.hsn
    line.image_path, line.fulfillment_partner = row.image_path, row.fulfillment_partner
  end
  return true
end

local function values_of(lines)
  local values, subtotal = {}, 0
  for i, line in ipairs(lines) do
    values[i] = line.unit_price_paise * line.quantity
    subtotal = subtotal + values[i]
  end
  return values, subtotal
end

--- Discount and tax per line, and the totals. Delivery is taxed at the highest rate among the goods.
local function settle_amounts(order, coupon)
  local values, subtotal = values_of(order.lines)
  local same_state = order.place_of_supply == settings.shop_state
  local discount = coupon and coupon.discount_paise or 0
  local shares = gst.spread(discount, values)
  local tax, highest_rate = 0, 0
  for i, line in ipairs(order.lines) do
    local split = gst.split(values[i] - shares[i], line.gst_rate_bp, same_state)
    line.discount_paise, line.taxable_paise = shares[i], split.taxable
    line.cgst_paise, line.sgst_paise, line.igst_paise = split.cgst, split.sgst, split.igst
    tax, highest_rate = tax + split.tax, math.max(highest_rate, line.gst_rate_bp)
  end
  local delivery = coupon and coupon.free_shipping and 0 or shipping.price(subtotal, {
    flat_paise = settings.shipping_flat_paise,
    free_above_paise = settings.shipping_free_above_paise,
  })
  order.subtotal_paise, order.discount_paise, order.shipping_paise = subtotal, discount, delivery
  order.tax_paise = tax + gst.split(delivery, highest_rate, same_state).tax
  order.total_paise = subtotal - discount + delivery
end

-- ---- the statements ----------------------------------------------------------------------------------------

--- The coupon's worth, under its row lock. The count is a statement of its own: it must see what those committed
-- for whom we waited.
local function take_coupon(tx, order)
  local r = tx:all {
    { [[SELECT *, coalesce(starts_at <= now(), true) AS has_started, coalesce(ends_at <= now(), false) AS has_ended
        FROM coupons WHERE code = $1 FOR UPDATE]], order.coupon_code },
    { "SELECT count(*) AS n FROM coupon_redemptions WHERE code = $1 AND lower(email) = lower($2)", order.coupon_code,
      order.email },
  }
  local _, subtotal = values_of(order.lines)
  local coupon, code, detail = coupon_policy.apply(r[1][1], subtotal, r[2][1].n)
  if not coupon then return refuse(422, code, detail) end
  return coupon
end

local function count_coupon(order)
  return { [[
    WITH used AS (UPDATE coupons SET used = used + 1 WHERE code = $1)
    INSERT INTO coupon_redemptions (code, order_id, user_id, email) VALUES ($1, $2::uuid, $3::uuid, $4)]],
    order.coupon_code, order.id, order.user_id or pg.null, order.email }
end

local function insert_order(order)
  return { [[
    WITH o AS (
      INSERT INTO orders (id, order_number, user_id, email, access_token_hash, subtotal_paise, discount_paise,
        shipping_paise, tax_paise, total_paise, coupon_code, shipping_address, place_of_supply, expires_at)
      VALUES ($1::uuid, $2, $3::uuid, $4, decode($5, 'hex'), $6, $7, $8, $9, $10, $11, $12, $13,
        now() + $14::int * interval '1 minute')
      RETURNING id, total_paise),
    e AS (
      INSERT INTO order_events (order_id, type, to_status, actor, data)
      SELECT id, 'order.place', 'pending', 'customer', jsonb_build_object('total_paise', total_paise) FROM o)
    INSERT INTO order_items (order_id, product_id, sku, name, variant, image_path, hsn, unit_price_paise, quantity,
      discount_paise, gst_rate_bp, taxable_paise, cgst_paise, sgst_paise, igst_paise, fulfillment_partner)
    SELECT o.id, l.product_id, l.sku, l.name, l.variant, l.image_path, l.hsn, l.unit_price_paise, l.quantity,
      l.discount_paise, l.gst_rate_bp, l.taxable_paise, l.cgst_paise, l.sgst_paise, l.igst_paise, l.fulfillment_partner
    FROM o, jsonb_to_recordset($15) AS l (product_id bigint, sku text, name text, variant jsonb, image_path text,
      hsn text, unit_price_paise bigint, quantity int, discount_paise bigint, gst_rate_bp int, taxable_paise bigint,
      cgst_paise bigint, sgst_paise bigint, igst_paise bigint, fulfillment_partner text)]],
    order.id, order.number, order.user_id or pg.null, order.email, guest_token.hash(guest_token.of(order.id)),
    order.subtotal_paise, order.discount_paise, order.shipping_paise, order.tax_paise, order.total_paise,
    order.coupon_code or pg.null, pg.jsonb(order.shipping_address), order.place_of_supply,
    settings.payment_minutes, pg.jsonb(order.lines) }
end

-- ---- the answer --------------------------------------------------------------------------------------------

local function describe(order)
  local items = {}
  for i, line in ipairs(order.lines) do
    items[i] = { sku = line.sku, name = line.name, variant = line.variant, quantity = line.quantity,
                 unit_price_paise = line.unit_price_paise }
  end
  return {
    number = order.number, status = order.is_free and "confirmed" or "pending",
    payment_status = order.is_free and "paid" or "unpaid", currency = "INR",
    subtotal_paise = order.subtotal_paise, discount_paise = order.discount_paise,
    shipping_paise = order.shipping_paise, tax_paise = order.tax_paise, total_paise = order.total_paise,
    coupon = order.coupon_code, items = items,
    access_token = guest_token.of(order.id),
  }
end

-- ---- the workflow ------------------------------------------------------------------------------------------

local function refuse_order(refusal) app.fail(refusal.status, refusal.code, refusal.detail) end

local function defer_all(tx, order)
  tx:defer { stock.reserve(order.lines), insert_order(order) }
  if order.coupon_code then tx:defer { count_coupon(order) } end
  if order.is_free then -- there is nothing to wait for
    local by = { actor = "system", data = { amount_paise = 0 } }
    tx:defer(payment_machine:statements("unpaid", order.id, "capture", by))
    tx:defer(order_machine:statements("pending", order.id, "confirm", by))
  end
end

--- A total that nobody can pay is refused while the basket can still be changed; one of nothing is paid.
local function check_total(order)
  if order.total_paise > 0 and order.total_paise < MIN_PAYABLE then
    local detail = "An order comes to nothing or to at least %d paise, not to %d."
    refuse_order { status = 422, code = "total_too_small", detail = detail:format(MIN_PAYABLE, order.total_paise) }
  end
  order.is_free = order.total_paise == 0
end

--- A number that is taken: the sequence is behind the orders, as after a backup was restored. Catches up with them; the
-- order is then placed again, with a number of its own.
local function catch_up(number)
  local highest = pg.value([[
    SELECT order_number FROM orders WHERE order_number LIKE $1 ORDER BY order_number DESC LIMIT 1]],
    number:gsub("%d+$", "") .. "%")
  log.error("an order number was taken: was a backup restored?", { number = number, highest = highest })
  seq.skip_past("order", highest or number)
end

--- Places an order in the caller's transaction.
-- @param tx transaction   of an idempotent route: it commits together with the answer
-- @param request table    {items = {{sku, quantity}}, email, shipping_address, place_of_supply, coupon?, user_id?}
-- @return table           the order as its buyer sees it
-- Yields. Fails with 409 (out_of_stock) and 422; raises what pg raises.
function M.place(tx, request)
  local order = {
    id = crypto.uuid(), lines = merge(request.items), email = request.email,
    shipping_address = request.shipping_address, place_of_supply = request.place_of_supply,
    coupon_code = request.coupon, user_id = request.user_id,
  }
  local ok, refusal = fill(order.lines, tx:query(unpack(stock.lock_and_price(order.lines))))
  if not ok then refuse_order(refusal) end
  local coupon
  if order.coupon_code then
    coupon, refusal = take_coupon(tx, order)
    if not coupon then refuse_order(refusal) end
  end
  settle_amounts(order, coupon)
  check_total(order)
  order.number = seq.next("order")
  tx:on_duplicate("orders_order_number_key", function() catch_up(order.number) end)
  defer_all(tx, order)
  return describe(order)
end

return M
