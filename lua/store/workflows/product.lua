--- Changing a product.
local pg = require "chowk.pg"
local catalogue = require "store.catalogue"

local M = {}

-- What may change, with the type it is bound as. A NULL parameter leaves the column as it is.
local UPDATE = [[
  UPDATE products SET name = coalesce($2::text, name), description = coalesce($3::text, description),
         price_paise = coalesce($4::bigint, price_paise),
         mrp_paise = CASE WHEN coalesce($5::bigint, mrp_paise) IS NOT NULL   -- never below the price
                     THEN greatest(coalesce($5::bigint, mrp_paise), coalesce($4::bigint, price_paise)) END,
         is_active = coalesce($6::boolean, is_active), updated_at = now()
  WHERE slug = $1 RETURNING slug]]

--- Updates a product; from then on nobody reads the old one.
-- @param slug string  @param fields table {name?, description?, price_paise?, mrp_paise?, is_active?}
-- @return boolean, raw JSON|nil   whether the product exists; its new document, nil when it is no longer active
-- Yields. Raises what pg raises.
function M.update(slug, fields)
  local found = pg.tx(function(tx)
    tx:forget(catalogue.changes(slug))
    return tx:one(UPDATE, slug, fields.name, fields.description, fields.price_paise, fields.mrp_paise, fields.is_active)
  end)
  if not found then return false end
  return true, catalogue.product(slug)
end

return M
