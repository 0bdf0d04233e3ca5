-- Rate limits on a real server: exact over several workers and over two servers on one Redis, all or none, and what
-- happens without Redis.
local server = require "spec.support.server"
local redis = require "spec.support.redis"

local APP = [[
local app, limit, t = require "chowk.app", require "chowk.limit", require "chowk.schema"
local routes = app.routes()
local who = { body = t.object { email = t.string {} } }
local function login(req) return { email = req:json().email } end
routes:get("/public", { limit = "public" }, function() return "ok" end)
routes:get("/many", { limit = "many" }, function() return "ok" end)
routes:get("/orders/:number", { limit = "order" }, function(req) return req.params.number end)
routes:get("/me", { limit = "user", auth = function(req) return { id = req.headers["x-user"] } end },
  function() return "me" end)
routes:post("/login", { limit = { "login", "public" }, body = who.body }, login)
routes:get("/manual/:key", function(req)
  limit.check("order", req.params.key)
  return { left = limit.allows("order", req.params.key, 2) }
end)
routes:get("/closed", { limit = "closed" }, function() return "ok" end)
routes:get("/open", { limit = "open" }, function() return "ok" end)
return routes
]]

local CLASSES = {
  public = { limit = 10, window = "15m", key = "ip" },
  many = { limit = 500, window = "1h" },
  order = { limit = 3, window = "15m", key = "params.number" },
  user = { limit = 2, window = "15m", key = { "user", "ip" } },
  login = { { limit = 100, window = "15m", key = "ip" }, { limit = 3, window = "15m", key = "body.email" } },
  closed = { limit = 2, window = "15m", on_store_failure = "closed" },
  open = { limit = 2, window = "15m", on_store_failure = "open" },
}

local function start(opts)
  opts = opts or {}
  return server.start { app = APP, env = { LIMITS = opts.mode or "on" }, redis_url = opts.redis_url,
    config = { workers = opts.workers or 1, limit = { classes = CLASSES, store = opts.store } } }
end

local function statuses(answers)
  local out = {}
  for _, a in ipairs(answers) do out[a.status] = (out[a.status] or 0) + 1 end
  return out
end

local function gets(path, n)
  local list = {}
  for i = 1, n do list[i] = { "GET", path } end
  return list
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
    local answers = s:parallel(gets("/many", 700))
    assert.same({ [200] = 500, [429] = 200 }, statuses(answers))
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
end)

describe("chowk.limit, otherwise", function()
  it("only reports, or does nothing", function()
    local s = start { mode = "report" }
    finally(function() s:stop() end)
    for _ = 1, 5 do assert.equal(200, s:get("/orders/A").status) end
    assert.truthy(s:log():find("over the rate limit", 1, true))
    assert.equal('"order";r=0', s:get("/orders/A").headers["ratelimit"]:match('^"order";r=0'))
    local off = start { mode = "off" }
    finally(function() s:stop() off:stop() end)
    assert.is_nil(off:get("/orders/A").headers["ratelimit"])
  end)

  it("allows exactly the limit over two servers on one Redis", function()
    local node = redis.start()
    local a = start { workers = 2, store = "redis", redis_url = node:url() }
    local b = start { workers = 2, store = "redis", redis_url = node:url() }
    finally(function() a:stop() b:stop() node:stop() end)
    local n = 0
    for _ = 1, 4 do
      n = n + (statuses(a:parallel(gets("/many", 100)))[200] or 0)
      n = n + (statuses(b:parallel(gets("/many", 100)))[200] or 0)
    end
    assert.equal(500, n)
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
    assert.truthy(s:log():find("Redis does not answer", 1, true))
    node:start()
    local deadline = os.time() + 20
    while s:get("/closed").status ~= 200 and os.time() < deadline do os.execute("sleep 0.05") end
    assert.equal('"closed";q=2;w=900', s:get("/closed").headers["ratelimit-policy"])
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
