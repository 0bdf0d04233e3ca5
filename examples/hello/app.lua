-- The smallest application: `cd examples/hello && chowk dev`, then http://127.0.0.1:8080/hello/Asha
local app = require "chowk.app"
local routes = app.routes()

routes:get("/", function() return "Namaste from chowk\n" end)
routes:get("/hello/:name", function(req)
  return { hello = req.params.name, at = os.date("!%Y-%m-%dT%H:%M:%SZ") }
end)

return routes
