--- Webhooks: a snapshot of what happened, signed over its bytes, delivered as the behaviour of the day says. What is
-- not answered 2xx is tried again, as Razorpay does, but within seconds.
local crypto = require "chowk.crypto"
local http = require "chowk.http"
local json = require "chowk.json"
local settings = require "chowk.config".settings
local task = require "chowk.task"
local world = require "sandbox.world"

local M = {}

local RETRY_S = { 0.2, 1, 3, 6, 10 }   -- Razorpay: up to 24 hours

local function deliver_once(event, secret)
  local ok, res = pcall(http.post, settings.webhook_url, {
    body = event.body, timeout = "5s",
    headers = {
      ["Content-Type"] = "application/json",
      ["User-Agent"] = "Razorpay-Webhook/v1",
      ["X-Razorpay-Event-Id"] = event.id,
      ["Request-Id"] = event.id,
      ["X-Razorpay-Signature"] = crypto.hex(crypto.hmac_sha256(secret, event.body)),
    },
  })
  local status = ok and res.status or 0
  local deliveries = world.get().deliveries
  deliveries[#deliveries + 1] = { event_id = event.id, event = event.name, status = status,
    error = not ok and tostring(res) or json.null }
  return status >= 200 and status < 300
end

local function deliver(event, behaviour)
  local secret = behaviour.sign_with or settings.webhook_secret
  local delay_ms = behaviour.delay_ms
  if behaviour.shuffle then delay_ms = delay_ms + crypto.random(1):byte() end
  if delay_ms > 0 then task.sleep(delay_ms / 1000) end
  for attempt = 0, #RETRY_S do
    if attempt > 0 then task.sleep(RETRY_S[attempt]) end
    if deliver_once(event, secret) then return end
  end
end

local function send(event)
  local behaviour = world.get().behaviour
  if behaviour.drop then return end
  for _ = 1, behaviour.duplicates do task.spawn(deliver, event, behaviour) end
end

--- Something happened. @param entities table  { payment = …, order = … }
function M.emit(name, entities)
  local contains, payload = json.array {}, {}
  for kind, entity in pairs(entities) do
    contains[#contains + 1] = kind
    payload[kind] = { entity = entity }
  end
  table.sort(contains)
  local event = {
    id = world.id("evt"):sub(5),
    name = name,
    body = json.encode { entity = "event", account_id = "acc_SANDBOX0000000", event = name, contains = contains,
      payload = payload, created_at = world.now() },
  }
  local events = world.get().events
  events[#events + 1] = event
  send(event)
end

--- Sends everything again, whatever came of it before.
function M.redeliver()
  for _, event in ipairs(world.get().events) do send(event) end
  return #world.get().events
end

return M
