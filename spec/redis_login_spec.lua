-- Who chowk is to Redis and to its sentinels: ACL users, each with rights of its own, in clear and over TLS.
local server = require "spec.support.server"
local redis = require "spec.support.redis"
local tls = require "spec.support.tls"

local APP = [==[
local app, redis = require "chowk.app", require "chowk.redis"
local routes = app.routes()
local function code(fn, ...)
  local value, err = try(fn, ...)
  return err and err.code .. ": " .. err.message or value
end
routes:get("/", {}, function()
  return { who = code(redis.acl, "WHOAMI"), port = redis.config("GET", "port")[2] }
end)
routes:get("/limited", {}, function()
  return { own = code(redis.set, "shop:x", 1), other = code(redis.set, "y", 1),
    command = code(redis.lpush, "shop:l", 1),
    pipeline = redis.pipeline { { "GET", "shop:x" }, { "GET", "y" } }[2].message }
end)
return routes
]==]

local WATCHER = "user watcher on >watch ~* &* +@all\nuser default off\n"

describe("logging in", function()
  local dir
  local running = {}

  setup(function()
    dir = server.sh("mktemp -d /tmp/chowk-redis-ca.XXXXXX"):match("%S+")
    tls.authority(dir, "ca")
    tls.certificate(dir, "ca", "good", "DNS:localhost,IP:127.0.0.1")
    tls.certificate(dir, "ca", "wrong", "DNS:elsewhere.example")
  end)
  after_each(function()
    while #running > 0 do table.remove(running):stop() end
    redis.stop_all()
  end)
  teardown(function() server.sh("rm -rf " .. dir) end)

  local function serve(url)
    local s = server.start { app = APP, redis_url = url }
    running[#running + 1] = s
    return s
  end
  local function refused(url, text)
    local s = serve(url)
    local answer = s:get("/")
    assert.equal(503, answer.status, answer.body)
    assert.truthy(s:logged(text), s:log())
  end

  local function tls_options(name, port, dashes)
    local file, lines = dir .. "/" .. name, {}
    for i, option in ipairs { "port 0", "tls-port " .. port, "tls-cert-file " .. file .. ".crt", "tls-key-file " .. file
      .. ".key", "tls-ca-cert-file " .. dir .. "/ca.crt", "tls-auth-clients no", "tls-replication yes" } do
      lines[i] = dashes .. option
    end
    return table.concat(lines, dashes == "" and "\n" or " ") .. "\n"
  end
  local function tls_node(name)
    local port = server.free_port()
    local node = redis.start { port = port, cli = "--tls --insecure", args = tls_options(name, port, "--"):sub(1, -2) }
    node:cli "acl setuser shop on '>hush' '~*' '&*' +@all"
    return node
  end
  local function sentinel(node, options)
    local port = server.free_port()
    return redis.start { port = port, args = "--sentinel", cli = "--user watcher --pass watch --no-auth-warning"
      .. (options and " --tls --insecure" or ""), config = (options and options(port) or "") .. WATCHER
      .. "sentinel monitor shop 127.0.0.1 " .. node.port .. " 1\n" }
  end
  local function good(port) return tls_options("good", port, "") end
  local function wrong(port) return tls_options("wrong", port, "") end
  local function url(scheme, at, more)
    return scheme .. "+sentinel://shop:hush@127.0.0.1:" .. at.port .. "/shop/0?sentinel_user=watcher"
      .. "&sentinel_password=watch" .. (more or "&ca=" .. dir .. "/ca.crt")
  end

  it("is done as an ACL user, with that user's rights", function()
    local node = redis.start()
    node:cli "acl setuser shop on '>hush' '~*' '&*' +@all"
    node:cli "acl setuser limited on '>hush' '~shop:*' '&*' -@all +ping +get +set"
    local s = serve("redis://shop:hush@127.0.0.1:" .. node.port)
    assert.same({ who = "shop", port = tostring(node.port) }, s:get("/").json)
    local limited = serve("redis://limited:hush@127.0.0.1:" .. node.port):get("/limited").json
    assert.equal("OK", limited.own)
    assert.truthy(limited.other:find("^redis_error: NOPERM"), limited.other)
    assert.truthy(limited.command:find("^redis_error: NOPERM"), limited.command)
    assert.truthy(limited.pipeline:find("^NOPERM"), limited.pipeline)
    refused("redis://shop:wrong@127.0.0.1:" .. node.port, "WRONGPASS")
    refused("redis://nobody:hush@127.0.0.1:" .. node.port, "WRONGPASS")
    node:cli "acl setuser shop off"
    node:cli "client kill user shop"
    server.eventually("it is locked out", function() return s:get("/").status == 503 end)
    node:cli "acl setuser shop on"
    server.eventually("it is back", function() return s:get("/").status == 200 end)
  end)

  it("is done at the sentinels as another user", function()
    local node = redis.start()
    node:cli "acl setuser shop on '>hush' '~*' '&*' +@all"
    local at = sentinel(node)
    assert.equal("shop", serve(url("redis", at, "")):get("/").json.who)
    refused(url("redis", at, ""):gsub("password=watch", "password=wrong"), "WRONGPASS")
    refused("redis+sentinel://shop:hush@127.0.0.1:" .. at.port .. "/shop", "NOAUTH") -- that user is for the data only
  end)

  it("is done over TLS, with the names of both verified", function()
    local node, stranger = tls_node "good", tls_node "wrong"
    assert.equal("shop", serve(url("rediss", sentinel(node, good))):get("/").json.who)
    local plain = "&sentinel_tls=off&ca=" .. dir .. "/ca.crt"
    assert.equal("shop", serve(url("rediss", sentinel(node), plain)):get("/").json.who)
    refused(url("rediss", sentinel(stranger, good)), "IP address mismatch")
    refused(url("rediss", sentinel(node, wrong)), "IP address mismatch")
  end)
end)
