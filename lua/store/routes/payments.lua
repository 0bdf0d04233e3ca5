--- POST /api/payments/verify: what Razorpay's checkout form hands to the browser.
local app = require "chowk.app"
local log = require "chowk.log"
local t = require "chowk.schema"
local buyer = require "store.buyer"
local payment = require "store.workflows.payment"
local settlement = require "store.workflows.settlement"

local routes = app.routes()

local CONFIRM_S = 4   -- so long a customer waits for Razorpay; after that the webhook or a job says that it is paid

routes:post("/api/payments/verify", {
  summary = "Prove a payment with the checkout's signature", limit = "payments",
  auth = buyer.anybody,   -- whose tries are counted
  body = t.object {
    razorpay_order_id = t.string { max = 64, pattern = "^[%w_]+$" },
    razorpay_payment_id = t.string { max = 64, pattern = "^[%w_]+$" },
    razorpay_signature = t.string { min = 1, max = 128 },
  },
}, function(req)
  local proof = req:json()
  local answer = payment.verify(proof)
  if answer.payment_status ~= "authorized" then return answer end
  -- The signature proves that the bank said yes, not that we have the money: Razorpay says so now, or a webhook later.
  local now, err = try(settlement.settle, proof.razorpay_payment_id, CONFIRM_S)
  if err then
    log.warn("a payment waits for its webhook", { payment = proof.razorpay_payment_id, error = err.message })
  end
  if now then answer.status, answer.payment_status = now.status, now.payment_status end
  return answer
end)

--- Opens the order at Razorpay: what Checkout needs. The same answer however often it is asked.
routes:post("/api/orders/:number/payment", {
  summary = "Open a payment for an order, for its buyer", limit = "order_payments", deadline = "45s",
  auth = buyer.owner, params = { number = t.string { max = 64 } },
}, function(req)
  local opened, why = settlement.open(req.params.number, req.user)
  if why then app.fail(409, "nothing_to_pay", "The order is " .. why .. ".") end
  return opened or app.fail(404, "order_not_found", "There is no such order.")
end)

return routes
