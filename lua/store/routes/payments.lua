--- POST /api/payments/verify: what Razorpay's checkout form hands to the browser.
local app = require "chowk.app"
local t = require "chowk.schema"
local payment = require "store.workflows.payment"

local routes = app.routes()

routes:post("/api/payments/verify", {
  summary = "Prove a payment with the checkout's signature", limit = "payments",
  body = t.object {
    razorpay_order_id = t.string { max = 64, pattern = "^[%w_]+$" },
    razorpay_payment_id = t.string { max = 64, pattern = "^[%w_]+$" },
    razorpay_signature = t.string { min = 1, max = 128 },
  },
}, function(req)
  return payment.verify(req:json())
end)

return routes
