-- chowk.http and the network: where it may connect, TLS and HTTP/2 (nginx), and a name server that takes its time.
local socket = require "socket"
local app = require "spec.support.caller"
local nginx = require "spec.support.nginx"
local process = require "spec.support.process"
local server = require "spec.support.server"
local tls = require "spec.support.tls"
local upstream = require "spec.support.upstream"

describe("chowk.http and addresses", function()
  it("calls nothing private, however it is written", function()
    local up = upstream.start()
    local s = server.start { app = app, config = { http_client = { allow_private = {} } } }
    for _, host in ipairs { "127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "[::1]",
      "[::ffff:127.0.0.1]", "0.0.0.0", "10.1.2.3", "169.254.169.254", "192.168.1.1", "100.100.100.200",
      "[fd00:ec2::254]", "[fe80::1]" } do
      local url = "http://" .. host .. ":" .. up.port .. "/echo"
      local answer = s:post("/call", { json = { fn = "get", url = url } })
      assert.equal("forbidden_address", answer.json.code, url .. " " .. answer.body)
    end
    assert.is_nil(up:counts()["GET /echo"])
    s:stop()
    up:stop()
  end)
end)

describe("chowk.http and TLS", function()
  local dir, good, wrong, s
  local LISTEN = [[
    listen 127.0.0.1:PORT ssl http2; ssl_certificate FILES/NAME.crt; ssl_certificate_key FILES/NAME.key;
    location / { return 200 "$server_protocol $connection"; }
    location /down { return 302 http://127.0.0.1/; }]]

  setup(function()
    dir = server.sh("mktemp -d /tmp/chowk-http-ca.XXXXXX"):match("%S+")
    tls.authority(dir, "ca")
    tls.certificate(dir, "ca", "good", "DNS:localhost")
    tls.certificate(dir, "ca", "wrong", "DNS:elsewhere.example")
    good = nginx.start { files = dir, server = (LISTEN:gsub("NAME", "good")) }
    wrong = nginx.start { files = dir, server = (LISTEN:gsub("NAME", "wrong")) }
    s = server.start { app = app, config = { http_client = { ca = dir .. "/ca.crt" } } }
  end)
  teardown(function()
    s:stop()
    good:stop()
    wrong:stop()
    server.sh("rm -rf " .. dir)
  end)
  local function get(to, port, path, options)
    local url = "https://localhost:" .. port .. path
    return to:post("/call", { json = { fn = "get", url = url, options = options } }).json
  end

  it("speaks HTTP/2 over one kept connection", function()
    local first = get(s, good.port, "/").body
    assert.truthy(first and first:find("^HTTP/2.0 %d+$"), first)
    for _ = 1, 3 do assert.equal(first, get(s, good.port, "/").body) end
    for _, status in ipairs(s:get("/all?n=20&url=https://localhost:" .. good.port .. "/").json) do
      assert.equal(200, status)
    end
    assert.is_true(s:get("/stream?url=https://localhost:" .. good.port .. "/").json.bytes > 0)
  end)

  it("verifies the name and the authority, and never leaves TLS", function()
    local err = get(s, wrong.port, "/")
    assert.equal("unavailable", err.code)
    assert.truthy(err.message:find("subject", 1, true), err.message)
    assert.equal(false, err.sent)
    local system = server.start { app = app }
    err = get(system, good.port, "/")
    assert.equal("unavailable", err.code)
    assert.truthy(err.message:find("certificate", 1, true), err.message)
    system:stop()
    err = get(s, good.port, "/down", { redirects = 1 })
    assert.equal("bad_response", err.code)
    assert.truthy(err.message:find("from https to http", 1, true), err.message)
  end)
end)

describe("chowk.http and names", function()
  local up, dns, s, dir

  -- In a mount namespace of its own the server has another /etc/resolv.conf: this spec runs as root.
  setup(function()
    up = upstream.start()
    dns = process.start "luajit tests/fault/dns.lua 127.0.0.98"
    dir = server.sh("mktemp -d /tmp/chowk-dns.XXXXXX"):match("%S+")
    server.sh("printf 'nameserver 127.0.0.98\noptions timeout:20 attempts:1\n' >" .. dir .. "/resolv.conf")
    s = server.start { app = app, wrap = "unshare -m sh -c 'mount --bind " .. dir
      .. "/resolv.conf /etc/resolv.conf && exec \"$0\" \"$@\"'" }
  end)
  teardown(function()
    s:stop()
    dns:stop()
    up:stop()
    server.sh("rm -rf " .. dir)
  end)

  it("are never waited for by anybody else", function()
    local began = socket.gettime()
    local slow = "/late?fn=get&url=http://slow.test:" .. up.port .. "/echo"
    local requests = { { "GET", slow }, { "GET", slow } }
    for _ = 1, 20 do requests[#requests + 1] = { "GET", "/quick" } end
    requests[#requests + 1] = { "GET", "/pass?url=http://fast.test:" .. up.port .. "/echo" }
    local answers = s:parallel(requests)
    assert.same({ 503, "deadline" }, { answers[1].status, answers[1].json.code })
    for i = 3, 22 do
      assert.equal("quick", answers[i].body)
      assert.is_true(answers[i].seconds < answers[1].seconds, "a request waited for a name")
    end
    assert.equal(200, answers[23].json.status, answers[23].body)
    assert.is_true(answers[23].seconds < answers[1].seconds, "another name waited for the slow one")
    assert.equal("quick", s:get("/quick").body) -- after the call was given up, too
    assert.is_true(socket.gettime() - began < 6, "something waited for the name server")
  end)

  it("that lead inside, or nowhere, are told apart", function()
    local function code(name)
      return s:post("/call", { json = { fn = "get", url = "http://" .. name .. ":" .. up.port .. "/echo" } }).json.code
    end
    assert.equal("forbidden_address", code "inside.test")
    assert.equal("unavailable", code "nowhere.test")
  end)
end)
