--- The count of a coupon's uses, for orders that are given up or come back. Statements; the order's row is locked.
local M = {}

--- The order's use is taken back, if it counts.
function M.give_back(order_id)
  return { [[
    WITH gone AS (DELETE FROM coupon_redemptions WHERE order_id = $1::uuid RETURNING code)
    UPDATE coupons SET used = greatest(used - 1, 0) WHERE code IN (SELECT code FROM gone)]], order_id }
end

--- The order's use counts again. It is granted whatever the limit says by now: the customer has paid that price.
function M.take_again(order_id)
  return { [[
    WITH o AS (
      SELECT o.id, c.code, o.user_id, o.email FROM orders o JOIN coupons c ON c.code = o.coupon_code
      WHERE o.id = $1::uuid AND NOT EXISTS (SELECT FROM coupon_redemptions r WHERE r.order_id = o.id)),
    counted AS (
      UPDATE coupons c SET used = c.used + 1 FROM o
      WHERE c.code = o.code AND (c.usage_limit IS NULL OR c.used < c.usage_limit))
    INSERT INTO coupon_redemptions (order_id, code, user_id, email) SELECT id, code, user_id, email FROM o]], order_id }
end

return M
