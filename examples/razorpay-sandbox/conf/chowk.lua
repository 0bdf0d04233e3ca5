-- A stand-in for Razorpay: one worker, everything in memory, gone when it stops. It talks to this machine only.
local shop = env("SHOP_URL", "http://127.0.0.1:8080")

return {
  listen = "127.0.0.1:9090",
  workers = 1,
  drain = "0",   -- who was promised no answer need not be waited for
  jobs = { workers = 0 },
  environment = "development",
  admin = { listen = "off" },
  log = { level = "error", access = false },
  http = { deadline = "120s" },
  http_client = { allow_private = { "127.0.0.0/8", "::1" }, breaker_failures = 0 },
  app = { main = "app" },
  settings = {
    key_id = env("RAZORPAY_KEY_ID", "rzp_test_development"),
    key_secret = env("RAZORPAY_KEY_SECRET", "development_key_secret"),
    webhook_secret = env("RAZORPAY_WEBHOOK_SECRET", "development_webhook_secret"):match "[^,]+",   -- the current one
    webhook_url = env("WEBHOOK_URL", shop .. "/api/webhooks/razorpay"),
  },
}
