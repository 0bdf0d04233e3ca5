--- /v1: what Razorpay documents of orders, payments and refunds, with the envelope of its errors.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local settings = require "chowk.config".settings
local task = require "chowk.task"
local checkout = require "sandbox.checkout"
local world = require "sandbox.world"

local routes = app.routes()

-- ---- answers ------------------------------------------------------------------------------------------------

local function refusal(status, description, field)
  return status, { error = {
    code = status >= 500 and "SERVER_ERROR" or "BAD_REQUEST_ERROR", description = description,
    source = "business", step = "payment_initiation", reason = "input_validation_failed",
    metadata = {}, field = field or json.null,
  } }
end

local function collection(items)
  return { entity = "collection", count = #items, items = json.array(items) }
end

local function missing() return refusal(400, "The id provided does not exist") end

-- ---- faults that were asked for -----------------------------------------------------------------------------

local HANG_S = 100

local function next_fault(req)
  local fault = world.get().behaviour.fail
  if not fault or fault.times < 1 or not req.path:find(fault.path, 1, true) then return nil end
  fault.times = fault.times - 1
  return fault.how
end

local function is_authorized(req)
  local expected = "Basic " .. crypto.base64(settings.key_id .. ":" .. settings.key_secret)
  return crypto.equal(req:header "Authorization" or "", expected)
end

local function answer_late(...)
  task.sleep(HANG_S)
  return ...
end

-- Every handler behind authentication and the faults of the day.
local function guarded(handler)
  return function(req)
    if not is_authorized(req) then return refusal(401, "Authentication failed") end
    local how = next_fault(req)
    if how == "500" then return refusal(500, "We are facing some trouble completing your request at the moment.") end
    if how == "429" then return refusal(429, "Too many requests") end
    if how == "hang" then return answer_late(refusal(504, "too late")) end
    if how == "lost" then return answer_late(handler(req)) end
    return handler(req)
  end
end

-- ---- orders -------------------------------------------------------------------------------------------------

local FIELDS = { amount = true, currency = true, receipt = true, notes = true, partial_payment = true, payment = true,
  unique_receipt = true, first_payment_min_amount = true, customer_id = true, method = true, offer_id = true,
  payment_capture = true }

local function check_order(body)
  if type(body) ~= "table" then return "The request body is not a JSON object." end
  for name in pairs(body) do
    if not FIELDS[name] then return name .. " is/are not required and should not be sent", name end
  end
  if body.amount == nil then return "amount: is required.", "amount" end
  if type(body.amount) ~= "number" or body.amount % 1 ~= 0 then return "The amount must be an integer.", "amount" end
  if body.amount < 100 then return "The amount must be at least INR 1.00", "amount" end
  if body.currency ~= "INR" then return "The currency is not supported.", "currency" end
  if body.receipt and #tostring(body.receipt) > 40 then
    return "The receipt may not be greater than 40 characters.", "receipt"
  end
end

routes:post("/orders", guarded(function(req)
  local body = req:json()
  local problem, field = check_order(body)
  if problem then return refusal(400, problem, field) end
  local earlier = body.receipt and world.get().by_receipt[body.receipt]
  if earlier and body.unique_receipt then return earlier end
  local order = world.put("orders", {
    id = world.id "order", entity = "order", amount = body.amount, amount_paid = 0, amount_due = body.amount,
    currency = body.currency, receipt = body.receipt or json.null, offer_id = json.null, status = "created",
    attempts = 0, notes = body.notes or json.array {}, created_at = world.now(),
  })
  if body.receipt then world.get().by_receipt[body.receipt] = order end
  return order
end))

routes:get("/orders", guarded(function(req)
  local receipt = req.query.receipt
  return collection(world.find("orders", function(order) return not receipt or order.receipt == receipt end))
end))

routes:get("/orders/:id", guarded(function(req)
  local order = world.get().orders[req.params.id]
  if not order then return missing() end
  return order
end))

routes:get("/orders/:id/payments", guarded(function(req)
  return collection(world.find("payments", function(p) return p.order_id == req.params.id end))
end))

-- ---- payments -----------------------------------------------------------------------------------------------

routes:get("/payments", guarded(function() return collection(world.find("payments", function() return true end)) end))

routes:get("/payments/:id", guarded(function(req)
  local payment = world.get().payments[req.params.id]
  if not payment then return missing() end
  return payment
end))

routes:post("/payments/:id/capture", guarded(function(req)
  local payment, body = world.get().payments[req.params.id], req:json()
  if not payment then return missing() end
  if payment.status ~= "authorized" then
    return refusal(400, "This payment has already been captured or is not authorized")
  end
  if body.amount ~= payment.amount then
    return refusal(400, "Capture amount must be equal to the amount authorized", "amount")
  end
  checkout.capture(payment)
  return payment
end))

-- ---- refunds ------------------------------------------------------------------------------------------------

local function check_refund(payment, amount)
  if payment.status == "refunded" then return "The payment has been fully refunded already" end
  if payment.status ~= "captured" then return "The payment status should be captured for action to be taken" end
  if type(amount) ~= "number" or amount % 1 ~= 0 or amount < 100 then
    return "The amount must be atleast INR 1.00"
  end
  if payment.amount_refunded + amount > payment.amount then
    return "The refund amount provided is greater than amount captured"
  end
end

-- The refund that this key made: or what is wrong with asking again.
local function earlier_refund(key, fingerprint)
  local earlier = key and world.get().refund_keys[key]
  if not earlier then return nil end
  if earlier.fingerprint ~= fingerprint then
    return nil, "Different request with the same idempotency key has already been processed."
  end
  return earlier.refund
end

routes:post("/payments/:id/refund", guarded(function(req)
  local payment = world.get().payments[req.params.id]
  local body = #req:body() > 0 and req:json() or {}
  if not payment then return missing() end
  local key, fingerprint = req:header "X-Refund-Idempotency", req.path .. "\n" .. req:body()
  if key and (#key < 10 or key:find "[^%w_-]") then return refusal(400, "Invalid idempotency key") end
  local earlier, mismatch = earlier_refund(key, fingerprint)
  if earlier then return earlier end
  if mismatch then return refusal(400, mismatch) end
  local amount = body.amount or payment.amount - payment.amount_refunded
  local problem = check_refund(payment, amount)
  if problem then return refusal(400, problem, "amount") end
  local refund = checkout.refund(payment, amount, body)
  if key then world.get().refund_keys[key] = { fingerprint = fingerprint, refund = refund } end
  return refund
end))

routes:get("/refunds/:id", guarded(function(req)
  local refund = world.get().refunds[req.params.id]
  if not refund then return missing() end
  return refund
end))

routes:get("/payments/:id/refunds", guarded(function(req)
  return collection(world.find("refunds", function(r) return r.payment_id == req.params.id end))
end))

return routes
