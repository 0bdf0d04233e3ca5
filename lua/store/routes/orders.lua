--- Orders of buyers: placed, read, listed, cancelled. Guests prove theirs with `Authorization: Order <token>`, users
-- sign in.
local app = require "chowk.app"
local log = require "chowk.log"
local pg = require "chowk.pg"
local t = require "chowk.schema"
local buyer = require "store.buyer"
local cancel = require "store.workflows.cancel"
local moving = require "store.routes.moving"
local order = require "store.workflows.order"
local orders = require "store.orders"
local place_of_supply = require "store.policies.place_of_supply"
local settings = require "store.settings"

local routes = app.routes()

-- Printable text: PostgreSQL could not store a NUL, and nobody prints the rest on a parcel.
local PRINTABLE = "^%C*$"
local line = t.string { min = 1, max = 200, pattern = PRINTABLE }
local more_line = t.optional(t.string { max = 200, pattern = PRINTABLE })
local address = t.object {
  name = line,
  phone = t.optional(t.string { pattern = "^%+?[%d -]+$", max = 20 }),
  line1 = line,
  line2 = more_line,
  landmark = more_line,
  city = line,
  state = line,
  pincode = t.string { pattern = "^[1-9]%d%d%d%d%d$" },
  country = more_line,
}

local new_order = t.object {
  items = t.array(t.object {
    sku = t.string { min = 1, max = 64, pattern = PRINTABLE },
    quantity = t.integer { min = 1, max = 99 },
  }, { min = 1, max = 50 }),
  email = t.email(),
  shipping_address = address,
  coupon = t.optional(t.string { max = 40, pattern = PRINTABLE }),
}

routes:post("/api/orders", {
  summary = "Place an order (Idempotency-Key required)", limit = "orders", body = new_order,
  auth = buyer.anybody, idempotent = true, guest = "body.email",
}, function(req, tx)
  local body = req:json()
  local state = place_of_supply.code(body.shipping_address.state)
  if not state then app.fail(422, "unknown_state", "shipping_address.state is not a state of India.") end
  local coupon = body.coupon and body.coupon:match("^%s*(.-)%s*$"):upper()
  if req.user.user_id then tx:defer(buyer.statements(req.user, body.email)) end
  local placed = order.place(tx, {
    items = body.items,
    email = body.email,
    shipping_address = body.shipping_address,
    place_of_supply = state,
    coupon = coupon ~= "" and coupon or nil,
    user_id = req.user.user_id,
  })
  return 201, placed, { Location = "/api/orders/" .. placed.number }
end)

app.on_start(function()
  if not settings.token_secret then
    log.error("no order can be placed: set ORDER_TOKEN_SECRET or RAZORPAY_KEY_SECRET")
  end
end)

local NUMBER = { number = t.string { max = 64 } }   -- anything: what is none, nobody has

local function not_found() app.fail(404, "order_not_found", "There is no such order.") end

routes:get("/api/orders", {
  summary = "The orders of who is signed in, the newest first", limit = "public", auth = buyer.user,
  query = { cursor = t.optional(t.string { max = 256 }), limit = t.integer { min = 1, max = 100, default = 20 } },
}, function(req) return orders.of_user(req.user.id, req.query) end)

routes:get("/api/orders/:number", {
  summary = "An order, for its buyer", limit = "public", auth = buyer.owner, params = NUMBER,
}, function(req) return orders.find(req.params.number, req.user) or not_found() end)

routes:post("/api/orders/:number/cancel", {
  summary = "Cancel an order that is not being made ready yet; paid money goes back", limit = "order_payments",
  auth = buyer.owner, params = NUMBER,
}, moving(function(req)
  local number = req.params.number
  pg.tx(function(tx)
    cancel.cancel(tx, orders.lock(tx, number, req.user) or not_found(), { actor = "customer" })
  end)
  return orders.state(number)
end))

return routes
