--- What the catalogue reads from PostgreSQL: the categories, pages of products, one product's document.
-- Every function yields. `db` is nowhere a parameter here: nothing in this file belongs into a transaction.
local app = require "chowk.app"
local json = require "chowk.json"
local pg = require "chowk.pg"

local M = {}

local IMAGE_URL = "'/storage/v1/object/public/' || i.storage_path"

--- All active categories with how much there is in each.
-- @return raw JSON array
function M.categories()
  return pg.json [[
    SELECT c.slug, c.name, c.description, parent.slug AS parent,
           (SELECT count(*) FROM products p WHERE p.category_id = c.id AND p.is_active) AS products
    FROM categories c LEFT JOIN categories parent ON parent.id = c.parent_id
    WHERE c.is_active ORDER BY c.sort_order, c.id]]
end

--- @return boolean
function M.category_exists(slug)
  return pg.value("SELECT true FROM categories WHERE slug = $1 AND is_active", slug) or false
end

--- The whole document of one product, as /api/products/:slug answers it. It is cached for hours, so nothing that
-- changes with an order (stock) may be in it.
-- @return raw JSON object, or nil
function M.product(slug)
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

-- ---- pages of products -------------------------------------------------------------------------------------

-- One entry per ?sort=. `after` compares a row's (key, id) with those of the last row of the page before; each has
-- its index in migrations/0001_catalogue.sql. Keys are integers, times in microseconds, so that a cursor is digits.
local SORTS = {
  newest = {
    key = "(extract(epoch FROM p.created_at) * 1000000)::bigint",
    order = "p.created_at DESC, p.id DESC",
    after = "(p.created_at, p.id) < (timestamptz 'epoch' + $%d::bigint * interval '1 microsecond', $%d::bigint)",
  },
  price_asc = {
    key = "p.price_paise",
    order = "p.price_paise, p.id",
    after = "(p.price_paise, p.id) > ($%d::bigint, $%d::bigint)",
  },
  price_desc = {
    key = "p.price_paise",
    order = "p.price_paise DESC, p.id DESC",
    after = "(p.price_paise, p.id) < ($%d::bigint, $%d::bigint)",
  },
  rating = {
    key = "p.rating_hundredths",
    order = "p.rating_hundredths DESC, p.id DESC",
    after = "(p.rating_hundredths, p.id) < ($%d::bigint, $%d::bigint)",
  },
}

--- What ?sort= may say.
M.SORTS = { "newest", "price_asc", "price_desc", "rating" }

-- A cursor belongs to its sort: "price_asc.49900.17" is price_asc, after key 49900 and id 17.
local function read_cursor(cursor, sort)
  local of, key, id = cursor:match("^([a-z_]+)%.(%d+)%.(%d+)$")
  if of ~= sort or #key > 16 or #id > 16 then
    app.fail(422, "invalid_cursor", "This cursor is not from a list sorted by " .. sort .. ".")
  end
  return key, id
end

local LIST = [[
  SELECT p.slug, p.name, p.price_paise, p.mrp_paise, c.slug AS category,
         (SELECT ]] .. IMAGE_URL .. [[ FROM product_images i
          WHERE i.product_id = p.id ORDER BY i.position LIMIT 1) AS image,
         p.rating_hundredths, p.rating_count, (%s)::text AS cursor_key, p.id::text AS cursor_id
  FROM products p JOIN categories c ON c.id = p.category_id
  WHERE p.is_active AND c.is_active%s
  ORDER BY %s LIMIT %s]]

-- `%`, `_` and `\` of a search text are letters, not wildcards.
local function contains(text) return "%" .. text:gsub("[%%_\\]", "\\%0") .. "%" end

local function list_query(filter)
  local sort, where, params = SORTS[filter.sort], {}, {}
  local function param(value)
    params[#params + 1] = value
    return #params
  end
  if filter.category then
    where[#where + 1] = (" AND p.category_id = (SELECT id FROM categories WHERE slug = $%d)")
      :format(param(filter.category))
  end
  if filter.q then
    where[#where + 1] = (" AND (p.search @@ websearch_to_tsquery('english', $%d) OR p.name ILIKE $%d)")
      :format(param(filter.q), param(contains(filter.q)))
  end
  if filter.cursor then
    local key, id = read_cursor(filter.cursor, filter.sort)
    where[#where + 1] = " AND " .. sort.after:format(param(key), param(id))
  end
  local limit = "$" .. param(filter.limit + 1) .. "::int"   -- one more than asked for says whether there is a next page
  return LIST:format(sort.key, table.concat(where), sort.order, limit), params
end

local function item(row)
  return {
    slug = row.slug,
    name = row.name,
    price_paise = row.price_paise,
    mrp_paise = row.mrp_paise or json.null,
    category = row.category,
    image = row.image or json.null,
    rating = { average = row.rating_hundredths / 100, count = row.rating_count },
  }
end

--- One page of active products, by keyset: a page costs the same however deep it lies.
-- @param filter table {sort, limit, category?, q?, cursor?}   sort is one of M.SORTS
-- @return table {items, next_cursor}   next_cursor is json.null on the last page
-- Fails with 422 invalid_cursor.
function M.products(filter)
  local sql, params = list_query(filter)
  local rows = pg.query(sql, unpack(params))
  local items = json.array {}
  for i = 1, math.min(#rows, filter.limit) do items[i] = item(rows[i]) end
  local last, next_cursor = rows[filter.limit], json.null
  if #rows > filter.limit then next_cursor = ("%s.%s.%s"):format(filter.sort, last.cursor_key, last.cursor_id) end
  return { items = items, next_cursor = next_cursor }
end

return M
