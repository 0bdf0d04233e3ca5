--- Stock under row locks. Rows are locked in SKU order by everyone, so two orders never wait for each other in a ring;
-- SKUs printed on demand (track = false) are neither locked nor written. Reserved pieces stay in on_hand until shipped.
local pg = require "chowk.pg"

local M = {}

local function columns(lines)
  local skus, quantities = {}, {}
  for i, line in ipairs(lines) do skus[i], quantities[i] = line.sku, line.quantity end
  return pg.array(skus, "text"), pg.array(quantities, "int")
end

--- Statement: locks the tracked SKUs and reads all of them with their product: price, tax, what is left.
-- The CTE's values are those of the locked row, not of the snapshot: what others reserved while we waited is seen.
-- @param lines table[] {sku, quantity}   each SKU once
function M.lock_and_price(lines)
  local skus = columns(lines)
  return { [[
    WITH l AS MATERIALIZED (
      SELECT sku, on_hand - reserved AS available FROM inventory
      WHERE sku = ANY ($1::text[]) AND track ORDER BY sku FOR UPDATE)
    SELECT v.sku, v.options, v.track, coalesce(l.available, 0) AS available,
           p.price_paise + v.extra_paise AS price_paise, p.id AS product_id, p.name, p.hsn, p.gst_rate_bp,
           p.fulfillment_partner, p.is_active,
           (SELECT storage_path FROM product_images i WHERE i.product_id = p.id ORDER BY position LIMIT 1) AS image_path
    FROM inventory v JOIN products p ON p.id = v.product_id LEFT JOIN l ON l.sku = v.sku
    WHERE v.sku = ANY ($1::text[])]], skus }
end

--- Statement: reserves pieces of SKUs locked before. The table's CHECK refuses what a mistake would oversell.
function M.reserve(lines)
  local skus, quantities = columns(lines)
  return { [[
    UPDATE inventory v SET reserved = v.reserved + w.quantity
    FROM unnest($1::text[], $2::int[]) AS w (sku, quantity) WHERE v.sku = w.sku AND v.track]], skus, quantities }
end

local function update(set)
  return [[
    WITH l AS MATERIALIZED (
      SELECT sku FROM inventory
      WHERE track AND sku IN (SELECT sku FROM order_items WHERE order_id = $1::uuid) ORDER BY sku FOR UPDATE),
    w AS (SELECT sku, sum(quantity)::int AS quantity FROM order_items WHERE order_id = $1::uuid GROUP BY sku)
    UPDATE inventory v SET ]] .. set .. [[ FROM l JOIN w ON w.sku = l.sku WHERE v.sku = l.sku]]
end

local RELEASE = update "reserved = greatest(v.reserved - w.quantity, 0)"
local SHIP = update "on_hand = greatest(v.on_hand - w.quantity, 0), reserved = greatest(v.reserved - w.quantity, 0)"
local RESTOCK = update "on_hand = v.on_hand + w.quantity"

--- Statement: gives an order's reserved pieces back.
function M.release(order_id) return { RELEASE, order_id } end

--- Statement: an order's reserved pieces leave the house.
function M.ship(order_id) return { SHIP, order_id } end

--- Statement: they are back, and can be sold again.
function M.restock(order_id) return { RESTOCK, order_id } end

--- Takes an order's pieces again after they were given back (a payment that came too late).
-- @return boolean  false when something is sold out; nothing is taken then. Yields.
function M.retake(tx, order_id)
  local lines = tx:query([[
    WITH l AS MATERIALIZED (
      SELECT sku, on_hand - reserved AS available FROM inventory
      WHERE track AND sku IN (SELECT sku FROM order_items WHERE order_id = $1) ORDER BY sku FOR UPDATE)
    SELECT l.sku, l.available, sum(o.quantity)::int AS quantity
    FROM l JOIN order_items o ON o.sku = l.sku AND o.order_id = $1 GROUP BY l.sku, l.available]], order_id)
  for _, line in ipairs(lines) do
    if line.available < line.quantity then return false end
  end
  if #lines > 0 then tx:all { M.reserve(lines) } end
  return true
end

return M
