-- Who the client is behind proxies: what req.ip says, and what limits count by.
local server = require "spec.support.server"
local socket = require "socket"

local APP = [[
local app = require "chowk.app"
local routes = app.routes()
routes:get("/ip", function(req) return req.ip end)
routes:get("/limited", { limit = "public" }, function() return "ok" end)
return routes
]]

local function start(http)
  local s = server.start { app = APP, env = { LIMITS = "on" }, start = false,
    config = { workers = 1, http = http, limit = { classes = { public = { limit = 2, window = "1h" } } } } }
  function s:wait_ready() -- a plain request is none where the PROXY protocol is spoken
    server.eventually("start", function()
      if not self:is_alive() then error(self:log(), 0) end
      return self:log():find("serving", 1, true)
    end)
  end
  s:start_process()
  return s
end

local function from(s, ip, path)
  return s:get(path or "/ip", { headers = { ["X-Forwarded-For"] = ip } })
end

-- One request on a connection of its own, after the greeting → the whole answer.
local function greet(s, greeting)
  local c = assert(socket.connect("127.0.0.1", s.port))
  c:settimeout(10)
  c:send(greeting .. "GET /ip HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
  local answer, _, partial = c:receive("*a")
  c:close()
  return answer or partial
end

describe("the client's address", function()
  it("is the peer's unless a proxy is trusted", function()
    local s = start(nil)
    finally(function() s:stop() end)
    assert.equal("127.0.0.1", from(s, "203.0.113.9").body)
  end)

  it("is what trusted proxies say, and limits count by it", function()
    local s = start { trusted_proxies = { "loopback", "10.0.0.0/8" } }
    finally(function() s:stop() end)
    assert.equal("203.0.113.9", from(s, "6.6.6.6, 203.0.113.9, 10.1.1.1").body)
    for _ = 1, 2 do assert.equal(200, from(s, "203.0.113.1", "/limited").status) end
    assert.equal(429, from(s, "6.6.6.6, 203.0.113.1", "/limited").status) -- an invented hop does not help
    assert.equal(200, from(s, "203.0.113.2", "/limited").status)
  end)

  it("counts an IPv6 subscriber's /56 as one", function()
    local s = start { trusted_proxies = { "1" } }
    finally(function() s:stop() end)
    local statuses = {}
    for i, ip in ipairs { "2001:db8:0:aa00::1", "2001:db8:0:aaff::9", "2001:db8:0:aa12::3", "2001:db8:0:ab00::1" } do
      statuses[i] = from(s, ip, "/limited").status
    end
    assert.same({ 200, 200, 429, 200 }, statuses)
  end)

  it("comes from the PROXY greeting where that is spoken", function()
    local s = start { trusted_proxies = { "loopback" }, proxy_protocol = true }
    finally(function() s:stop() end)
    assert.truthy(greet(s, "PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n"):find("\r\n\r\n203.0.113.9", 1, true))
    assert.truthy(greet(s, "PROXY UNKNOWN\r\n"):find("\r\n\r\n127.0.0.1", 1, true))
    assert.equal("", greet(s, ""))
  end)

  it("refuses a start that trusts nonsense", function()
    for _, http in ipairs { { trusted_proxies = { "everybody" } }, { proxy_protocol = true } } do
      local ok, why = pcall(start, http)
      assert.falsy(ok)
      assert.truthy(tostring(why):find("http.trusted_proxies: ", 1, true), why)
    end
  end)
end)
