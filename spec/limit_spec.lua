-- Rate limits on a real server: exact over several workers and over two servers on one Redis, all or none, what happens
-- without Redis, and the shop's own classes.
local server = require "spec.support.server"
local holder = require "spec.support.holder"
local exposition = require "spec.support.exposition"
local http = require "spec.support.http"
local redis = require "spec.support.redis"
local shop = require "spec.support.shop"

local APP = [[
local app, limit, t = require "chowk.app", require "chowk.limit", require "chowk.schema"
local routes = app.routes()
local who = { body = t.object { email = t.string {} } }
local function login(req) return { email = req:json().email } end
routes:get("/public", { limit = "public" }, function() return "ok" end)
routes:get("/many", { limit = "many" }, function() return "ok" end)
routes:get("/exact", { limit = "exact" }, function() return "ok" end)
routes:get("/orders/:number", { limit = "order" }, function(req) return req.params.number end)
routes:get("/me", { limit = "user", auth = function(req) return { id = req.headers["x-user"] } end },
  function() return "me" end)
routes:post("/login", { limit = { "login", "public" }, body = who.body }, login)
routes:get("/manual/:key", function(req)
  limit.check("order", req.params.key)
  return { left = limit.allows("order", req.params.key, 2) }
end)
routes:get("/wrong/:what", function(req)
  if req.params.what ~= "right" then limit.check("wrong", req) end
  return req.params.what
end)
routes:post("/door", { limit = { "door", "user" }, auth = function(req)
  if req.headers["x-user"] == "bug" then error("a bug") end
  return req.headers["x-user"] or app.fail(403, "forbidden")
end }, function() return "in" end)
routes:get("/closed", { limit = "closed" }, function() return "ok" end)
routes:get("/open", { limit = "open" }, function() return "ok" end)
return routes
]]

local CLASSES = {
  public = { limit = 10, window = "15m", key = "ip" },
  many = { limit = 500, window = "1h" },   -- estimated from two windows
  exact = { limit = 100, window = "1h" },  -- remembered one by one
  wrong = { limit = 2, window = "15m", key = "ip" },
  door = { limit = 4, window = "15m", key = "ip" },
  order = { limit = 3, window = "15m", key = "params.number" },
  user = { limit = 2, window = "15m", key = { "user", "ip" } },
  login = { { limit = 100, window = "15m", key = "ip" }, { limit = 3, window = "15m", key = "body.email" } },
  closed = { limit = 2, window = "15m", on_store_failure = "closed" },
  open = { limit = 2, window = "15m", on_store_failure = "open" },
}

local function start(opts)
  opts = opts or {}
  return server.start { app = APP, redis_url = opts.redis_url,
    env = { LIMITS = opts.mode or "on", CHOWK_ADMIN_LISTEN = opts.admin },
    config = { workers = opts.workers or 1, limit = { classes = CLASSES, store = opts.store } } }
end

local function statuses(answers)
  local out = {}
  for _, a in ipairs(answers) do out[a.status] = (out[a.status] or 0) + 1 end
  return out
end

-- n requests, in turn to each of the servers
local function gets(path, n, ...)
  local servers, list = { ... }, {}
  for i = 1, n do
    list[i] = { "GET", path, nil, port = #servers > 0 and servers[i % #servers + 1].port or nil }
  end
  return list
end

local function metrics(port)
  local families = exposition.parse(http.request("127.0.0.1", port, "GET", "/metrics").body)
  return function(name, labels) return exposition.value(families, name, labels) or 0 end
end

describe("chowk.limit", function()
  local s
  setup(function() s = start { workers = 4 } end)
  teardown(function() s:stop() end)

  it("says what is left, and refuses with 429 and Retry-After", function()
    local a = s:get("/orders/A")
    assert.same({ 200, '"order";q=3;w=900', '"order";r=2;t=901' },
      { a.status, a.headers["ratelimit-policy"], a.headers["ratelimit"] })
    s:get("/orders/A")
    s:get("/orders/A")
    a = s:get("/orders/A")
    assert.same({ 429, "rate_limited", "order" }, { a.status, a.json.code, a.json["violated-policies"][1] })
    assert.equal('"order";r=0;t=' .. a.headers["retry-after"], a.headers["ratelimit"])
    assert.truthy(tonumber(a.headers["retry-after"]) > 890)
    assert.equal(200, s:get("/orders/B").status)
  end)

  it("allows exactly the limit over all workers", function()
    assert.same({ [200] = 500, [429] = 200 }, statuses(s:parallel(gets("/many", 700))))
    assert.same({ [200] = 100, [429] = 300 }, statuses(s:parallel(gets("/exact", 400))))
  end)

  it("charges all limits of a route, or none", function()
    local function login(email) return s:post("/login", { json = { email = email } }) end
    for _ = 1, 3 do assert.equal(200, login("Asha@example.com").status) end
    for _ = 1, 20 do assert.equal(429, login("asha@EXAMPLE.com").status) end
    local a = login("ravi@example.com") -- the refusals did not use up the address's own limits
    assert.same({ 200, '"login";r=96;t=901, "login-2";r=2;t=901, "public";r=6;t=901' },
      { a.status, (a.headers["ratelimit"]:gsub("t=900", "t=901"):gsub("t=899", "t=901")) })
    assert.equal(422, s:post("/login", { json = {} }).status) -- not counted: nothing was tried
    assert.equal('"public";r=5;t', s:get("/public").headers["ratelimit"]:match('^"public";r=%d+;t'))
  end)

  it("counts users apart, and whoever has none by address", function()
    local function me(user) return s:get("/me", { headers = { ["X-User"] = user } }).status end
    assert.same({ 200, 200, 429, 200 }, { me("a"), me("a"), me("a"), me("b") })
    assert.same({ 200, 200, 429 }, { me(), me(), me() })
  end)

  it("counts by a key of one's own", function()
    assert.same({ true, 200 }, { s:get("/manual/x").json.left, s:get("/manual/y").status })
    assert.equal(429, s:get("/manual/x").status)
  end)

  it("counts what went wrong where the handler says so, by the class's own keys", function()
    for _ = 1, 4 do assert.equal(200, s:get("/wrong/right").status) end
    assert.same({ 200, 200, 429 }, { s:get("/wrong/a").status, s:get("/wrong/b").status, s:get("/wrong/c").status })
    assert.equal('"wrong";r=0', s:get("/wrong/c").headers["ratelimit"]:match('^"wrong";r=0'))
    assert.equal(200, s:get("/wrong/right").status)
  end)

  it("counts who fails auth by what needs no user", function()
    local function knock(user) return s:post("/door", { headers = { ["X-User"] = user } }).status end
    assert.same({ 403, 500, 200 }, { knock(), knock("bug"), knock("door-user") }) -- a bug counts nobody
    assert.same({ 403, 403, 429, 429 }, { knock(), knock(), knock(), knock() })
    assert.equal(429, knock("door-user")) -- nor may he find the right key now
  end)
end)

describe("chowk.limit, otherwise", function()
  it("only reports, or does nothing", function()
    local s = start { mode = "report" }
    finally(function() s:stop() end)
    for _ = 1, 5 do assert.equal(200, s:get("/orders/A").status) end
    assert.truthy(s:logged("over the rate limit"))
    assert.equal('"order";r=0', s:get("/orders/A").headers["ratelimit"]:match('^"order";r=0'))
    local off = start { mode = "off" }
    finally(function() s:stop() off:stop() end)
    assert.is_nil(off:get("/orders/A").headers["ratelimit"])
  end)

  it("stalls nobody when a process dies, or stands still, with all its locks in hand", function()
    local admin = server.free_port()
    local s = start { workers = 4, admin = "127.0.0.1:" .. admin }
    finally(function() s:stop() end)
    assert.truthy(holder.die(s, "chowk-limit") >= 64)
    -- Empty, and exact again, but for who found a lock taken for longer than he may wait, on a busy machine.
    local got = statuses(s:parallel(gets("/exact", 400)))
    server.eventually("an account of every answer", function()
      local n_passed = metrics(admin)("limit_store_failures_total", { store = "memory" }) or 0
      return got[200] >= 100 and got[200] <= 100 + n_passed and got[200] + got[429] == 400
    end)
    server.eventually("the figure", function() return metrics(admin)("limit_orphaned_total") >= 1 end)
    local held = holder.stop(s, "chowk-limit")
    assert.truthy(held.n_locks >= 64)
    assert.same({ [200] = 200 }, statuses(s:parallel(gets("/many", 200)))) -- let pass, or counted where no lock is held
    server.eventually("the figure", function()
      return metrics(admin)("limit_store_failures_total", { store = "memory" }) >= 200
    end)
    held:kill()
    assert.equal('"exact";r=99', s:get("/exact").headers["ratelimit"]:match('^"exact";r=%d+')) -- empty once more
  end)

  it("refuses nothing in a dry run, whatever the store does, and counts what it saw", function()
    local node, admin = redis.start(), server.free_port()
    local s = start { mode = "report", store = "redis", redis_url = node:url(), admin = "127.0.0.1:" .. admin }
    finally(function() s:stop() node:stop() end)
    for _ = 1, 5 do assert.equal(200, s:get("/closed").status) end
    node:stop()
    for _ = 1, 5 do assert.equal(200, s:get("/closed").status) end
    server.eventually("the figures", function()
      local now = metrics(admin)
      return now("limit_store_failures_total", { store = "redis" }) == 5
        and now("limit_checks_total", { class = "closed", result = "allowed" }) == 2
        and now("limit_checks_total", { class = "closed", result = "reported" }) == 3
    end)
  end)

  it("allows exactly the limit over two servers of four workers on one Redis, hit at once", function()
    local node, admin = redis.start(), { server.free_port(), server.free_port() }
    local a = start { workers = 4, store = "redis", redis_url = node:url(), admin = "127.0.0.1:" .. admin[1] }
    local b = start { workers = 4, store = "redis", redis_url = node:url(), admin = "127.0.0.1:" .. admin[2] }
    finally(function() a:stop() b:stop() node:stop() end)
    assert.same({ [200] = 500, [429] = 300 }, statuses(a:parallel(gets("/many", 800, a, b))))
    assert.same({ [200] = 100, [429] = 300 }, statuses(a:parallel(gets("/exact", 400, a, b))))
    local function seen(result)
      local n, who = 0, 0
      for _, port in ipairs(admin) do
        local here = metrics(port)("limit_checks_total", { class = "exact", result = result })
        n, who = n + here, here > 0 and who + 1 or who
      end
      return { n, who }
    end
    server.eventually("both have counted", function() return seen("allowed")[1] + seen("refused")[1] == 400 end)
    assert.same({ { 100, 2 }, { 300, 2 } }, { seen("allowed"), seen("refused") })
    for i = 1, 6 do assert.equal(i <= 3 and 200 or 429, (i % 2 == 0 and a or b):get("/orders/Z").status) end
  end)

  it("follows each class's policy while Redis is away, and heals", function()
    local node = redis.start()
    local s = start { store = "redis", redis_url = node:url() }
    finally(function() s:stop() node:stop() end)
    assert.equal(200, s:get("/closed").status)
    node:stop()
    for _ = 1, 4 do assert.equal(503, s:get("/closed").status) end
    for _ = 1, 4 do assert.equal(200, s:get("/open").status) end
    local last
    for _ = 1, 4 do last = s:get("/orders/A").status end
    assert.equal(429, last)
    assert.truthy(s:logged("Redis does not answer"))
    node:start()
    local deadline = os.time() + 20
    while s:get("/closed").status ~= 200 and os.time() < deadline do os.execute("sleep 0.05") end
    assert.equal('"closed";q=2;w=900', s:get("/closed").headers["ratelimit-policy"])
  end)

  it("asks a Redis that has fallen silent now and then, not for each request", function()
    local node = redis.start()
    local s = start { store = "redis", redis_url = node:url() }
    finally(function() s:stop() node:stop() end)
    assert.equal(200, s:get("/open").status)
    node:cli "config resetstat"
    node:signal "STOP"
    for _ = 1, 30 do assert.equal(200, s:get("/open").status) end
    node:signal "CONT"                -- and now it counts what it was asked
    local n
    server.eventually("its count", function()
      n = tonumber(node:cli("info commandstats"):match "cmdstat_evalsha:calls=(%d+)")
      return n
    end)
    assert.truthy(n < 15, n)
  end)

  it("names the line of a class that is not there", function()
    local ok, why = pcall(server.start, { app = 'local r = require "chowk.app".routes()\n\n'
      .. 'r:get("/", { limit = "nothing" }, function() return "" end)\nreturn r' })
    assert.falsy(ok)
    assert.truthy(tostring(why):find('app.lua:3: there is no limit class "nothing"', 1, true), why)
    local bad = { classes = { public = { limit = 0, window = "1m" } } }
    ok, why = pcall(server.start, { app = APP, config = { limit = bad } })
    assert.falsy(ok)
    assert.truthy(tostring(why):find("limit.classes.public: limit: expected a whole number from 1", 1, true), why)
  end)
end)

describe("the shop's limits", function()
  local s
  setup(function()
    s = shop.start(server, {
      env = { LIMITS = "on", ADMIN_TOKEN = "spec_admin_token", SUPABASE_JWT_SECRET = shop.JWT_SECRET },
      config = { limit = { classes = { forged_webhooks = { limit = 3, window = "15m", key = "ip" } } } } })
  end)
  teardown(function() s:stop() end)

  it("count forged webhooks and let Razorpay's pass", function()
    local order = shop.place(s, { ["MGCHAI-11OZ"] = 1 })
    local function hook(signature)
      return shop.webhook(s, shop.payment_event("payment.captured", order, shop.payment_id()), nil, signature).status
    end
    for _ = 1, 5 do assert.equal(200, hook()) end
    for _ = 1, 3 do assert.equal(400, hook(("0"):rep(64))) end
    assert.same({ 429, 429, 200 }, { hook(("0"):rep(64)), hook("short"), hook() })
    assert.equal(6, #s:sql("SELECT 1 FROM webhook_events"))
  end)

  it("count payments by who is signed in, and by order for guests", function()
    local asha = shop.bearer "0b2f6a39-9a2e-4c1e-9a55-6ad0fd1b7a01"
    local function verify(i, authorization)
      local proof = shop.proof({ razorpay_order_id = "order_Limit" .. i }, shop.payment_id())
      return s:post("/api/payments/verify", { json = proof, headers = { Authorization = authorization } }).status
    end
    for i = 1, 5 do assert.equal(404, verify(i, asha)) end
    assert.same({ 429, 404 }, { verify(6, asha), verify(6) })
    for _ = 1, 5 do assert.equal(404, verify(7)) end
    assert.same({ 429, 404 }, { verify(7), verify(8) })
  end)

  it("are those that it has always had", function()
    local function policy(answer) return answer.headers["ratelimit-policy"] end
    assert.equal('"public";q=100;w=900', policy(s:get("/api/categories")))
    local proof = shop.proof({ razorpay_order_id = "order_Limit" }, shop.payment_id())
    assert.equal('"payments";q=5;w=900, "payments-2";q=300;w=900', policy(s:post("/api/payments/verify",
      { json = proof })))
    assert.is_nil(policy(s:get("/healthz")))
  end)

  it("let nobody guess the administration's token, and count it as an account", function()
    local function change(token)
      return s:patch("/api/admin/products/adrak-wali-chai-mug",
        { json = { is_active = true }, headers = { Authorization = "Bearer " .. token } })
    end
    local answer = change("spec_admin_token")
    assert.equal(200, answer.status, answer.body)
    assert.equal('"auth";q=10;w=900, "auth-2";q=10;w=900', answer.headers["ratelimit-policy"])
    for i = 1, 9 do assert.equal(403, change("guess" .. i).status) end
    assert.equal(429, change("guess").status)
    assert.equal(429, change("spec_admin_token").status)
  end)
end)
