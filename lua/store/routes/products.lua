--- GET /api/products and /api/products/:slug.
local app = require "chowk.app"
local t = require "chowk.schema"
local catalogue = require "store.catalogue"
local page = require "store.routes.page"

local routes = app.routes()

routes:get("/api/products", {
  summary = "Products: filtered, searched, sorted, page by page", limit = "public",
  query = page.query {
    category = t.optional(t.slug()),
    q = t.optional(t.string { min = 1, max = 100, pattern = "^%C+$" }),
  },
}, function(req)
  return catalogue.products(page.filter(req, req.query.category))
end)

routes:get("/api/products/:slug", {
  summary = "One product with its images and variants", limit = "public",
  params = { slug = t.slug() },
}, function(req)
  return catalogue.product(req.params.slug) or app.fail(404, "product_not_found", "There is no such product.")
end)

return routes
