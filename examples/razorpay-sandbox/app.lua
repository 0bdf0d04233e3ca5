--- Razorpay, as a shop sees it (razorpay.com/docs/api): /v1 is the API, /sandbox what only a stand-in has, and / is for
-- people.
local app = require "chowk.app"
local answers = require "sandbox.answers"
local routes = app.routes()

routes:mount("/", require "sandbox.page")
routes:mount("/sandbox", require "sandbox.control")
for _, part in ipairs { "orders", "payments", "refunds" } do routes:mount("/v1", require("sandbox." .. part)) end

local nowhere = answers.guarded(function()
  return answers.refusal(400, "The requested URL was not found on the server.")
end)
for _, method in ipairs { "get", "post", "put", "patch", "delete" } do routes[method](routes, "/v1/*path", nowhere) end

return routes
