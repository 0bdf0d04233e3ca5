-- The same jobs as peers/work.js, as a chowk author would write them.
local app = require "chowk.app"
local cache = require "chowk.cache"
local json = require "chowk.json"
local pg = require "chowk.pg"
local razorpay = require "chowk.razorpay"
local redis = require "chowk.redis"
local seq = require "chowk.seq"
local t = require "chowk.schema"

local routes = app.routes()

routes:get("/json", function()
  return { message = "hello", ok = true, n = 42, items = { 1, 2, 3 }, shop = { name = "chowk", city = "Delhi" } }
end)

routes:get("/cached/:id", function(req)
  local text = redis.get("product:" .. req.params.id)
  return text and json.raw(text) or app.fail(404, "not_found")
end)

routes:get("/l1/:id", function(req)
  return cache.fetch("product:" .. req.params.id, { ttl = "6h" }, function()
    return pg.json_one([[SELECT id, slug, name, description, price_paise, is_active, created_at
      FROM products WHERE id = $1]], req.params.id)
  end) or app.fail(404, "not_found")
end)

routes:get("/products/:id", function(req)
  return pg.json_one([[SELECT id, slug, name, description, price_paise, is_active, created_at
    FROM products WHERE id = $1]], req.params.id) or app.fail(404, "not_found")
end)

routes:get("/list", function(req)
  return { items = pg.json("SELECT id, slug, name, price_paise FROM products WHERE id > $1 ORDER BY id LIMIT 20",
    req.query.after or 0) }
end)

-- The order's statement with its values, and the answer.
local function place(tx, body)
  local ids, quantities, price, prices, total = {}, {}, {}, {}, 0
  for i, item in ipairs(body.items) do ids[i], quantities[i] = item.id, item.quantity end
  for _, row in ipairs(tx:query("SELECT id, price_paise FROM products WHERE id = ANY($1)", pg.array(ids, "int"))) do
    price[row.id] = row.price_paise
  end
  for i, id in ipairs(ids) do
    prices[i] = price[id]
    total = total + price[id] * quantities[i]
  end
  local number = seq.next("order")
  return { [[WITH o AS (INSERT INTO orders (number, email, total_paise) VALUES ($1, $2, $3) RETURNING id)
    INSERT INTO order_items (order_id, product_id, quantity, unit_price_paise)
    SELECT o.id, i.* FROM o, unnest($4::int[], $5::int[], $6::bigint[]) i]],
    number, body.email, total, pg.array(ids, "int"), pg.array(quantities, "int"), pg.array(prices, "bigint") },
    { number = number, total_paise = total }
end

routes:post("/orders", function(req)
  return pg.tx(function(tx)
    local statement, answer = place(tx, req:json())
    tx:commit{ statement }
    return 201, answer
  end)
end)

routes:post("/orders-once", { idempotent = true, guest = "body.email", body = t.object{ email = t.email(),
  items = t.array(t.object{ id = t.integer(), quantity = t.integer() }) } }, function(req, tx)
  local statement, answer = place(tx, req:json())
  tx:exec(unpack(statement))
  return 201, answer
end)

routes:get("/number", function() return { number = seq.next("order") } end)

-- Counted where limit.store says: the job "limit redis" has a server of its own for that.
routes:get("/limited", { limit = "bench" }, function() return "ok" end)

routes:post("/verify", { body = t.object{ razorpay_order_id = t.string(), razorpay_payment_id = t.string(),
  razorpay_signature = t.string() } }, function(req)
  local body = req:json()
  razorpay.verify_checkout{ order_id = body.razorpay_order_id, payment_id = body.razorpay_payment_id,
    signature = body.razorpay_signature }
  local found = pg.tx(function(tx) -- lock, change and COMMIT travel together
    return tx:commit{
      { "SELECT status FROM payments WHERE razorpay_order_id = $1 FOR UPDATE", body.razorpay_order_id },
      { [[UPDATE payments SET status = 'paid', razorpay_payment_id = $2, verified = verified + 1
        WHERE razorpay_order_id = $1]], body.razorpay_order_id, body.razorpay_payment_id },
    }
  end)
  if not found[1][1] then app.fail(404, "not_found") end
  return { status = "paid" }
end)

return routes
