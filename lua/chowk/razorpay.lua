-- Razorpay signatures, with the secrets of the configuration. They return nothing, or raise
-- error{code="bad_signature"}, uncaught a 400. None of these yields.
local core = require "chowk.core.razorpay"
local config = require "chowk.config"
local raise = require "chowk.raise"

local M = {}
local settle = raise.settle

-- One secret, or a list of them, current first.
local function secrets(key)
  local value = config.get(key)
  if type(value) == "table" then return value end
  return { value ~= "" and value or nil }
end

local function text(fn, name, value)
  if type(value) ~= "string" then raise.misuse("razorpay.%s: %s must be a string, got %s", fn, name, type(value)) end
  return value
end

--- Checks the signature that Checkout hands to the browser.
-- @param p table  {order_id=, payment_id=, signature=}; take order_id from your database, not from the client
-- Raises bad_signature; refused when razorpay.key_secret is not set.
function M.verify_checkout(p)
  if type(p) ~= "table" then raise.misuse("razorpay.verify_checkout: expected a table, got %s", type(p)) end
  settle(core.verify_checkout(secrets("razorpay.key_secret"), text("verify_checkout", "order_id", p.order_id),
    text("verify_checkout", "payment_id", p.payment_id), text("verify_checkout", "signature", p.signature)))
end

--- Checks a webhook over its exact bytes.
-- @param raw string  req:body()  @param signature string|nil  req:header("X-Razorpay-Signature")
-- Raises bad_signature, also for a missing signature; refused when razorpay.webhook_secrets is empty.
function M.verify_webhook(raw, signature)
  settle(core.verify_webhook(secrets("razorpay.webhook_secrets"), text("verify_webhook", "raw", raw), signature or ""))
end

return M
