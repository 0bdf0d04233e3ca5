-- chowk.http against a service that misbehaves (tests/fault/upstream.lua), nginx with TLS and HTTP/2, and chowk itself.
local server = require "spec.support.server"
local upstream = require "spec.support.upstream"

-- Each route takes what it is to do from the request: { fn = "get", url =, options = }.
local APP = [==[
local app, http, pg, task, json = require "chowk.app", require "chowk.http", require "chowk.pg", require "chowk.task",
  require "chowk.json"
local routes = app.routes()

local function told(res) return { status = res.status, headers = res.headers, body = res.body, url = res.url } end
local function failed(err)
  return { code = err.code, message = err.message, retryable = err.retryable, sent = err.sent }
end

routes:post("/call", { max_body = 4194304 }, function(req)
  local o = req:json()
  local ok, res = pcall(http[o.fn], o.url, o.options)
  if ok then return told(res) end
  if type(res) == "string" then return 500, res end
  return 200, failed(res)
end)
routes:get("/quick", function() return "quick" end)
routes:get("/stats", function() return http.stats() end)
routes:get("/echo", function(req) return { id = req.id, headers = req.headers } end)
routes:get("/pass", function(req) return told(http.get(req.query.url, { headers = { A = "b" } })) end)
routes:get("/late", { deadline = "300ms" }, function(req) return http[req.query.fn](req.query.url).body end)
routes:get("/in-tx", function(req) return pg.tx(function() return http.get(req.query.url).body end) end)
routes:get("/json", function(req)
  local value, err = try(function() return http.get(req.query.url):json() end)
  return err and failed(err) or { value = value }
end)
routes:get("/stream", function(req)
  local res = http.stream(req.query.url, { max_body = tonumber(req.query.max), timeout = req.query.timeout })
  local n, parts, biggest = 0, 0, 0
  local ok, err = pcall(function()
    for bytes in res:chunks() do
      n, parts, biggest = n + #bytes, parts + 1, math.max(biggest, #bytes)
      if req.query.pause then task.sleep(tonumber(req.query.pause)) end
      if req.query.stop then res:close() break end
    end
  end)
  return { status = res.status, bytes = n, parts = parts, biggest = biggest, err = not ok and (err.code or err) or nil }
end)
routes:get("/relay", function(req)
  local res = http.stream(req.query.url)
  return app.stream(function(w) for bytes in res:chunks() do w:write(bytes) end end)
end)
routes:get("/leave", function(req) -- opened, and never read
  http.stream(req.query.url, { timeout = "200ms" })
  return "left"
end)
routes:get("/all", function(req)
  local fns = {}
  for i = 1, tonumber(req.query.n) do
    fns[i] = function()
      local res, err = try(http.get, req.query.url, { timeout = "3s" })
      return res and res.status or err.code
    end
  end
  return task.all(fns)
end)
return routes
]==]

describe("chowk.http", function()
  local up, s

  setup(function()
    up = upstream.start()
    s = server.start { app = APP, config = { http_client = { breaker_failures = 0 } } }
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

    it("knows forms, parts, bytes and every method", function()
      local form = call("post", up:url("/echo"), { form = { b = "2 3", a = 1 } }).body
      assert.truthy(form:find("\r\n\r\na=1&b=2%20", 1, true), form)
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
      assert.truthy(s:log():find("a call out in an open transaction", 1, true))
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
end)
