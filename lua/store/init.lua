--- The shop: every route, in the order a reader would look for them. Mounted by conf/chowk.lua (app.main).
local app = require "chowk.app"
require "store.jobs"
require "store.paperwork"

local routes = app.routes()
routes:mount("/", require "store.routes.health")
routes:mount("/", require "store.routes.categories")
routes:mount("/", require "store.routes.products")
routes:mount("/", require "store.routes.orders")
routes:mount("/", require "store.routes.payments")
routes:mount("/", require "store.routes.webhooks")
routes:mount("/", require "store.routes.admin")
routes:mount("/", require "store.routes.admin_orders")
return routes
