--- What delivery costs.
local M = {}

--- @param subtotal integer  paise, before discounts
-- @param tariff table       {flat_paise, free_above_paise}
-- @return integer           paise, GST included
function M.price(subtotal, tariff)
  if subtotal >= tariff.free_above_paise then return 0 end
  return tariff.flat_paise
end

return M
