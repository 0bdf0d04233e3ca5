--- The little administration there is before sign-in: a product's fields, behind a shared token.
-- Without settings.admin_token the route answers as if it did not exist.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local t = require "chowk.schema"
local product = require "store.workflows.product"
local settings = require "store.settings"

local routes = app.routes()

local MAX_PRICE = 1e9   -- one crore rupees: 99 of it are a line that policies/gst.lua splits exactly

-- As `auth` it runs before validation: whoever has no token learns nothing of the body's form either.
local function must_be_admin(req)
  local expected = settings.admin_token
  local given = (req:header("Authorization") or ""):match("^Bearer (.+)$")
  if not expected then app.fail(404, "not_found", "There is nothing here.") end
  if not given or not crypto.equal(given, expected) then app.fail(403, "forbidden", "This needs the admin token.") end
  return "admin"
end

routes:patch("/api/admin/products/:slug", {
  summary = "Change a product", limit = "auth",
  auth = must_be_admin,
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
