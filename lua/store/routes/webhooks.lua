--- POST /api/webhooks/razorpay, and the timer that applies what was left over.
local app = require "chowk.app"
local json = require "chowk.json"
local log = require "chowk.log"
local razorpay = require "chowk.razorpay"
local task = require "chowk.task"
local webhook = require "store.workflows.webhook"

local routes = app.routes()

local SWEEP_EVERY = "2s"

--- The signature is over the exact bytes, so it is checked before anything is parsed. 2xx means: committed here.
routes:post("/api/webhooks/razorpay", { summary = "Razorpay webhook", max_body = "256KiB" }, function(req)
  local raw = req:body()
  razorpay.verify_webhook(raw, req:header("X-Razorpay-Signature"))
  local event = try(json.decode, raw)
  if type(event) ~= "table" or type(event.event) ~= "string" or not event.event:find("^[%w_.]+$") then
    app.fail(400, "invalid_event", "The body is not an event.")
  end
  local event_id = webhook.store(req:header("X-Razorpay-Event-Id"), event, raw)
  if event_id then webhook.try_apply(event_id) end
  return { status = event_id and "stored" or "duplicate" }
end)

app.on_start(function()
  task.spawn(function()
    local was_ok = true   -- an hour without PostgreSQL is one line, not two thousand
    while true do
      task.sleep(SWEEP_EVERY)
      local ok, err = pcall(webhook.sweep)
      if not ok and was_ok then log.warn("webhook sweep fails", { error = tostring(err) }) end
      if ok and not was_ok then log.info("webhook sweep works again") end
      was_ok = ok
    end
  end)
end)

return routes
