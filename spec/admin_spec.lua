-- The admin listener: what /metrics counts, that it is well-formed, survives deaths, is bounded, and changes nothing.
local server = require "spec.support.server"
local http = require "spec.support.http"
local exposition = require "spec.support.exposition"
local json = require "dkjson"
local socket = require "socket"

local APP = [[
local app, task, pg, redis = require "chowk.app", require "chowk.task", require "chowk.pg", require "chowk.redis"
local routes = app.routes()
routes:get("/", function() return { hello = "world" } end)
routes:get("/items/:id", function(req) return { id = req.params.id } end)
routes:post("/items/:id", function() return 201, {} end)
routes:get("/boom", function() error("broken") end)
routes:get("/fail", function() return app.fail(422, "no") end)
routes:get("/sleep", function() task.sleep(60); return {} end)
routes:get("/spin", function() while true do end end)
routes:get("/pg", function() return { n = pg.value("SELECT 1") } end)
routes:get("/redis", function() return { n = redis.incr("n") } end)
for i = 1, 20 do routes:get("/many/" .. i, function() return {} end) end
return routes
]]

describe("the admin listener", function()
  local s, port

  local function start(opts)
    opts = opts or {}
    port = server.free_port()
    opts.app, opts.env = opts.app or APP, { CHOWK_ADMIN_LISTEN = "127.0.0.1:" .. port }
    s = server.start(opts)
  end
  local function admin(path, opts) return http.request("127.0.0.1", port, opts and opts.method or "GET", path, opts) end
  local function metrics() return exposition.parse(admin("/metrics").body) end
  local function requests(labels) return exposition.value(metrics(), "http_requests_total", labels) or 0 end
  local function status() return assert(json.decode(admin("/status").body)) end

  after_each(function()
    if s then s:stop() end
    s = nil
  end)

  it("counts requests by template, method and class of status", function()
    start { config = { workers = 2 } }
    local unrouted = requests { method = "GET", route = "none" }
    for i = 1, 12 do s:get("/items/" .. i) end
    for i = 1, 5 do s:post("/items/" .. i, { json = {} }) end
    s:get("/boom")
    s:get("/fail")
    s:get("/nowhere/at-all")
    s:request("DELETE", "/items/1")
    s:request("HEAD", "/items/1")
    assert.equal(13, requests { method = "GET", route = "/items/:id", status = "2xx" })
    assert.equal(5, requests { method = "POST", route = "/items/:id", status = "2xx" })
    assert.equal(18, requests { route = "/items/:id" })
    assert.equal(1, requests { route = "/boom", status = "5xx" })
    assert.equal(1, requests { route = "/fail", status = "4xx" })
    assert.equal(unrouted + 1, requests { method = "GET", route = "none", status = "4xx" })
    assert.equal(1, requests { method = "DELETE", route = "none", status = "4xx" })
    local now = metrics()
    assert.equal(13, exposition.value(now, "http_request_duration_seconds_count",
      { method = "GET", route = "/items/:id" }, "http_request_duration_seconds"))
    assert.equal(1, exposition.value(now, "lua_errors_total"))
    assert.falsy(admin("/metrics").body:find("at-all", 1, true))
  end)

  it("speaks both formats", function()
    start()
    s:get("/items/1")
    local answer = admin("/metrics")
    assert.equal("text/plain; version=0.0.4; charset=utf-8", answer.headers["content-type"])
    assert.equal("no-store", answer.headers["cache-control"])
    local accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    local open = admin("/metrics", { headers = { Accept = accept } })
    assert.equal("application/openmetrics-text; version=1.0.0; charset=utf-8", open.headers["content-type"])
    assert.equal("# EOF\n", open.body:sub(-6))
    local families = exposition.parse(open.body)
    assert.truthy(families.http_requests)
    assert.truthy(open.body:find('le="10.0"', 1, true))
    local plain = admin("/metrics", { headers = { Accept = "text/plain,application/openmetrics-text;q=0.2" } })
    assert.equal("text/plain; version=0.0.4; charset=utf-8", plain.headers["content-type"])
    exposition.parse(answer.body)
  end)

  it("shows pools, Redis and every process", function()
    start { config = { workers = 2 } }
    for _ = 1, 4 do
      assert.equal(200, s:get("/pg").status)
      assert.equal(200, s:get("/redis").status)
    end
    local now
    server.eventually("the looks", function()
      now = metrics()
      return exposition.value(now, "pg_queries_total") >= 4 and exposition.value(now, "pg_pool_connections") > 0
        and exposition.value(now, "redis_connections", { state = "ready" }) >= 2
    end)
    assert.truthy(exposition.value(now, "redis_commands_total") >= 4)
    assert.equal(0, exposition.value(now, "redis_errors_total"))
    for _, name in ipairs { "pg_query_duration_seconds", "pg_pool_wait_seconds", "redis_command_duration_seconds" } do
      assert.truthy(exposition.value(now, name .. "_count", nil, name) >= 4, name)
    end
    for _, process in ipairs { "master", "worker 0", "worker 1" } do
      assert.truthy(exposition.value(now, "process_resident_memory_bytes", { process = process }) > 1000000)
      assert.truthy(exposition.value(now, "process_open_fds", { process = process }) > 5)
      local started = exposition.value(now, "process_start_time_seconds", { process = process })
      assert.truthy(math.abs(started - os.time()) < 300)
    end
    assert.truthy(exposition.value(now, "lua_gc_bytes", { process = "worker 1" }) > 10000)
  end)

  it("never counts backwards when a worker is killed", function()
    start { config = { workers = 2 } }
    for _ = 1, 40 do s:get("/items/1") end
    local last = requests { route = "/items/:id" }
    assert.equal(40, last)
    for _ = 1, 3 do
      local victim = status().processes[1].pid
      server.sh("kill -KILL " .. victim)
      server.eventually("its successor", function()
        local now = requests { route = "/items/:id" }
        assert.truthy(now >= last, now .. " < " .. last)
        local list = status().processes
        return #list >= 2 and list[1].pid ~= victim and list[2].pid ~= victim
      end)
    end
    server.eventually("an answer", function() return pcall(s.get, s, "/") end)
    for _ = 1, 10 do s:get("/items/1") end
    assert.equal(50, requests { route = "/items/:id" })
  end)

  it("caps the number of routes", function()
    start { config = { metrics = { max_routes = 12 } } }
    for i = 1, 20 do s:get("/many/" .. i) end
    local routes = {}
    for _, sample in ipairs(metrics().http_requests_total.samples) do routes[sample.labels.route] = sample.value end
    local n = 0
    for _ in pairs(routes) do n = n + 1 end
    assert.truthy(n <= 14, n)
    assert.truthy(routes.other >= 8, routes.other)
    local unrouted = requests { route = "none" }
    s:get("/nowhere")
    assert.equal(unrouted + 1, requests { route = "none" })
  end)

  it("changes nothing, whatever it is asked", function()
    start()
    for _, method in ipairs { "POST", "PUT", "DELETE", "PATCH" } do
      for _, path in ipairs { "/metrics", "/status", "/readyz" } do
        assert.equal(405, admin(path, { method = method }).status)
      end
    end
    for _, path in ipairs { "/", "/reload", "/stop", "/metrics/", "/status/x", "/../etc/passwd" } do
      assert.equal(404, admin(path).status, path)
    end
    assert.equal(413, admin("/status", { method = "GET", body = ("x"):rep(100) }).status)
    assert.equal(200, admin("/healthz").status)
    assert.equal("", admin("/status", { method = "HEAD" }).body)
  end)

  it("answers while every worker is stuck", function()
    start()
    local sock = socket.connect("127.0.0.1", s.port)
    sock:send("GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
    server.eventually("the stuck request", function()
      return exposition.value(metrics(), "http_inflight_requests") == 1
    end)
    local began = socket.gettime()
    assert.equal(200, admin("/status").status)
    assert.equal(200, admin("/healthz").status)
    assert.truthy(socket.gettime() - began < 5)
    for _, process in ipairs(status().processes) do server.sh("kill -KILL " .. process.pid) end
    sock:close()
  end)

  it("is ready while a worker serves, and not when a stop has begun", function()
    start { config = { workers = 2, stop = { lame_duck = "60s" } } }
    server.eventually("readiness", function() return admin("/readyz").status == 200 end)
    assert.equal(true, status().ready)
    s:kill("TERM")
    server.eventually("unreadiness", function() return admin("/readyz").status == 503 end)
    assert.equal(200, s:get("/").status)
    assert.equal(0, exposition.value(metrics(), "chowk_ready"))
  end)

  it("is not opened at a taken address, unless nobody asked for that one", function()
    start()
    local out, code = server.sh(("mkdir -p %s/second/conf && cp %s/app.lua %s/second && cd %s/second && " ..
      "CHOWK_ADMIN_LISTEN=127.0.0.1:%d PORT=%d timeout 20 %s serve"):format(s.dir, s.dir, s.dir, s.dir, port,
      server.free_port(), os.getenv "CHOWK"))
    assert.equal(1, code)
    assert.truthy(out:find(("admin.listen: 127.0.0.1:%d is taken by pid %d (chowk); choose another, or \"off\"")
      :format(port, s.pid), 1, true), out)
  end)
end)
