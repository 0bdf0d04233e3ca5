--- The token with which a guest reads an order back: HMAC(secret, order id). Being derived it need not be stored, not
-- even in the answer kept for replays; the order keeps its hash, so that a database dump opens nothing.
local crypto = require "chowk.crypto"
local settings = require "store.settings"

local M = {}

--- @param order_id string  the order's uuid   @return string  43 characters, URL-safe
function M.of(order_id)
  if not settings.token_secret then error("guests' orders need ORDER_TOKEN_SECRET or RAZORPAY_KEY_SECRET") end
  return crypto.base64url(crypto.hmac_sha256(settings.token_secret, "guest-order:" .. order_id))
end

--- @return string  hex, as stored in orders.access_token_hash
function M.hash(token)
  return crypto.hex(crypto.sha256(token))
end

--- The hash of the token in `Authorization: Order <token>`, or nil.
function M.hash_from(req)
  local token = (req:header("Authorization") or ""):match("^[Oo]rder ([%w_-]+)$")
  return token and M.hash(token)
end

return M
