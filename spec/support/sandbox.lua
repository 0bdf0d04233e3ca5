--- Razorpay's stand-in (examples/razorpay-sandbox), started for a spec.
local M = {}

local DIR = "examples/razorpay-sandbox"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read("*a")
  f:close()
  return text
end

local function files_of(server)
  local files = {}
  for path in server.sh("cd " .. DIR .. " && find sandbox -name '*.lua'"):gmatch("[^\n]+") do
    files[path] = read(DIR .. "/" .. path)
  end
  return files
end

--- @param keys table|nil {key_secret, webhook_secret, webhook_url}: others than the sandbox's own
-- @return the sandbox's server; stop it
function M.start(server, keys)
  local settings = {
    key_id = "rzp_test_development", key_secret = "development_key_secret",
    webhook_secret = "development_webhook_secret", webhook_url = "http://127.0.0.1:9/",
  }
  for k, v in pairs(keys or {}) do settings[k] = v end
  return server.start { app = read(DIR .. "/app.lua"), files = files_of(server),
    config = { workers = 1, jobs = { workers = 0 }, drain = "0", http = { deadline = "120s" }, settings = settings } }
end

--- Where its API answers: RAZORPAY_URL.
function M.url(sandbox) return "http://127.0.0.1:" .. sandbox.port .. "/v1" end

--- A shop and its Razorpay: the one asks, the other delivers webhooks.
-- @param opts table|nil  config, env, redis_url: as shop.start  @return shop's server, sandbox's server
function M.with_shop(server, shop, opts)
  opts = opts or {}
  local port = server.free_port()
  local sandbox = M.start(server, { key_secret = shop.KEY_SECRET, webhook_secret = shop.WEBHOOK_SECRET,
    webhook_url = "http://127.0.0.1:" .. port .. "/api/webhooks/razorpay" })
  local env = { RAZORPAY_URL = M.url(sandbox), RAZORPAY_KEY_ID = "rzp_test_development" }
  for name, value in pairs(opts.env or {}) do env[name] = value end
  return shop.start(server, { config = opts.config, env = env, port = port, redis_url = opts.redis_url }), sandbox
end

return M
