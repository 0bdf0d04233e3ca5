--- Refunds, with the idempotency of X-Refund-Idempotency.
local app = require "chowk.app"
local task = require "chowk.task"
local answers = require "sandbox.answers"
local checkout = require "sandbox.checkout"
local world = require "sandbox.world"

local guarded, refusal = answers.guarded, answers.refusal
local routes = app.routes()

local FIELDS = { amount = true, speed = true, receipt = true, notes = true }

local function check(payment, amount)
  if payment.status == "refunded" then return "The payment has been fully refunded already" end
  if payment.status ~= "captured" then return "The payment status should be captured for action to be taken" end
  if type(amount) ~= "number" or amount % 1 ~= 0 or amount < 100 then
    return "The amount must be atleast INR 1.00"
  end
  if payment.amount_refunded + amount > payment.amount then
    return "The refund amount provided is greater than amount captured"
  end
end

-- What this key did before: the refund, or why there is none to give.
local function earlier(key, fingerprint)
  local entry = key and world.get().refund_keys[key]
  if not entry then return nil end
  if entry.fingerprint ~= fingerprint then
    return refusal(400, "Different request with the same idempotency key has already been processed.")
  end
  if not entry.refund then
    return refusal(409, "Another request with the same idempotency key is still in progress.")
  end
  return entry.refund
end

local function make(payment, body)
  local delay_ms = world.get().behaviour.refund_ms or 0
  if delay_ms > 0 then task.sleep(delay_ms / 1000) end
  local amount = body.amount or payment.amount - payment.amount_refunded
  local problem = check(payment, amount)
  if problem then return nil, problem end
  return checkout.refund(payment, amount, body)
end

routes:post("/payments/:id/refund", guarded(function(req)
  local payment = world.get().payments[req.params.id]
  local body, problem, field = answers.body(req, FIELDS)
  if not body then return refusal(400, problem, field) end
  if not payment then return answers.missing() end
  local key, fingerprint = req:header "X-Refund-Idempotency", req.path .. "\n" .. req:body()
  if key and (#key < 10 or key:find "[^%w_-]") then return refusal(400, "Invalid idempotency key") end
  if key and world.get().refund_keys[key] then return earlier(key, fingerprint) end
  local entry, keys = { fingerprint = fingerprint }, world.get().refund_keys
  if key then keys[key] = entry end
  entry.refund, problem = make(payment, body)
  if entry.refund then return entry.refund end
  if key then keys[key] = nil end
  return refusal(400, problem, "amount")
end))

local function find(req, id)
  local refund = world.get().refunds[id]
  if not refund or req.params.rid and refund.payment_id ~= req.params.id then return answers.missing() end
  return refund
end

routes:get("/refunds", guarded(function(req)
  return answers.collection(req, "refunds", function() return true end)
end))
routes:get("/refunds/:id", guarded(function(req) return find(req, req.params.id) end))
routes:patch("/refunds/:id", answers.patch "refunds")
routes:get("/payments/:id/refunds", guarded(function(req)
  return answers.collection(req, "refunds", function(r) return r.payment_id == req.params.id end)
end))
routes:get("/payments/:id/refunds/:rid", guarded(function(req) return find(req, req.params.rid) end))

return routes
