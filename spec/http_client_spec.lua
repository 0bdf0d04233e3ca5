-- chowk.http against a service that misbehaves (tests/fault/upstream.lua) and chowk itself. Addresses, TLS and names:
-- http_client_net_spec.lua.
local app = require "spec.support.caller"
local exposition = require "spec.support.exposition"
local http = require "spec.support.http"
local server = require "spec.support.server"
local upstream = require "spec.support.upstream"

describe("chowk.http", function()
  local up, s

  setup(function()
    up = upstream.start()
    s = server.start { app = app, config = { http_client = { breaker_failures = 0 } } }
  end)
  teardown(function()
    s:stop()
    up:stop()
  end)

  local function call(fn, url, options, to)
    local answer = (to or s):post("/call", { json = { fn = fn, url = url, options = options } })
    return answer.json or answer.body, answer
  end
  -- The failure of a call, by its code.
  local function fails(code, fn, url, options, to)
    local err, answer = call(fn, url, options, to)
    assert.equal(code, type(err) == "table" and err.code, answer.body .. (to or s):log())
    return err
  end
  local function misuses(text, fn, url, options)
    local answer = s:post("/call", { json = { fn = fn, url = url, options = options } })
    assert.equal(500, answer.status, answer.body)
    assert.truthy(answer.body:find(text, 1, true), answer.body)
    assert.truthy(answer.body:find("app.lua:", 1, true), answer.body)
  end

  describe("a call", function()
    it("sends what it is told and gives back what came", function()
      local res = call("post", up:url("/echo?a=1"), { json = { x = { 1, 2 } }, query = { b = "ü &", c = { 1, true } },
        headers = { ["X-One"] = "1", ["X-Two"] = { "a", "b" }, ["X-Empty"] = "" }, basic = { "key", "secret" } })
      assert.equal(200, res.status)
      assert.truthy(res.body:find("^POST /echo%?a=1&b=%%C3%%BC%%20%%26&c=1&c=true HTTP/1.1\r\n"), res.body)
      for _, line in ipairs { "X-One: 1", "X-Two: a", "X-Two: b", "X-Empty:", "Content-Type: application/json",
        "Authorization: Basic a2V5OnNlY3JldA==", "Content-Length: 11", "Host: 127.0.0.1:" .. up.port } do
        assert.truthy(res.body:find("\r\n" .. line .. "\r\n", 1, true), line .. "\n" .. res.body)
      end
      assert.truthy(res.body:find('\r\n\r\n{"x":[1,2]}', 1, true), res.body)
    end)

    -- Another process that repeats it has its own order of a table's keys.
    it("writes one table as one text", function()
      local json = { speed = "normal", amount = 100, receipt = "PC-1", notes = { order = "PC-1", by = "shop" },
        list = { { b = 1, a = "ü\n" }, "x" }, none = require("dkjson").null, part = 1.5,
        no = false }
      local body = call("post", up:url("/echo"), { json = json }).body
      assert.equal('{"amount":100,"list":[{"a":"ü\\n","b":1},"x"],"no":false,"none":null,'
        .. '"notes":{"by":"shop","order":"PC-1"},"part":1.5,"receipt":"PC-1","speed":"normal"}',
        body:match "\r\n\r\n(.*)$")
    end)

    it("knows forms, parts, bytes and every method", function()
      local form = call("post", up:url("/echo"), { form = { b = "2 3", a = 1 } }).body
      assert.truthy(form:find("\r\n\r\na=1&b=2%203", 1, true), form)
      local parts = call("put", up:url("/echo"), { multipart = { { name = "f\"", data = "\0bytes", filename = "x.bin" },
        { name = "n", data = "v" } } }).body
      assert.truthy(parts:find('form-data; name="f%22"; filename="x.bin"\r\n'
        .. "Content-Type: application/octet-stream\r\n\r\n\0bytes\r\n--chowk-", 1, true), parts)
      for _, method in ipairs { "get", "delete", "options", "patch" } do
        assert.truthy(call(method, up:url("/echo")).body:find("^" .. method:upper() .. " /echo HTTP"), method)
      end
      local deleted = call("delete", up:url("/echo"), { body = "gone" }).body
      assert.truthy(deleted:find("^DELETE ") and deleted:find("\r\n\r\ngone$"), deleted)
      local head = call("head", up:url("/echo"))
      assert.same({ 200, "" }, { head.status, head.body })
      local big = call("post", up:url("/echo"), { body = ("z"):rep(2000000) })
      assert.equal(2000000, #big.body:match("\r\n\r\n(z*)$"))
    end)

    it("gives any status as an answer, and nothing twice", function()
      assert.equal(404, call("get", up:url("/status/404")).status)
      assert.equal(500, call("post", up:url("/status/500")).status)
      assert.equal(1, up:counts()["POST /status/500"])
    end)

    it("passes the request's id and trace on", function()
      local id, trace = "shop-7", "00-12345678901234567890123456789012-1234567890123456-01"
      local function pass(headers)
        return s:get("/pass?url=http://127.0.0.1:" .. s.port .. "/echo", { headers = headers }).json.body
      end
      local body = pass { ["X-Request-Id"] = id, traceparent = trace }
      assert.truthy(body:find('"id":"shop-7"', 1, true), body)
      local span = body:match('"traceparent":"00%-12345678901234567890123456789012%-(%x+)%-01"')
      assert.truthy(span and #span == 16 and span ~= "1234567890123456", body)
      assert.falsy(pass { traceparent = trace .. "-more" }:find("traceparent", 1, true))
    end)

    it("refuses what cannot be a call, and says what to write", function()
      local url = up:url("/echo")
      misuses("unknown option", "get", url, { retry = 1 })
      misuses("has no body", "get", url, { json = { 1 } })
      misuses("only one of", "post", url, { json = { 1 }, body = "x" })
      misuses("line break", "get", url, { headers = { A = "b\r\nEvil: 1" } })
      misuses("is set by the call itself", "get", url, { headers = { ["content-length"] = "1" } })
      misuses("may not be repeated", "post", url, { retries = 2 })
      misuses("whole number up to 5", "get", url, { redirects = 6 })
      fails("invalid", "get", "ftp://127.0.0.1/")
      fails("invalid", "get", "http://user:pass@127.0.0.1/")
      fails("invalid", "get", "http://127.0.0.1/\nx")
      fails("invalid", "get", "/relative")
    end)

    it("is refused in a transaction", function()
      local answer = s:get("/in-tx?url=" .. up:url("/echo"))
      assert.equal(500, answer.status)
      assert.truthy(s:logged("a call out in an open transaction"))
    end)
  end)

  describe("time", function()
    it("is the call's own, and the request's above it", function()
      local err = fails("timeout", "get", up:url("/never"), { timeout = "100ms" })
      assert.same({ true, true }, { err.retryable, err.sent })
      err = fails("timeout", "post", up:url("/never"), { timeout = "100ms", body = "x" })
      assert.same({ false, true }, { err.retryable, err.sent })
      local answer = s:get("/late?fn=get&url=" .. up:url("/never"))
      assert.same({ 503, "deadline" }, { answer.status, answer.json.code })
      answer = s:get("/late?fn=post&url=" .. up:url("/never"))
      assert.same({ 503, "outcome_unknown" }, { answer.status, answer.json.code })
      fails("timeout", "get", up:url("/drip/500"), { timeout = "150ms" }) -- bytes that come do not stretch it
    end)

    it("ends at once where nobody listens", function()
      local err = fails("unavailable", "post", "http://127.0.0.1:" .. server.free_port() .. "/", { body = "x" })
      assert.same({ true, false }, { err.retryable, err.sent })
    end)
  end)

  describe("what comes back", function()
    it("has a bound, also after decompression", function()
      local bomb = up.dir .. "/bomb.gz"
      server.sh("head -c 60000000 /dev/zero | gzip -9 >" .. bomb)
      fails("too_large", "get", up:url("/file?" .. bomb))
      fails("too_large", "get", up:url("/chunks/100/1000"), { max_body = 50000 })
      fails("too_large", "get", up:url("/chunks/100000/1000"))
      fails("too_large", "get", up:url("/lines"))
      local small = up.dir .. "/small.gz"
      server.sh("head -c 100000 /dev/zero | gzip -9 >" .. small)
      assert.equal(100000, #call("get", up:url("/file?" .. small), { max_body = "100000" }).body)
    end)

    it("is refused when it is no answer", function()
      fails("bad_response", "get", up:url("/garbage"))
      fails("bad_response", "get", up:url("/badzip"))
      fails("unavailable", "get", up:url("/short"))
      assert.equal("bad_response", s:get("/json?url=" .. up:url("/echo")).json.code)
      assert.equal(1, s:get("/json?url=" .. up:url("/count")).json.value["GET /echo"] and 1)
    end)
  end)

  describe("a connection", function()
    it("is kept, and a dead one costs no call that may be repeated", function()
      assert.equal("once", call("get", up:url("/once")).body)
      local before = up:counts()["GET /once"]
      assert.equal("once", call("get", up:url("/once")).body) -- the upstream closed without a word: sent anew
      assert.equal(before + 2, up:counts()["GET /once"])
    end)

    it("is never the reason to send a POST twice", function()
      for _, options in ipairs { { body = "charge" }, { body = ("c"):rep(200000) }, {} } do
        local before = up:counts()["POST /once"] or 0
        assert.equal("once", call("get", up:url("/once")).body)
        local err = call("post", up:url("/once"), options)
        local n = up:counts()["POST /once"] - before
        assert.equal(1, n)
        if options.body then assert.same({ "unavailable", false, true }, { err.code, err.retryable, err.sent }) end
      end
    end)
  end)

  describe("a redirect", function()
    local other
    setup(function() other = upstream.start() end)
    teardown(function() other:stop() end)

    it("is an answer, unless it shall be followed", function()
      local res = call("get", up:url("/to?/echo"))
      assert.same({ 302, "/echo" }, { res.status, res.headers.location })
      res = call("get", up:url("/to?/echo"), { redirects = 1 })
      assert.same({ 200, up:url("/echo") }, { res.status, res.url })
      fails("bad_response", "get", up:url("/to?/to?/echo"), { redirects = 1 })
    end)

    it("changes the method as browsers do, and takes no secret elsewhere", function()
      local secret = { redirects = 3, body = "b", headers = { Authorization = "s3", Cookie = "c=1", ["X-Plain"] = "p",
        ["Content-Type"] = "text/x" } }
      local body = call("post", up:url("/to?" .. other:url("/echo")), secret).body
      assert.truthy(body:find("^GET /echo") and body:find("X-Plain: p", 1, true), body)
      for _, absent in ipairs { "s3", "c=1", "text/x", "\r\n\r\nb" } do
        assert.falsy(body:find(absent, 1, true), body)
      end
      body = call("post", up:url("/to307?" .. other:url("/echo")), secret).body
      assert.truthy(body:find("^POST /echo") and body:find("\r\n\r\nb$"), body)
      assert.falsy(body:find("s3", 1, true), body)
      assert.truthy(call("post", up:url("/to307?/echo"), secret).body:find("Authorization: s3", 1, true))
    end)

    it("is judged like the first call", function()
      fails("forbidden_address", "get", up:url("/to?http://10.0.0.1/"), { redirects = 1 })
      fails("forbidden_address", "get", up:url("/to?http://169.254.169.254/latest/"), { redirects = 1 })
      fails("bad_response", "get", up:url("/to?file:///etc/passwd"), { redirects = 1 })
    end)
  end)

  describe("many calls", function()
    it("retry only when asked, and only what may be repeated", function()
      assert.equal(503, call("get", up:url("/status/503"), { retries = 2 }).status)
      assert.equal(3, up:counts()["GET /status/503"])
      assert.equal(429, call("post", up:url("/status/429"), { retries = 1, idempotent = true }).status)
      assert.equal(2, up:counts()["POST /status/429"])
      assert.equal(503, call("put", up:url("/status/503")).status)
      assert.equal(1, up:counts()["PUT /status/503"])
    end)

    it("wait for a place, in a bounded queue", function()
      local few = server.start { app = app, config = { http_client = { max_per_host = 2, max_waiters = 3 } } }
      local codes = few:get("/all?n=8&url=" .. up:url("/after/100")).json
      local n = {}
      for _, code in ipairs(codes) do n[code] = (n[code] or 0) + 1 end
      assert.same({ [200] = 5, queue_full = 3 }, n)
      assert.equal(5, up:counts()["GET /after/100"])
      local stats = few:get("/stats").json
      assert.same({ 0, 0, 8, 3 }, { stats.active, stats.waiting, stats.calls, stats.refused })
      few:stop()
    end)

    it("stop after failures in a row, and one tries again", function()
      local few = server.start { app = app, config = { http_client = { breaker_failures = 2,
        breaker_open = "300ms" } } }
      call("get", up:url("/status/502"), nil, few)
      fails("unavailable", "get", up:url("/drop"), nil, few)
      local before = up:counts()["GET /echo"]
      local err = fails("unavailable", "get", up:url("/echo"), nil, few)
      assert.truthy(err.message:find("http://127.0.0.1:" .. up.port, 1, true), err.message)
      assert.same({ false, before }, { err.sent, up:counts()["GET /echo"] })
      assert.equal(1, few:get("/stats").json.open_breakers)
      server.eventually("the breaker to try", function()
        return call("get", up:url("/echo"), nil, few).status == 200
      end)
      assert.equal(0, few:get("/stats").json.open_breakers)
      few:stop()
    end)
  end)

  it("is counted", function()
    local port = server.free_port()
    local few = server.start { app = app, env = { CHOWK_ADMIN_LISTEN = "127.0.0.1:" .. port } }
    call("get", up:url("/echo"), nil, few)
    fails("unavailable", "get", up:url("/drop"), nil, few)
    server.eventually("metrics of calls out", function()
      local now = exposition.parse(http.request("127.0.0.1", port, "GET", "/metrics").body)
      return exposition.value(now, "http_client_calls_total") == 2
        and exposition.value(now, "http_client_failures_total") == 1
        and exposition.value(now, "http_client_duration_seconds_count", nil, "http_client_duration_seconds") == 2
    end)
    few:stop()
  end)

  describe("a stream", function()
    local function stream(path, more) return s:get("/stream?url=" .. up:url(path) .. (more or "")).json end

    it("is read bit by bit, and not faster", function()
      local got = stream("/chunks/100/20000", "&pause=0.001")
      assert.same({ 200, 2000000 }, { got.status, got.bytes })
      assert.is_true(got.biggest <= 81920 and got.parts >= 24, got.biggest .. " " .. got.parts)
      assert.is_true(stream("/chunks/100000/20000", "&stop=1").bytes <= 81920)
      assert.equal(20, stream("/drip/20").bytes)
      assert.equal(2000000, #s:get("/relay?url=" .. up:url("/chunks/100/20000")).body)
    end)

    it("says when it did not end well", function()
      assert.same({ "unavailable", 10 }, { stream("/short").err, stream("/short").bytes })
      assert.equal("timeout", stream("/after/5000", "&timeout=50ms").code or stream("/after/5000", "&timeout=50ms").err)
      assert.equal("too_large", stream("/chunks/100/20000", "&max=100000").err)
    end)

    it("that nobody reads gives its connection back", function()
      assert.equal("left", s:get("/leave?url=" .. up:url("/chunks/100000/20000")).body)
      server.eventually("its end", function() return s:get("/stats").json.active == 0 end)
    end)
  end)
end)
