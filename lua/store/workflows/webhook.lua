--- Razorpay's webhooks: stored first, applied once, by a job.
--
-- `store` commits the signed bytes together with the job that applies them, and only then is the sender told 200. The
-- job locks the stored row, so however many copies arrive and however often it runs, an event is applied once. What is
-- not possible yet, and what fails, be it by a bug of ours, is tried again, later each time, and holds up no other
-- event; of an order or a payment that we do not know Razorpay is asked. What cannot be right (a wrong amount, a
-- payment without one, a value that the database refuses) is parked for a human, with the reason: `chowk webhook list`.
local config = require "chowk.config"
local crypto = require "chowk.crypto"
local jobs = require "chowk.jobs"
local json = require "chowk.json"
local log = require "chowk.log"
local pg = require "chowk.pg"
local payment = require "store.workflows.payment"
local refund = require "store.workflows.refund"
local settings = require "store.settings"
local settlement = require "store.workflows.settlement"

local M = {}

M.JOB = "webhook.apply" -- defined in store/jobs.lua

local MAX_ATTEMPTS = 20   -- with the doubling below: about half a day

-- Razorpay writes null for what is not there.
local function present(value)
  if value == json.null then return nil end
  return value
end

local function entity(event, name)
  local box = type(event.payload) == "table" and event.payload[name]
  local it = type(box) == "table" and box.entity
  return type(it) == "table" and it or nil
end

local MAX_ID = 64

local function is_id(value) return type(value) == "string" and #value <= MAX_ID and value:find("^[%w_-]+$") ~= nil end

local function is_paise(value) return type(value) == "number" and value >= 0 and value < 1e14 and value % 1 == 0 end

local function text(value) return type(value) == "string" and value or nil end

-- ---- storing -----------------------------------------------------------------------------------------------

local STORE = [[
  INSERT INTO webhook_events (event_id, event, account_id, payload, raw, event_created_at)
  VALUES ($1, $2, $3, $4::jsonb, convert_to($5::text, 'UTF8'), to_timestamp($6::float8))
  ON CONFLICT (event_id) DO NOTHING]]

local YEAR_9999 = 253402300800

-- PostgreSQL's text and jsonb have no \u0000; the signed bytes keep it.
local function without_nul(raw) return (raw:gsub("\\u0000", "\\ufffd")) end

local function insert(tx, event_id, event, raw)
  local payload = without_nul(raw)
  local account, at = event.account_id, event.created_at
  return tx:exec(STORE, event_id, event.event, is_id(account) and account or pg.null, payload, raw,
    type(at) == "number" and at >= 0 and at < YEAR_9999 and at or pg.null)
end

-- → the id under which it was stored, or nil: it is there
local function store(tx, event_id, event, raw)
  local by_content = "sha256:" .. crypto.hex(crypto.sha256(raw))
  if is_id(event_id) then
    if insert(tx, event_id, event, raw) == 1 then return event_id end
    -- The id is outside the signature: other bytes under a known id are another event, not a duplicate.
    local same = tx:value("SELECT raw = convert_to($2::text, 'UTF8') FROM webhook_events WHERE event_id = $1",
      event_id, raw)
    if same then return nil end
  end
  return insert(tx, by_content, event, raw) == 1 and by_content or nil
end

--- Stores a verified webhook, and enqueues what applies it.
-- @param event_id string|nil  X-Razorpay-Event-Id; anything that is not one counts as missing
-- @param event table  the decoded body, `event` being a name   @param raw string
-- @return boolean             false if this very event is stored already
-- Yields; returns after the commit. Raises what pg raises.
function M.store(event_id, event, raw)
  return pg.tx(function(tx)
    local id = store(tx, event_id, event, raw)
    if id then tx:commit { jobs.statement(M.JOB, { event_id = id }) } end
    return id ~= nil
  end)
end

-- ---- applying ----------------------------------------------------------------------------------------------

-- Why an event cannot be applied, as handlers return it behind nil:
-- @param options table|nil  is_final: trying again is pointless; order_id, payment_id: Razorpay may know it
local function refuse(reason, options)
  local refusal = options or {}
  refusal.reason = reason
  return nil, refusal
end

local function news_of(p, status)
  return {
    payment_id = p.id,
    status = status,
    amount_paise = p.amount,
    currency = p.currency,
    method = text(p.method),
    fee_paise = is_paise(p.fee) and p.fee or nil,
    tax_paise = is_paise(p.tax) and p.tax or nil,
    error_code = text(p.error_code),
    error_reason = text(p.error_reason),
    raw = p,
    actor = "razorpay",
  }
end

--- Locks the order a payment was made for. An order opened with Razorpay just before a crash may not know its
-- Razorpay id yet; its receipt is our number, its amount ours.
-- @param opened table|nil  Razorpay's order, if the event has it
local function lock_order(tx, razorpay_order_id, opened)
  if opened and is_id(opened.receipt) and is_paise(opened.amount) and text(opened.currency) then
    tx:exec(settlement.ADOPT, razorpay_order_id, opened.receipt, opened.amount, opened.currency)
  end
  return razorpay_order_id and tx:all { payment.lock_order(razorpay_order_id) }[1][1]
end

local function on_payment(status)
  return function(tx, event)
    local p, o = entity(event, "payment"), entity(event, "order")
    local order_id = p and present(p.order_id)
    if not order_id then return {} end   -- not made for an order of a shop
    if not is_id(order_id) or not is_id(p.id) or not is_paise(p.amount) or not text(p.currency) then
      return refuse("not a payment: it lacks an id, an amount or a currency", { is_final = true })
    end
    local order = lock_order(tx, order_id, o)
    if not order then return refuse("unknown order " .. order_id, { order_id = order_id }) end
    local known = tx:all { payment.known(p.id) }[1][1]
    local now, last = payment.decide(tx, order, known, news_of(p, status))
    if not now then return refuse(last, { is_final = true }) end
    return last
  end
end

local function on_refund(name)
  return function(tx, event)
    local r, p = entity(event, "refund"), entity(event, "payment")
    if not r then return {} end
    if not is_id(r.id) or not is_id(r.payment_id) or not is_paise(r.amount) then
      return refuse("not a refund: it lacks an id, a payment or an amount", { is_final = true })
    end
    local order_id = p and is_id(p.order_id) and p.order_id or refund.order_of(tx, r.payment_id)
    local order = lock_order(tx, order_id)
    if not order then
      return refuse("refund for an unknown payment " .. r.payment_id, { payment_id = r.payment_id })
    end
    local arn = type(r.acquirer_data) == "table" and text(r.acquirer_data.arn) or nil
    local last, why = refund.decide(tx, order, { id = r.id, payment_id = r.payment_id, amount_paise = r.amount,
      arn = arn }, name)
    if not last then return refuse(why, { payment_id = r.payment_id }) end
    return last
  end
end

-- Events without a row here are kept and marked as done.
local HANDLERS = {
  ["payment.authorized"] = on_payment("authorized"),
  ["payment.captured"] = on_payment("captured"),
  ["payment.failed"] = on_payment("failed"),
  ["order.paid"] = on_payment("captured"),
  ["refund.created"] = on_refund("created"),
  ["refund.processed"] = on_refund("processed"),
  ["refund.failed"] = on_refund("failed"),
}

--- @return the statements that apply the event; or nil, and why not
local function handle(tx, stored)
  local account = settings.razorpay_account
  if account and stored.account_id ~= account then
    return refuse("another account: " .. tostring(stored.account_id), { is_final = true })
  end
  local handler = HANDLERS[stored.event]
  if not handler then return {} end
  return handler(tx, json.decode(without_nul(stored.raw)))
end

local FIND = [[
  SELECT event, account_id, convert_from(raw, 'UTF8') AS raw, attempts FROM webhook_events
  WHERE event_id = $1 AND processed_at IS NULL FOR UPDATE]]
local DONE = [[
  UPDATE webhook_events SET processed_at = now(), attempts = attempts + 1, last_error = NULL WHERE event_id = $1]]
local FAILED = [[
  UPDATE webhook_events SET attempts = attempts + 1, last_error = $2,
    next_attempt_at = CASE WHEN $3::boolean THEN 'infinity' ELSE now() + $4::float8 * interval '1 second' END
  WHERE event_id = $1 AND processed_at IS NULL]]

local function delay_after(attempts) return math.min(2 ^ attempts, 3600) end

local function may_ask(refusal)
  return (refusal.order_id or refusal.payment_id) and config.get "payments.confirm" == "fetch"
end

--- @param is_asked boolean  Razorpay knew no more
-- @return nil: applied, or there was nothing to apply; or the refusal, and seconds until the next try (nil: never)
local function decide(tx, event_id, is_asked)
  local stored = tx:one(FIND, event_id)
  if not stored then return nil end
  local last, refusal = handle(tx, stored)
  if last then
    last[#last + 1] = { DONE, event_id }
    tx:commit(last)
    return nil
  end
  if may_ask(refusal) and not is_asked then return refusal end
  local is_final = refusal.is_final or is_asked or stored.attempts + 1 >= MAX_ATTEMPTS
  local delay = not is_final and delay_after(stored.attempts) or nil
  tx:commit { { FAILED, event_id, refusal.reason, is_final, delay or 0 } }
  return refusal, delay
end

local ASK_S = 15

-- Asks Razorpay, outside the transaction, for what an event presupposes.
local function learn(refusal)
  local _, err
  if refusal.payment_id then
    _, err = try(settlement.settle, refusal.payment_id, ASK_S)
  else
    _, err = try(settlement.adopt, refusal.order_id)
  end
  -- As text: however final it calls itself, the event waits for a better day.
  if err and not settlement.is_unknown(err) then error("Razorpay cannot be asked: " .. err.message, 0) end
end

local function apply(event_id)
  local refusal, delay = pg.tx(function(tx) return decide(tx, event_id, false) end)
  if not refusal or delay or not may_ask(refusal) then return refusal, delay end
  learn(refusal)
  return pg.tx(function(tx) return decide(tx, event_id, true) end)
end

-- What PostgreSQL says of the event's own values, it says every time.
local function is_refused(err)
  local class = type(err) == "table" and type(err.sqlstate) == "string" and err.sqlstate:sub(1, 2)
  return class == "22" or class == "23"
end

-- A bug or an outage: the job comes back; the event shows it as well, as far as that is possible.
local function note_failure(event_id, err, is_last)
  local message = tostring(err):gsub("[^\32-\126]", "?"):sub(1, 500)
  try(pg.exec, FAILED, event_id, message, is_last, 60)
end

--- Applies a stored webhook, unless it has been applied. For the job.
-- @param is_last boolean  the job will not come back if this raises
-- @return number|nil  seconds after which to try again
-- Yields. Raises what handling raises, once it is noted.
function M.apply(event_id, is_last)
  local ok, refusal, delay = pcall(apply, event_id)
  if not ok then
    note_failure(event_id, refusal, is_last or is_refused(refusal))
    error(refusal, 0)
  end
  if refusal and not delay then log.error("webhook parked", { event_id = event_id, reason = refusal.reason }) end
  return delay
end

--- Enqueues what is due and has no job. @return integer  how many. Yields.
function M.sweep()
  local n = 0
  local due = pg.query([[
    SELECT event_id FROM webhook_events
    WHERE processed_at IS NULL AND next_attempt_at <= now() - interval '1 minute'
    ORDER BY next_attempt_at LIMIT 1000]])
  for _, row in ipairs(due) do
    if jobs.enqueue(M.JOB, { event_id = row.event_id }) then n = n + 1 end
  end
  return n
end

return M
