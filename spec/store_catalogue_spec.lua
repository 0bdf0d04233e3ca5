-- Browsing: categories, pages of products, one product from Redis or PostgreSQL.
local server = require "spec.support.server"
local shop = require "spec.support.shop"

describe("the catalogue", function()
  local s
  setup(function() s = shop.start(server, { env = { ADMIN_TOKEN = "spec-admin" } }) end)
  teardown(function() s:stop() end)

  local function pages(path, limit)
    local items, cursor = {}, nil
    repeat
      local sep = path:find("?", 1, true) and "&" or "?"
      local page = s:get(path .. sep .. "limit=" .. limit .. (cursor and "&cursor=" .. cursor or ""))
      assert.equal(200, page.status)
      for _, item in ipairs(page.json.items) do items[#items + 1] = item end
      cursor = page.json.next_cursor
      assert(#items <= 200, "the list does not end")
    until not cursor
    return items
  end

  local function slugs(items)
    local out, seen = {}, {}
    for i, item in ipairs(items) do
      assert.is_nil(seen[item.slug], item.slug .. " came twice")
      out[i], seen[item.slug] = item.slug, true
    end
    return out
  end

  it("lists twenty categories", function()
    local answer = s:get("/api/categories")
    assert.equal(200, answer.status)
    assert.equal(20, #answer.json.items)
    assert.equal("mens-t-shirts", answer.json.items[1].slug)
    assert.equal(5, answer.json.items[1].products)
    assert.truthy(answer.body:find('"next_cursor":null', 1, true))
  end)

  it("lists a category's products, and 404 for one that is not", function()
    local items = pages("/api/categories/mugs/products", 2)
    assert.equal(5, #slugs(items))
    for _, item in ipairs(items) do assert.equal("mugs", item.category) end
    local answer = s:get("/api/categories/spaceships/products")
    assert.equal(404, answer.status)
    assert.equal("category_not_found", answer.json.code)
  end)

  it("pages through everything in every order, each product once", function()
    local expected = {
      newest = "created_at DESC, id DESC", price_asc = "price_paise, id", price_desc = "price_paise DESC, id DESC",
      rating = "rating_hundredths DESC, id DESC",
    }
    for sort, order in pairs(expected) do
      local want = {}
      for i, row in ipairs(s:sql("SELECT slug FROM products ORDER BY " .. order)) do want[i] = row.slug end
      assert.same(want, slugs(pages("/api/products?sort=" .. sort, 7)))
    end
  end)

  it("pages on when rows arrive and leave between pages", function()
    local first = s:get("/api/products?sort=price_asc&limit=10").json
    s:exec("UPDATE products SET is_active = false WHERE slug = '" .. first.items[10].slug .. "'")
    local second = s:get("/api/products?sort=price_asc&limit=10&cursor=" .. first.next_cursor).json
    s:exec("UPDATE products SET is_active = true")
    local all = s:get("/api/products?sort=price_asc&limit=20").json
    assert.equal(all.items[11].slug, second.items[1].slug)
  end)

  it("has a last page that is exactly full", function()
    assert.is_nil(s:get("/api/products?limit=100").json.next_cursor)
    assert.is_nil(s:get("/api/categories/mugs/products?limit=5").json.next_cursor)
    assert.truthy(s:get("/api/categories/mugs/products?limit=4").json.next_cursor)
  end)

  it("searches words, parts of names, and takes wildcards as letters", function()
    for _, item in ipairs(pages("/api/products?q=hood", 50)) do assert.truthy(item.name:lower():find("hood")) end
    assert.equal(5, #pages("/api/products?q=hood", 50))
    assert.truthy(#pages("/api/products?q=jasmine", 50) >= 1)   -- only in a description
    assert.equal(0, #pages("/api/products?q=%25", 50))
    assert.equal(0, #pages("/api/products?q=_", 50))
    assert.truthy(s:get("/api/products?q=zzzz").body:find('"items":[]', 1, true))
    assert.equal(200, s:get("/api/products?q=%27%22%29+OR+1%3D1").status)
  end)

  it("combines category, search and sort", function()
    local items = pages("/api/products?category=mugs&q=mug&sort=price_desc", 2)
    assert.equal(5, #slugs(items))
    for i = 2, #items do assert(items[i - 1].price_paise >= items[i].price_paise) end
    assert.equal(0, #pages("/api/products?category=spaceships", 10))
  end)

  it("refuses what it cannot mean", function()
    for _, query in ipairs { "limit=0", "limit=101", "limit=x", "sort=beauty", "cursor=abc",
                             "sort=rating&cursor=newest.1.2", "cursor=newest.99999999999999999999.1" } do
      assert.equal(422, s:get("/api/products?" .. query).status, query)
    end
    assert.equal(400, s:get("/api/products?q=%ff").status)
    assert.equal(404, s:get("/api/products/mug%ff").status)
  end)

  it("tells a cursor of another order, and one made up", function()
    local sorts = { "newest", "rating", "price_asc", "price_desc" }
    for _, sort in ipairs(sorts) do
      local cursor = s:get("/api/products?limit=5&sort=" .. sort).json.next_cursor
      for _, other in ipairs(sorts) do
        local answer = s:get(("/api/products?limit=5&sort=%s&cursor=%s"):format(other, cursor))
        assert.equal(other == sort and 200 or 422, answer.status, sort .. " " .. other)
      end
      local path = ("/api/products?sort=%s&cursor=%s.9999999999999999.9999999999999999"):format(sort, sort)
      assert.equal("invalid_cursor", s:get(path).json.code, sort)
    end
  end)

  describe("one product", function()
    local PATH = "/api/products/adrak-wali-chai-mug"

    it("has images, variants and a rating", function()
      local p = s:get(PATH).json
      assert.equal("Adrak Wali Chai Mug", p.name)
      assert.equal(34900, p.price_paise)
      assert.same({ slug = "mugs", name = "Mugs" }, p.category)
      assert.equal(5, #p.images)
      assert.equal("/storage/v1/object/public/products/adrak-wali-chai-mug/front.webp", p.images[1].url)
      assert.same({ "MGCHAI-11OZ", "MGCHAI-15OZ" }, { p.variants[1].sku, p.variants[2].sku })
      assert.same({ 34900, 42900 }, { p.variants[1].price_paise, p.variants[2].price_paise })
      assert.is_number(p.rating.average)
    end)

    it("is 404 when unknown or inactive, and a bad slug is refused", function()
      assert.equal(404, s:get("/api/products/flying-carpet").status)
      s:exec("UPDATE products SET is_active = false WHERE slug = 'somvar-mug'")
      shop.forget(s)
      assert.equal(404, s:get("/api/products/somvar-mug").status)
      s:exec("UPDATE products SET is_active = true WHERE slug = 'somvar-mug'")
      assert.equal(200, s:get("/api/products/somvar-mug").status)   -- a 404 is not cached
    end)

    it("is cached for six hours, in Redis too, byte for byte", function()
      shop.forget(s)
      local first, second = s:get(PATH), s:get(PATH)
      assert.equal(first.body, second.body)
      assert.equal(first.headers["content-type"], second.headers["content-type"])
      s:exec("UPDATE products SET name = 'Mug by hand' WHERE slug = 'adrak-wali-chai-mug'")
      assert.equal(first.body, s:get(PATH).body)
      local stored = s:redis("get chowk:v:product:adrak-wali-chai-mug")
      assert.equal(first.body, stored:match("^[^\n]*\n(.*)$"))
      local ttl = tonumber(s:redis("ttl chowk:v:product:adrak-wali-chai-mug"))
      assert(ttl > 20000 and ttl <= 21600 + 600, ttl)
      shop.forget(s)
      assert.equal("Mug by hand", s:get(PATH).json.name)
    end)

    it("is new at once after an update", function()
      s:get(PATH)
      local answer = s:patch("/api/admin/products/adrak-wali-chai-mug",
        { json = { price_paise = 35900, name = "Ginger Chai Mug" }, headers = { Authorization = "Bearer spec-admin" } })
      assert.equal(200, answer.status)
      assert.equal(35900, answer.json.price_paise)
      local p = s:get(PATH).json
      assert.same({ 35900, "Ginger Chai Mug" }, { p.price_paise, p.name })
      assert.equal(35900, s:sql("SELECT price_paise FROM products WHERE slug = 'adrak-wali-chai-mug'")[1].price_paise)
    end)

    it("is not kept when a write overtook the load", function()
      s:exec [[ALTER TABLE product_images RENAME TO images; CREATE VIEW product_images AS
        SELECT * FROM images WHERE (SELECT pg_advisory_xact_lock_shared(7)) IS NOT NULL]]
      finally(function() s:exec "DROP VIEW product_images; ALTER TABLE images RENAME TO product_images" end)
      shop.forget(s)
      local lock = s:hold "SELECT pg_advisory_lock(7)" -- whoever reads images stands there, with what he has read
      local load = s:begin("GET", PATH)
      server.eventually("the load waits", function()
        return #s:sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted") > 0
      end)
      local write = s:begin("PATCH", "/api/admin/products/adrak-wali-chai-mug",
        { json = { price_paise = 37900 }, headers = { Authorization = "Bearer spec-admin" } })
      server.eventually("the write is done", function()
        return s:sql("SELECT price_paise FROM products WHERE slug = 'adrak-wali-chai-mug'")[1].price_paise == 37900
      end)
      lock:close()
      assert.equal(200, load().status)
      assert.equal(37900, write().json.price_paise)
      assert.equal(37900, s:get(PATH).json.price_paise)
      assert.truthy(s:redis("get chowk:v:product:adrak-wali-chai-mug"):find("37900", 1, true))
    end)
  end)

  describe("the admin route", function()
    local PATH = "/api/admin/products/railway-map-mug"
    local function patch(json, token)
      return s:patch(PATH, { json = json, headers = { Authorization = token and "Bearer " .. token } })
    end

    it("needs the token", function()
      assert.equal(403, patch({ price_paise = 1 }, "wrong").status)
      assert.equal(403, patch({ price_paise = 1 }).status)
      assert.equal(403, patch({ price_paise = "no form" }).status)
      assert.equal(39900, s:get("/api/products/railway-map-mug").json.price_paise)
    end)

    it("refuses bad values and unknown products", function()
      assert.equal(422, patch({ price_paise = -1 }, "spec-admin").status)
      assert.equal(422, patch({ price_paise = 1.5 }, "spec-admin").status)
      assert.equal(422, patch({ price = 1 }, "spec-admin").status)
      assert.equal(422, patch({ price_paise = 1e14 }, "spec-admin").status)
      local answer = s:patch("/api/admin/products/flying-carpet",
        { json = { price_paise = 1 }, headers = { Authorization = "Bearer spec-admin" } })
      assert.equal(404, answer.status)
    end)
  end)

  it("says that it is alive and ready", function()
    assert.equal(200, s:get("/healthz").status)
    local ready = s:get("/readyz")
    assert.equal(200, ready.status)
    assert.same({ "up", "up" }, { ready.json.postgresql, ready.json.redis })
  end)
end)

describe("the catalogue without Redis and without an admin token", function()
  local s
  setup(function() s = shop.start(server, { env = { REDIS_URL = "unix:///nonexistent/redis.sock" } }) end)
  teardown(function() s:stop() end)

  it("reads products from PostgreSQL", function()
    for _ = 1, 3 do
      local answer = s:get("/api/products/railway-map-mug")
      assert.equal(200, answer.status)
      assert.equal(39900, answer.json.price_paise)
    end
    s:exec("UPDATE products SET price_paise = 41900, mrp_paise = 60000 WHERE slug = 'railway-map-mug'")
    shop.forget(s)
    assert.equal(41900, s:get("/api/products/railway-map-mug").json.price_paise)
  end)

  it("is ready all the same", function()
    local ready = s:get("/readyz")
    assert.equal(200, ready.status)
    assert.equal("down", ready.json.redis)
  end)

  it("takes orders", function()
    assert.truthy(shop.place(s, { ["MGCHAI-11OZ"] = 1 }).number)
  end)

  it("has no admin route", function()
    local answer = s:patch("/api/admin/products/railway-map-mug",
      { json = { price_paise = 1 }, headers = { Authorization = "Bearer " } })
    assert.equal(404, answer.status)
    assert.equal(404, s:patch("/api/admin/products/railway-map-mug", { json = { nonsense = 1 } }).status)
  end)
end)
