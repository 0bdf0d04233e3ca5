--- The shop's settings (conf/chowk.lua, `settings`), read once while loading: a missing one stops the start, by name.
local config = require "chowk.config"

local given = config.settings

local function unless_empty(text)
  if text ~= "" then return text end
end

return {
  shop_name = given.shop.name,
  shop_state = given.shop.state,
  payment_minutes = given.orders.payment_minutes,
  authorized_days = given.orders.authorized_days,
  -- Razorpay's key is secret, too, and always there where money is taken: it will do until there is one for this.
  token_secret = unless_empty(given.orders.token_secret) or config.get("razorpay.key_secret"),
  shipping_flat_paise = given.shipping.flat_paise,
  shipping_free_above_paise = given.shipping.free_above_paise,
  razorpay_account = unless_empty(given.razorpay_account),
  admin_token = unless_empty(given.admin_token),
  jwt_secret = unless_empty(given.auth.jwt_secret),
}
