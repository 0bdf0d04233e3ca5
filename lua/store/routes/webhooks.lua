--- POST /api/webhooks/razorpay: stored here, applied by a job.
local app = require "chowk.app"
local json = require "chowk.json"
local limit = require "chowk.limit"
local razorpay = require "chowk.razorpay"
local webhook = require "store.workflows.webhook"

local routes = app.routes()

--- Who signs wrongly is counted, and nobody else: Razorpay is never refused, wherever it calls from.
local function verify(req, raw)
  local _, err = try(razorpay.verify_webhook, raw, req:header("X-Razorpay-Signature"))
  if not err then return end
  if err.code == "bad_signature" then limit.check("forged_webhooks", req) end
  error(err, 0)
end

--- The signature is over the exact bytes, so it is checked before anything is parsed. 2xx means: committed here.
routes:post("/api/webhooks/razorpay", { summary = "Razorpay webhook", max_body = "256KiB" }, function(req)
  local raw = req:body()
  verify(req, raw)
  local event = try(json.decode, raw)
  if type(event) ~= "table" or type(event.event) ~= "string" or not event.event:find("^[%w_.]+$") then
    app.fail(400, "invalid_event", "The body is not an event.")
  end
  local is_new = webhook.store(req:header("X-Razorpay-Event-Id"), event, raw)
  return { status = is_new and "stored" or "duplicate" }
end)

return routes
