-- Razorpay: signatures, and its API over chowk.http.
--
--   razorpay.verify_checkout{ order_id = ours, payment_id = …, signature = … }     -- nothing, or bad_signature (400)
--   local order = razorpay.orders.create{ amount = 75800, currency = "INR", receipt = "PC2627-000123" }
--   local payment = razorpay.payments.fetch(payment_id)
--   razorpay.refunds.create(payment_id, { amount = 75800, key = refund.idem_key })
--   razorpay.payments.fetch(payment_id, { timeout = "5s" })     -- of the whole call, its repetitions included
--
-- Secrets and the key come from the configuration (razorpay.*). Amounts are integer paise. Calls may be repeated, each
-- in its own way: an order by its receipt, a refund by its key, a capture by asking first. What Razorpay refuses raises
-- razorpay_error with `status`, `reason`, `field`; without an answer it is what chowk.http raises, and the outcome of a
-- create is then unknown until it is repeated: retryable says that it may be. (razorpay.com/docs/api)
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

local function verify(fn, form, p, names)
  if type(p) ~= "table" then raise.misuse("razorpay.%s: expected a table, got %s", fn, type(p)) end
  local parts = {}
  for i, name in ipairs(names) do parts[i] = text(fn, name, p[name]) end
  settle(core.verify_form(secrets "razorpay.key_secret", form, text(fn, "signature", p.signature), unpack(parts)))
end

--- Checks the signature that Checkout hands to the browser. Like all of these it raises bad_signature, or refused when
-- the secret is not configured, and does not yield.
-- @param p table  {order_id=, payment_id=, signature=}; take order_id from your database, not from the client
function M.verify_checkout(p)
  verify("verify_checkout", "checkout", p, { "order_id", "payment_id" })
end

--- Checks the signature of a subscription's checkout.
-- @param p table  {payment_id=, subscription_id=, signature=}; subscription_id from your database
function M.verify_subscription(p)
  verify("verify_subscription", "subscription", p, { "payment_id", "subscription_id" })
end

--- Checks what a payment link's callback brought.
-- @param p table  {payment_link_id=, reference_id= ("" if the link has none), status=, payment_id=, signature=}
function M.verify_payment_link(p)
  verify("verify_payment_link", "payment_link", p, { "payment_link_id", "reference_id", "status", "payment_id" })
end

--- Checks what an invoice's callback brought.
-- @param p table  {invoice_id=, receipt= ("" if it has none), status=, payment_id=, signature=}
function M.verify_invoice(p)
  verify("verify_invoice", "invoice", p, { "invoice_id", "receipt", "status", "payment_id" })
end

--- Checks a webhook over its exact bytes.
-- @param raw string  req:body()  @param signature string|nil  req:header("X-Razorpay-Signature")
-- Raises bad_signature, also for a missing signature; refused when razorpay.webhook_secrets is empty.
function M.verify_webhook(raw, signature)
  settle(core.verify_webhook(secrets "razorpay.webhook_secrets", text("verify_webhook", "raw", raw), signature or ""))
end

-- The API is loaded when it is first named: signatures need no HTTP client.
local API = { orders = true, payments = true, refunds = true }

return setmetatable(M, { __index = function(_, name)
  return API[name] and require("chowk.razorpay_api")[name] or nil
end })
