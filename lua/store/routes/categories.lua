--- GET /api/categories and the products of one.
local app = require "chowk.app"
local json = require "chowk.json"
local t = require "chowk.schema"
local catalogue = require "store.catalogue"
local page = require "store.routes.page"

local routes = app.routes()

routes:get("/api/categories", { summary = "All categories", limit = "public" }, function()
  return { items = catalogue.categories(), next_cursor = json.null }
end)

routes:get("/api/categories/:slug/products", {
  summary = "The products of a category, page by page", limit = "public",
  params = { slug = t.slug() },
  query = page.query {},
}, function(req)
  local slug = req.params.slug
  if not catalogue.category_exists(slug) then app.fail(404, "category_not_found", "There is no such category.") end
  return catalogue.products(page.filter(req, slug))
end)

return routes
