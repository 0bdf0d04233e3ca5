--- POST /api/orders, and a guest's way back to the order.
local app = require "chowk.app"
local log = require "chowk.log"
local t = require "chowk.schema"
local guest_token = require "store.guest_token"
local order = require "store.workflows.order"
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
  idempotent = true, guest = "body.email",
}, function(req, tx)
  local body = req:json()
  local state = place_of_supply.code(body.shipping_address.state)
  if not state then app.fail(422, "unknown_state", "shipping_address.state is not a state of India.") end
  local coupon = body.coupon and body.coupon:match("^%s*(.-)%s*$"):upper()
  local placed = order.place(tx, {
    items = body.items,
    email = body.email,
    shipping_address = body.shipping_address,
    place_of_supply = state,
    coupon = coupon ~= "" and coupon or nil,
  })
  return 201, placed, { Location = "/api/orders/" .. placed.number }
end)

app.on_start(function()
  if not settings.token_secret then
    log.error("no order can be placed: set ORDER_TOKEN_SECRET or RAZORPAY_KEY_SECRET")
  end
end)

--- Whoever has no valid token learns nothing, not even whether the number exists.
routes:get("/api/orders/:number", {
  summary = "An order, for its guest (Authorization: Order <token>)", limit = "public",
}, function(req)
  local number, hash = req.params.number:match("^[%w-]+$"), guest_token.hash_from(req)
  return number and hash and order.find(number, hash)
    or app.fail(404, "order_not_found", "There is no such order.")
end)

return routes
