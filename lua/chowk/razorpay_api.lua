-- Razorpay's REST API: orders, payments, refunds. Private; chowk.razorpay hands it out. Every function here yields.
--
-- A call is repeated only after what may pass: no connection, no answer in time, 409 (the same refund is under way),
-- 429 and 5xx; never after another 4xx. What makes a repetition harmless is each call's own:
--   orders.create    the receipt: unique_receipt, and before each repetition a look whether it is there already
--   refunds.create   X-Refund-Idempotency
--   payments.capture a payment is captured once; before a repetition its status is asked
local config = require "chowk.config"
local crypto = require "chowk.crypto"
local http = require "chowk.http"
local raise = require "chowk.raise"
local task = require "chowk.task"
local vm = require "chowk.core.vm"

local M = { orders = {}, payments = {}, refunds = {} }

local RETRIES = 3
local PAUSES = { 0.2, 0.8, 2 } -- seconds, with jitter

-- ---- a call -----------------------------------------------------------------------------------------------------

local function failure_of(res)
  local body = raise.try(res.json, res)
  local e = type(body) == "table" and type(body.error) == "table" and body.error or {}
  local description = type(e.description) == "string" and e.description or "no description"
  return { status = res.status, reason = e.reason, field = e.field, razorpay_code = e.code,
    retryable = res.status == 409 or res.status == 429 or res.status >= 500, description = description }
end

-- One try → the decoded answer. Raises razorpay_error, or what chowk.http raises.
local function try_once(method, path, options)
  local res = http.request {
    method = method, url = config.get "razorpay.url" .. path, timeout = config.get "razorpay.timeout" / 1000,
    basic = { config.get "razorpay.key_id" or "", config.get "razorpay.key_secret" or "" },
    json = options.json, query = options.query, headers = options.headers,
  }
  if res.status >= 200 and res.status < 300 then return res:json() end
  local e = failure_of(res)
  raise.failure("razorpay_error", ("%s %s: %d %s"):format(method, path, e.status, e.description), e)
end

local PASSING = { unavailable = true, timeout = true, bad_response = true }

local function may_pass(err)
  return vm.is_err(err) and (PASSING[err.code] or err.code == "razorpay_error" and err.retryable)
end

local function pause(attempt)
  task.sleep(PAUSES[attempt] * (0.5 + crypto.random(1):byte() / 255))
end

-- `look`, if given, is asked before a repetition: what it returns is the answer.
local function call(method, path, options, look)
  for attempt = 1, RETRIES + 1 do
    local ok, result = pcall(try_once, method, path, options)
    if ok then return result end
    if attempt > RETRIES or not may_pass(result) then error(result, 0) end
    pause(attempt)
    local found = look and look(result)
    if found then return found end
  end
end

local function id(what, prefix, value)
  if type(value) ~= "string" or not value:find("^" .. prefix .. "_%w+$") or #value > 64 then
    raise.misuse("razorpay.%s: expected an id such as %s_…, got %s", what, prefix, tostring(value))
  end
  return value
end

local function paise(what, value)
  if type(value) ~= "number" or value % 1 ~= 0 or value < 1 then
    raise.misuse("razorpay.%s: amount: expected whole paise, got %s", what, tostring(value))
  end
  return value
end

local function get(path, query) return call("GET", path, { query = query }) end

-- ---- orders -----------------------------------------------------------------------------------------------------

--- The order with that receipt; nil: there is none.
function M.orders.by_receipt(receipt)
  for _, order in ipairs(get("/orders", { receipt = receipt, count = 10 }).items) do
    if order.receipt == receipt then return order end -- the newest first
  end
end

--- Opens an order; with the same receipt it is the same order, however often this is called.
-- @param o table  amount (paise, at least 100), currency ("INR"), receipt (your number, up to 40 characters), notes,
--   payment = { capture = "automatic", … }
-- @return table  Razorpay's order  @raise razorpay_error; invalid: the receipt is another order's (amount, currency)
function M.orders.create(o)
  if type(o) ~= "table" then raise.misuse("razorpay.orders.create: expected a table, got %s", type(o)) end
  paise("orders.create", o.amount)
  if type(o.receipt) ~= "string" or #o.receipt < 1 or #o.receipt > 40 then
    raise.misuse("razorpay.orders.create: receipt: expected your order's number, 1 to 40 characters")
  end
  local body = { amount = o.amount, currency = o.currency or "INR", receipt = o.receipt, notes = o.notes,
    payment = o.payment }
  if config.get "razorpay.unique_receipt" then body.unique_receipt = true end
  local function find() return M.orders.by_receipt(o.receipt) end
  local ok, order = pcall(call, "POST", "/orders", { json = body }, find)
  if not ok then
    vm.check()
    local is_taken = vm.is_err(order) and order.code == "razorpay_error" and order.message:find("receipt", 1, true)
    local found = is_taken and find()
    if not found then error(order, 0) end
    order = found
  end
  if order.amount ~= o.amount or order.currency ~= body.currency then
    raise.failure("invalid", ("razorpay: receipt %s is that of another order: %s %s"):format(o.receipt,
      tostring(order.amount), tostring(order.currency)))
  end
  return order
end

--- One order, and its payments.
function M.orders.fetch(order_id) return get("/orders/" .. id("orders.fetch", "order", order_id)) end
function M.orders.payments(order_id)
  return get("/orders/" .. id("orders.payments", "order", order_id) .. "/payments").items
end

-- ---- payments ---------------------------------------------------------------------------------------------------

--- One payment.
function M.payments.fetch(payment_id) return get("/payments/" .. id("payments.fetch", "pay", payment_id)) end

--- Captures an authorised payment. A captured one is returned as it is.
-- @param payment_id string  @param amount integer  exactly what was authorised, in paise  @param currency string|nil
-- @return table  the payment
function M.payments.capture(payment_id, amount, currency)
  local path = "/payments/" .. id("payments.capture", "pay", payment_id)
  paise("payments.capture", amount)
  local function captured()
    local payment = get(path)
    return payment.status == "captured" and payment or nil
  end
  local ok, payment = pcall(call, "POST", path .. "/capture",
    { json = { amount = amount, currency = currency or "INR" } }, captured)
  if ok then return payment end
  vm.check()
  local is_refused = vm.is_err(payment) and payment.code == "razorpay_error" and payment.status == 400
  return is_refused and captured() or error(payment, 0)
end

-- ---- refunds ----------------------------------------------------------------------------------------------------

--- Refunds a payment; with the same key and the same content it is the same refund, however often this is called.
-- @param payment_id string
-- @param o table  key (10 characters or more of A-Za-z0-9_-, stored with the refund before the first call), amount
--   (paise; nil: all), speed ("normal" | "optimum"), receipt, notes
-- @return table  Razorpay's refund
function M.refunds.create(payment_id, o)
  local path = "/payments/" .. id("refunds.create", "pay", payment_id) .. "/refund"
  if type(o) ~= "table" or type(o.key) ~= "string" or #o.key < 10 or o.key:find("[^%w_-]") then
    raise.misuse("razorpay.refunds.create: key: expected 10 characters or more of A-Z a-z 0-9 _ -")
  end
  if o.amount ~= nil then paise("refunds.create", o.amount) end
  return call("POST", path, { headers = { ["X-Refund-Idempotency"] = o.key },
    json = { amount = o.amount, speed = o.speed or "normal", receipt = o.receipt, notes = o.notes } })
end

--- One refund.
function M.refunds.fetch(refund_id) return get("/refunds/" .. id("refunds.fetch", "rfnd", refund_id)) end

return M
