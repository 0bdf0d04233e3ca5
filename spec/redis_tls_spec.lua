-- rediss:// against a real redis-server with TLS and a certificate authority of the spec's own.
local server = require "spec.support.server"
local redis = require "spec.support.redis"
local tls = require "spec.support.tls"

local APP = [==[
local app, redis = require "chowk.app", require "chowk.redis"
local routes = app.routes()
routes:get("/", function() return { redis.set("k", ("x"):rep(300000)), #redis.get("k") } end)
routes:get("/sub", function()
  local sub = redis.subscribe("c")
  redis.publish("c", "over tls")
  local message = sub:next(2)
  sub:close()
  return { message.payload, redis.blpop("nothing", 0.05) == nil }
end)
return routes
]==]

describe("rediss://", function()
  local dir, good, wrong

  local function tls_node(name)
    local port = server.free_port()
    local file = dir .. "/" .. name
    return redis.start { port = port, cli = "--tls --insecure", args = "--port 0 --tls-port " .. port
      .. " --tls-cert-file " .. file .. ".crt --tls-key-file " .. file .. ".key --tls-ca-cert-file " .. dir
      .. "/ca.crt --tls-auth-clients no --requirepass hush" }
  end

  setup(function()
    dir = server.sh("mktemp -d /tmp/chowk-redis-ca.XXXXXX"):match("%S+")
    tls.authority(dir, "ca")
    tls.authority(dir, "stranger")
    tls.certificate(dir, "ca", "good", "DNS:localhost,IP:127.0.0.1")
    tls.certificate(dir, "ca", "wrong", "DNS:elsewhere.example")
    good, wrong = tls_node "good", tls_node "wrong"
  end)
  teardown(function()
    redis.stop_all()
    server.sh("rm -rf " .. dir)
  end)

  local function with(url, config, fn)
    local s = server.start { app = APP, redis_url = url, config = config and { redis = config } }
    local ok, err = pcall(fn, s)
    s:stop()
    assert(ok, err)
  end
  local function refused(url, config, text)
    with(url, config, function(s)
      assert.equal(503, s:get("/").status)
      assert.truthy(s:logged(text), s:log())
    end)
  end

  it("verifies the name, by ca= in the URL or redis.ca", function()
    with("rediss://:hush@localhost:" .. good.port .. "/1?ca=" .. dir .. "/ca.crt", nil, function(s)
      local answer = s:get("/")
      assert.same({ "OK", 300000 }, answer.json, answer.body .. s:log())
      assert.same({ "over tls", true }, s:get("/sub").json)
    end)
    with("rediss://:hush@127.0.0.1:" .. good.port, { ca = dir .. "/ca.crt" }, function(s)
      assert.same({ "OK", 300000 }, s:get("/").json, s:log())
    end)
  end)

  it("refuses a certificate for another name", function()
    refused("rediss://:hush@localhost:" .. wrong.port .. "?ca=" .. dir .. "/ca.crt", nil, "ostname mismatch")
    refused("rediss://:hush@127.0.0.1:" .. wrong.port .. "?ca=" .. dir .. "/ca.crt", nil, "IP address mismatch")
  end)

  it("refuses an authority it does not know", function()
    local url, failed = "rediss://:hush@localhost:" .. good.port, "certificate verify failed"
    refused(url .. "?ca=" .. dir .. "/stranger.crt", nil, failed)
    refused(url, nil, failed) -- by the system's store
  end)

  it("says when the port does not speak TLS", function()
    local plain = redis.start()
    refused("rediss://localhost:" .. plain.port .. "?ca=" .. dir .. "/ca.crt", nil, "redis: ")
  end)

  it("refuses to start without its CA file", function()
    local s = server.start { app = APP, redis_url = "rediss://localhost:1?ca=/no/such.pem", start = false }
    assert.is_false((pcall(s.start_process, s)))
    assert.truthy(s:logged("/no/such.pem"), s:log())
    s.pid = nil
    s:stop()
  end)
end)
