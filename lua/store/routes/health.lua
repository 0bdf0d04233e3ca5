--- Is the process alive (/healthz), and can it sell (/readyz)?
local app = require "chowk.app"
local pg = require "chowk.pg"
local redis = require "chowk.redis"

local routes = app.routes()

routes:get("/healthz", { summary = "The process answers" }, function()
  return { status = "ok" }
end)

--- Ready means: PostgreSQL answers, no stop has begun, and no worker is in a crash loop. Redis may be away, the shop
--- sells without it, so it is reported only, and not waited for.
routes:get("/readyz", { summary = "The shop can sell", deadline = "2s" }, function()
  if app.is_stopping() then return 503, { status = "stopping" }, { ["Retry-After"] = "1" } end
  if app.is_degraded() then return 503, { status = "degraded" }, { ["Retry-After"] = "1" } end
  local one, err = try(pg.value, "SELECT 1")
  local state = {
    status = one and "ready" or "unready",
    postgresql = one and "up" or err.code,
    redis = redis.is_up() and "up" or "down",
  }
  if one then return state end
  return 503, state, { ["Retry-After"] = "1" }
end)

return routes
