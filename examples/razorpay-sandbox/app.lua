--- Razorpay, as a shop sees it (razorpay.com/docs/api): /v1 is the API, /sandbox what only a stand-in has.
local app = require "chowk.app"
local routes = app.routes()

routes:mount("/v1", require "sandbox.api")
routes:mount("/sandbox", require "sandbox.control")

return routes
