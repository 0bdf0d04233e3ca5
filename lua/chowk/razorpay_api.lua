-- Razorpay's REST API: orders, payments, refunds. Private; chowk.razorpay hands it out. Every function here yields.
--
-- A call is repeated only after what may pass: no connection, no answer in time, 409 (the same refund is under way),
-- 429 and 5xx; never after another 4xx. What makes a repetition harmless is each call's own:
--   orders.create    the receipt: unique_receipt, and before each repetition (without unique_receipt, before the first
--                    call too) a look whether it is there already
--   refunds.create   X-Refund-Idempotency
--   payments.capture a payment is captured once; before a repetition its status is asked
-- So what is raised when no answer came says retryable = true, but for a create without unique_receipt.
--
-- The last argument of each is options: { timeout = "5s" } bounds the whole of it, repetitions included. Without it
-- each try has razorpay.timeout.
local config = require "chowk.config"
local crypto = require "chowk.crypto"
local http = require "chowk.http"
local raise = require "chowk.raise"
local task = require "chowk.task"
local time = require "chowk.time"
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

local function left_s(request)
  return request.ends_ms and math.max(0.001, (request.ends_ms - time.mono_ms()) / 1000) or math.huge
end

-- One try → the decoded answer. Raises razorpay_error, or what chowk.http raises.
local function try_once(method, path, request)
  local res = http.request {
    method = method, url = config.get "razorpay.url" .. path,
    timeout = math.min(config.get "razorpay.timeout" / 1000, left_s(request)),
    basic = { config.get "razorpay.key_id" or "", config.get "razorpay.key_secret" or "" },
    json = request.json, query = request.query, headers = request.headers, idempotent = request.is_repeatable,
  }
  if res.status >= 200 and res.status < 300 then return res:json() end
  local e = failure_of(res)
  raise.failure("razorpay_error", ("%s %s: %d %s"):format(method, path, e.status, e.description), e)
end

local PASSING = { unavailable = true, timeout = true, bad_response = true }

local function may_pass(err)
  return vm.is_err(err) and (PASSING[err.code] or err.code == "razorpay_error" and err.retryable)
end

-- request: json, query, headers; is_repeatable; ends_ms, when the whole must be over; look, if given, is asked before
-- a repetition: what it returns is the answer.
local function call(method, path, request)
  for attempt = 1, RETRIES + 1 do
    local ok, result = pcall(try_once, method, path, request)
    if ok then return result end
    local pause = attempt <= RETRIES and PAUSES[attempt] * (0.5 + crypto.random(1):byte() / 255)
    if not pause or not may_pass(result) or left_s(request) <= pause then error(result, 0) end
    task.sleep(pause)
    local found = request.look and request.look()
    if found then return found end
  end
end

local OPTIONS = { timeout = true }

-- When a call with these options must be over; nil: when its tries are used up. Calls made for it share the moment.
local function end_of(what, options)
  if options == nil then return nil end
  for name in pairs(options) do
    if not OPTIONS[name] then raise.unknown("razorpay." .. what, name, OPTIONS) end
  end
  return options.timeout and time.mono_ms() + time.seconds(options.timeout) * 1000
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

local function get(path, ends_ms, query) return call("GET", path, { query = query, ends_ms = ends_ms }) end

-- ---- orders -----------------------------------------------------------------------------------------------------

local function by_receipt(receipt, ends_ms)
  for _, order in ipairs(get("/orders", ends_ms, { receipt = receipt, count = 10 }).items) do
    if order.receipt == receipt then return order end -- the newest first
  end
end

--- The order with that receipt; nil: there is none.
function M.orders.by_receipt(receipt, options) return by_receipt(receipt, end_of("orders.by_receipt", options)) end

-- The order, opened or found. A refused receipt is in use: by the call of ours that seemed to fail.
local function open_order(body, ends_ms)
  local function find() return by_receipt(body.receipt, ends_ms) end
  local earlier = not body.unique_receipt and find()
  if earlier then return earlier end
  local ok, order = pcall(call, "POST", "/orders",
    { json = body, ends_ms = ends_ms, look = find, is_repeatable = body.unique_receipt })
  if ok then return order end
  vm.check()
  local is_taken = vm.is_err(order) and order.code == "razorpay_error" and order.message:find("receipt", 1, true)
  return is_taken and find() or error(order, 0)
end

--- Opens an order; with the same receipt it is the same order, however often this is called.
-- @param o table  amount (paise, at least 100), currency ("INR"), receipt (your number, up to 40 characters), notes,
--   payment = { capture = "automatic", … }
-- @return table  Razorpay's order  @raise razorpay_error; invalid: the receipt is another order's (amount, currency)
function M.orders.create(o, options)
  if type(o) ~= "table" then raise.misuse("razorpay.orders.create: expected a table, got %s", type(o)) end
  paise("orders.create", o.amount)
  if type(o.receipt) ~= "string" or #o.receipt < 1 or #o.receipt > 40 then
    raise.misuse("razorpay.orders.create: receipt: expected your order's number, 1 to 40 characters")
  end
  local body = { amount = o.amount, currency = o.currency or "INR", receipt = o.receipt, notes = o.notes,
    payment = o.payment }
  if config.get "razorpay.unique_receipt" then body.unique_receipt = true end
  local order = open_order(body, end_of("orders.create", options))
  if order.amount ~= o.amount or order.currency ~= body.currency then
    raise.failure("invalid", ("razorpay: receipt %s is that of another order: %s %s"):format(o.receipt,
      tostring(order.amount), tostring(order.currency)))
  end
  return order
end

--- One order, and its payments.
function M.orders.fetch(order_id, options)
  return get("/orders/" .. id("orders.fetch", "order", order_id), end_of("orders.fetch", options))
end
function M.orders.payments(order_id, options)
  local path = "/orders/" .. id("orders.payments", "order", order_id) .. "/payments"
  return get(path, end_of("orders.payments", options)).items
end

-- ---- payments ---------------------------------------------------------------------------------------------------

--- One payment, and its refunds.
function M.payments.fetch(payment_id, options)
  return get("/payments/" .. id("payments.fetch", "pay", payment_id), end_of("payments.fetch", options))
end
function M.payments.refunds(payment_id, options)
  local path = "/payments/" .. id("payments.refunds", "pay", payment_id) .. "/refunds"
  return get(path, end_of("payments.refunds", options), { count = 100 }).items
end

--- Captures an authorised payment. A captured one is returned as it is.
-- @param payment_id string  @param amount integer  exactly what was authorised, in paise  @param currency string|nil
-- @return table  the payment
function M.payments.capture(payment_id, amount, currency, options)
  local path = "/payments/" .. id("payments.capture", "pay", payment_id)
  paise("payments.capture", amount)
  local ends_ms = end_of("payments.capture", options)
  local function captured()
    local payment = get(path, ends_ms)
    return payment.status == "captured" and payment or nil
  end
  local body = { amount = amount, currency = currency or "INR" }
  local ok, payment = pcall(call, "POST", path .. "/capture",
    { json = body, is_repeatable = true, ends_ms = ends_ms, look = captured })
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
function M.refunds.create(payment_id, o, options)
  local path = "/payments/" .. id("refunds.create", "pay", payment_id) .. "/refund"
  if type(o) ~= "table" or type(o.key) ~= "string" or #o.key < 10 or o.key:find("[^%w_-]") then
    raise.misuse("razorpay.refunds.create: key: expected 10 characters or more of A-Z a-z 0-9 _ -")
  end
  if o.amount ~= nil then paise("refunds.create", o.amount) end
  return call("POST", path, { headers = { ["X-Refund-Idempotency"] = o.key }, is_repeatable = true,
    ends_ms = end_of("refunds.create", options),
    json = { amount = o.amount, speed = o.speed or "normal", receipt = o.receipt, notes = o.notes } })
end

--- One refund.
function M.refunds.fetch(refund_id, options)
  return get("/refunds/" .. id("refunds.fetch", "rfnd", refund_id), end_of("refunds.fetch", options))
end

return M
