-- A stop under load: whoever was let in is answered; then the port refuses.
local load = require "spec.support.load"
local server = require "spec.support.server"
local socket = require "socket"

local APP = [[
local app, log, task = require "chowk.app", require "chowk.log", require "chowk.task"
local routes = app.routes()
routes:get("/healthz", function() return "ok" end)
routes:get("/work", function() task.sleep(0.005); return "done" end)
routes:get("/long", function() log.info "begun"; task.sleep(0.6); return "late but whole" end)
routes:get("/readyz", function() return app.is_stopping() and 503 or 200, {} end)
return routes
]]

describe("a stop", function()
  local s

  local function start(config)
    config.workers = 2
    s = server.start { app = APP, config = config }
  end

  local function is_over() return not s:is_alive() end

  after_each(function()
    s:stop()
  end)

  for name, config in pairs {
    ["answers every request that was let in, in development"] = { environment = "development" },
    ["answers every request that was let in, in production"] = { environment = "production",
      stop = { lame_duck = "300ms" }, razorpay = { key_id = "x", key_secret = "x", webhook_secrets = { "x" } } },
  } do
    it(name, function()
      start(config)
      local l = load.start(s.port, 40, "/work")
      l:run(0.5)
      assert.truthy(l.answered > 200, l.answered)
      s:kill "TERM"
      l:run(is_over, 20)
      l:finish()
      assert.same({}, l.failed)
      assert.truthy(l.closed >= 40, l.closed) -- they were told, not cut
      assert.falsy(s:log():find("did not stop cleanly", 1, true), s:log())
    end)
  end

  it("answers who connects anew for each request", function()
    start { stop = { lame_duck = 0 } }
    local l = load.start(s.port, 40, "/work")
    l.request = l.request:gsub("\r\n\r\n$", "\r\nConnection: close\r\n\r\n")
    l:run(0.5)
    s:kill "TERM"
    l:run(is_over, 20)
    l:run(function() return l.refused > 0 end, 20)
    l:finish()
    assert.same({}, l.failed)
  end)

  it("refuses at once while the last answers are on their way", function()
    start { stop = { lame_duck = 0 } }
    local sock = assert(socket.connect("127.0.0.1", s.port))
    sock:send("GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    assert.is_true(s:logged "begun")
    s:kill "TERM"
    server.eventually("a refusal", function()
      local probe = socket.tcp()
      probe:settimeout(0.2)
      local _, err = probe:connect("127.0.0.1", s.port)
      probe:close()
      return err == "connection refused"
    end)
    assert.truthy(s:is_alive())
    sock:settimeout(10)
    local answer = sock:receive("*a")
    assert.truthy(answer:find("late but whole", 1, true), answer)
    assert.truthy(answer:lower():find("connection: close", 1, true), answer)
    s:wait_exit()
  end)

  it("serves an idle connection's next request for a moment, and tells it to go", function()
    start { stop = { lame_duck = 0 } }
    local busy = assert(socket.connect("127.0.0.1", s.port))
    busy:send("GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    local idle = assert(socket.connect("127.0.0.1", s.port))
    idle:settimeout(10)
    local function get()
      idle:send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
      local head = {}
      repeat
        local line = idle:receive("*l")
        head[#head + 1] = line
      until not line or line == ""
      idle:receive(2)
      return head[1] and table.concat(head, "\n")
    end
    assert.truthy(get():find("200 OK", 1, true))
    s:kill "TERM"
    local answer
    repeat answer = get() until not answer or answer:find("503", 1, true)
    assert.truthy(answer, "closed without a word")
    while answer and not answer:lower():find("connection: close", 1, true) do answer = get() end
    assert.truthy(answer, "closed without `Connection: close`")
    busy:close()
    s:wait_exit()
  end)

  it("cuts all at a second TERM", function()
    start { stop = { lame_duck = "30s" } }
    s:kill "TERM"
    server.eventually("unreadiness", function() return s:get("/readyz").status == 503 end)
    s:kill "TERM"
    s:wait_exit(5)
  end)
end)
