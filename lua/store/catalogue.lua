--- The catalogue as customers read it: the categories, pages of products, one product's document. All of it is cached,
-- but for searches and later pages; whoever changes it says so with M.changes(slug) in his transaction. After a change
-- by hand, in SQL, it is `chowk cache purge --tag catalogue`.
-- Every function yields. `db` is nowhere a parameter here: nothing in this file belongs into a transaction.
local cache = require "chowk.cache"
local pg = require "chowk.pg"

local M = {}

-- A little stale is fine for what nobody has changed: it is served while one request loads it again.
local DOCUMENT = { ttl = "6h", stale = "10m", tags = { "catalogue" } }
local LISTS = { ttl = "1h", stale = "10m", tags = { "catalogue", "catalogue-lists" } }

--- What tx:forget is told when a product changes: its document, and every list it may stand in.
-- @param slug string  @return table
function M.changes(slug)
  return { keys = { "product:" .. slug }, tags = { "catalogue-lists" } }
end

local IMAGE_URL = "'/storage/v1/object/public/' || i.storage_path"

local function read_categories()
  return pg.json [[
    SELECT c.slug, c.name, c.description, parent.slug AS parent,
           (SELECT count(*) FROM products p WHERE p.category_id = c.id AND p.is_active) AS products
    FROM categories c LEFT JOIN categories parent ON parent.id = c.parent_id
    WHERE c.is_active ORDER BY c.sort_order, c.id]]
end

--- All active categories with how much there is in each.
-- @return raw JSON array
function M.categories()
  return cache.fetch("categories", LISTS, read_categories)
end

--- @return boolean
function M.category_exists(slug)
  return cache.fetch("category:" .. slug, LISTS, function()
    return pg.value("SELECT true FROM categories WHERE slug = $1 AND is_active", slug)
  end) or false
end

local function read_product(slug)
  return pg.json_one([[
    SELECT p.slug, p.name, p.description, p.price_paise, p.mrp_paise,
           json_build_object('slug', c.slug, 'name', c.name) AS category,
           (SELECT coalesce(json_agg(json_build_object('url', ]] .. IMAGE_URL .. [[, 'alt', i.alt, 'width', i.width,
                                                       'height', i.height) ORDER BY i.position), '[]')
            FROM product_images i WHERE i.product_id = p.id) AS images,
           (SELECT coalesce(json_agg(json_build_object('sku', v.sku, 'options', v.options, 'made_to_order', NOT v.track,
                                                       'price_paise', p.price_paise + v.extra_paise)
                                     ORDER BY v.position), '[]')
            FROM inventory v WHERE v.product_id = p.id) AS variants,
           json_build_object('average', (p.rating_hundredths / 100.0)::float8, 'count', p.rating_count) AS rating,
           p.updated_at
    FROM products p JOIN categories c ON c.id = p.category_id
    WHERE p.slug = $1 AND p.is_active AND c.is_active]], slug)
end

--- The whole document of one product, as /api/products/:slug answers it. It is cached for hours, so nothing that
-- changes with an order (stock) may be in it.
-- @return raw JSON object, or nil
function M.product(slug)
  return cache.fetch("product:" .. slug, DOCUMENT, function() return read_product(slug) end)
end

-- ---- pages of products -------------------------------------------------------------------------------------

-- What ?sort= means; each has its index in migrations/0001_catalogue.sql.
local SORTS = {
  newest = { by = { "created_at", "id" }, desc = true },
  price_asc = { by = { "price_paise", "id" }, desc = false },
  price_desc = { by = { "price_paise", "id" }, desc = true },
  rating = { by = { "rating_hundredths", "id" }, desc = true },
}
local ONLY_FOR_SORTING = { "created_at", "rating_hundredths", "id" }

--- What ?sort= may say.
M.SORTS = { "newest", "price_asc", "price_desc", "rating" }

local LIST = [[
  SELECT p.slug, p.name, p.price_paise, p.mrp_paise, c.slug AS category,
         (SELECT ]] .. IMAGE_URL .. [[ FROM product_images i
          WHERE i.product_id = p.id ORDER BY i.position LIMIT 1) AS image,
         json_build_object('average', (p.rating_hundredths / 100.0)::float8, 'count', p.rating_count) AS rating,
         p.created_at, p.rating_hundredths, p.id
  FROM products p JOIN categories c ON c.id = p.category_id
  WHERE p.is_active AND c.is_active]]

-- `%`, `_` and `\` of a search text are letters, not wildcards.
local function contains(text) return "%" .. text:gsub("[%%_\\]", "\\%0") .. "%" end

local function list_query(filter)
  local where, params = "", {}
  local function param(value)
    params[#params + 1] = value
    return #params
  end
  if filter.category then
    where = (" AND p.category_id = (SELECT id FROM categories WHERE slug = $%d)"):format(param(filter.category))
  end
  if filter.q then
    where = where .. (" AND (p.search @@ websearch_to_tsquery('english', $%d) OR p.name ILIKE $%d)")
      :format(param(filter.q), param(contains(filter.q)))
  end
  return LIST .. where, params
end

local function read_products(filter)
  local sort, sql, params = SORTS[filter.sort], list_query(filter)
  return pg.page(sql, { by = sort.by, desc = sort.desc, hide = ONLY_FOR_SORTING, limit = filter.limit,
    cursor = filter.cursor }, unpack(params))
end

--- One page of active products, by keyset: a page costs the same however deep it lies. First pages are cached, without
-- a search text, so that what strangers can ask for does not push them out.
-- @param filter table {sort, limit, category?, q?, cursor?}   sort is one of M.SORTS
-- @return raw JSON {items, next_cursor}   next_cursor is null on the last page
-- Fails with 422 invalid_cursor.
function M.products(filter)
  if filter.q or filter.cursor then return read_products(filter) end
  local key = ("products:%s:%d:%s"):format(filter.sort, filter.limit, filter.category or "")
  if #key > 200 then return read_products(filter) end
  return cache.fetch(key, LISTS, function() return read_products(filter) end)
end

return M
