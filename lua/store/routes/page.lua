--- What every list of products takes in its query string: ?sort=&cursor=&limit=
local t = require "chowk.schema"
local catalogue = require "store.catalogue"

local M = {}

--- @param more table  further query parameters, name → schema
function M.query(more)
  more.sort = t.enum { default = "newest", unpack(catalogue.SORTS) }
  more.cursor = t.optional(t.string { max = 256 })
  more.limit = t.integer { min = 1, max = 100, default = 20 }
  return more
end

--- The filter for catalogue.products from a validated request.
function M.filter(req, category)
  local query = req.query
  return { category = category, q = query.q, sort = query.sort, cursor = query.cursor, limit = query.limit }
end

return M
