--- What the shop's people do with the catalogue: a product's fields.
local app = require "chowk.app"
local t = require "chowk.schema"
local admin_token = require "store.admin_token"
local product = require "store.workflows.product"

local routes = app.routes()

local MAX_PRICE = 1e9   -- one crore rupees: 99 of it are a line that policies/gst.lua splits exactly

routes:patch("/api/admin/products/:slug", {
  summary = "Change a product", limit = "auth",
  auth = admin_token.check,
  params = { slug = t.slug() },
  body = t.object {
    name = t.optional(t.string { min = 1, max = 200, pattern = "^%C+$" }),
    description = t.optional(t.string { max = 5000, pattern = "^%Z*$" }),
    price_paise = t.optional(t.paise { max = MAX_PRICE }),
    mrp_paise = t.optional(t.paise { max = MAX_PRICE }),
    is_active = t.optional(t.boolean()),
  },
}, function(req)
  local found, document = product.update(req.params.slug, req:json())
  if not found then app.fail(404, "product_not_found", "There is no such product.") end
  return document or app.empty
end)

return routes
