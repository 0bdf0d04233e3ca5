--- What the shop does while nobody waits. Every job here may run twice: each looks under a lock at what is still to do.
local jobs = require "chowk.jobs"
local log = require "chowk.log"
local pg = require "chowk.pg"
local config = require "chowk.config"
local expire = require "store.workflows.expire"
local settlement = require "store.workflows.settlement"
local webhook = require "store.workflows.webhook"

local IST = "Asia/Kolkata"

-- A webhook's own record says when it is tried again; what raises is a bug or an outage, and comes back by these steps.
jobs.define(webhook.JOB, {
  priority = 1, unique = true, timeout = "1m", retries = 19,
  backoff = { "1s", "2s", "4s", "8s", "15s", "30s", "1m", "2m", "5m", "10m", "30m", "1h" },
}, function(args, job)
  local delay = webhook.apply(args.event_id, job.attempt == job.max_attempts)
  if delay then return job:again(delay) end
end)

-- Stored webhooks have their job from the same commit. This finds those whose job is gone: discarded, or lost in a
-- restored backup.
jobs.define("webhook.sweep", { unique = true }, function()
  local n = webhook.sweep()
  if n > 0 then log.warn("webhooks without a job were enqueued again", { n = n }) end
end)
jobs.cron("*/5 * * * *", IST, "webhook.sweep")

jobs.define("order.expire", { unique = true, concurrency = 1 }, function()
  local n = expire.run()
  if n > 0 then log.info("unpaid orders expired", { n = n }) end
end)
jobs.cron("* * * * *", IST, "order.expire")

-- Money that came for an order which had ended: until Razorpay has taken the refund, it is tried again. Should this job
-- end before it has, refund.reconcile enqueues it anew.
jobs.define("refund.send", { priority = 1, retries = 20 }, function(args) settlement.refund(args) end)

-- What no webhook told, because it was lost or late.
jobs.define("payment.reconcile", { unique = true, concurrency = 1, timeout = "4m" }, function()
  if config.get "payments.confirm" == "fetch" then settlement.reconcile(120) end
end)
jobs.cron("*/5 * * * *", IST, "payment.reconcile")

jobs.define("refund.reconcile", { unique = true, concurrency = 1, timeout = "4m" }, function()
  if config.get "payments.confirm" ~= "fetch" then return end
  settlement.reconcile_refunds(function(refund)
    jobs.enqueue("refund.send", refund, { unique = refund.key })
  end)
end)
jobs.cron("*/15 * * * *", IST, "refund.reconcile")

-- Deletes what a statement finds, by its batches of 1000.
local function reap(sql, message)
  local n = 0
  repeat
    local deleted = pg.exec(sql)
    n = n + deleted
  until deleted < 1000
  if n > 0 then log.info(message, { n = n }) end
end

local OLD_KEYS = [[
  WITH old AS MATERIALIZED (
    SELECT scope, key FROM idempotency_keys
    WHERE expires_at < now() AND coalesce(locked_until, '-infinity') < now() LIMIT 1000 FOR UPDATE SKIP LOCKED)
  DELETE FROM idempotency_keys k USING old WHERE k.scope = old.scope AND k.key = old.key]]

jobs.define("idempotency.reap", { unique = true, priority = 4 }, function()
  reap(OLD_KEYS, "expired idempotency keys deleted")
end)
jobs.cron("17 * * * *", IST, "idempotency.reap")

-- Razorpay repeats an event for a day, and for fifteen when asked: until then a known one must be found here. What has
-- not been applied stays, however old.
local OLD_EVENTS = [[
  WITH old AS MATERIALIZED (
    SELECT event_id FROM webhook_events
    WHERE received_at < now() - interval '30 days' AND processed_at < now() - interval '30 days'
    LIMIT 1000 FOR UPDATE SKIP LOCKED)
  DELETE FROM webhook_events e USING old WHERE e.event_id = old.event_id]]

jobs.define("webhook.reap", { unique = true, priority = 4 }, function()
  reap(OLD_EVENTS, "applied webhooks of long ago deleted")
end)
jobs.cron("41 3 * * *", IST, "webhook.reap")
