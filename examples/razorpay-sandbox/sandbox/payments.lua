--- /v1/payments.
local app = require "chowk.app"
local answers = require "sandbox.answers"
local checkout = require "sandbox.checkout"
local world = require "sandbox.world"

local guarded, refusal = answers.guarded, answers.refusal
local routes = app.routes()

routes:get("/payments", guarded(function(req)
  return answers.collection(req, "payments", function() return true end)
end))

-- What expand[] adds is only there when it is asked for.
local DETAILS = {
  upi = function(p) return p.method == "upi" and { vpa = p.vpa, payer_account_type = "bank_account" } or nil end,
  card = function(p)
    return p.method == "card" and { id = "card_SANDBOX0000001", entity = "card", last4 = "1111", network = "Visa",
      type = "debit", international = false } or nil
  end,
}

routes:get("/payments/:id", guarded(function(req)
  local payment = world.get().payments[req.params.id]
  if not payment then return answers.missing() end
  local copy = {}
  for k, v in pairs(payment) do copy[k] = v end
  for name, details in pairs(DETAILS) do
    if answers.expands(req, name) then copy[name] = details(payment) end
  end
  return copy
end))
routes:patch("/payments/:id", answers.patch "payments")

routes:post("/payments/:id/capture", guarded(function(req)
  local payment = world.get().payments[req.params.id]
  if not payment then return answers.missing() end
  local body, problem, field = answers.body(req, { amount = true, currency = true })
  if not body then return refusal(400, problem, field) end
  if payment.status ~= "authorized" then
    return refusal(400, "This payment has already been captured or is not authorized")
  end
  if body.amount ~= payment.amount then
    return refusal(400, "Capture amount must be equal to the amount authorized", "amount")
  end
  checkout.capture(payment)
  return payment
end))

return routes
