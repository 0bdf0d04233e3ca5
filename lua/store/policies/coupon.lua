--- What a coupon is worth for an order. Pure: the row comes locked from the order's transaction.
local M = {}

local WORTH = {
  percent = function(coupon, subtotal)
    local worth = math.floor(subtotal * coupon.value / 10000)
    return math.min(worth, coupon.max_discount_paise or worth)
  end,
  flat = function(coupon) return coupon.value end,
  free_shipping = function() return 0 end,
}

--- @param coupon row|nil     of `coupons`, with `has_started` and `has_ended` computed by the database's clock
-- @param subtotal integer    paise
-- @param redeemed integer    how often this customer has used it
-- @return table {discount_paise, free_shipping}  or  nil, code, detail
function M.apply(coupon, subtotal, redeemed)
  if not coupon or not coupon.is_active or not coupon.has_started then
    return nil, "coupon_not_found", "There is no such coupon."
  end
  if coupon.has_ended then return nil, "coupon_expired", "This coupon is no longer valid." end
  if subtotal < coupon.min_subtotal_paise then
    return nil, "coupon_minimum", ("This coupon needs a subtotal of %d paise."):format(coupon.min_subtotal_paise)
  end
  if coupon.usage_limit and coupon.used >= coupon.usage_limit then
    return nil, "coupon_used_up", "This coupon has been used up."
  end
  if redeemed >= coupon.per_user_limit then
    return nil, "coupon_already_used", "You have used this coupon already."
  end
  return {
    discount_paise = math.min(WORTH[coupon.kind](coupon, subtotal), subtotal),
    free_shipping = coupon.kind == "free_shipping",
  }
end

return M
