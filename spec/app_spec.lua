-- The Lua API of routes on a real server: what handlers return and raise, streams, deadlines, the sandbox.
local server = require "spec.support.server"

local APP = [==[
local app, task, json, t = require "chowk.app", require "chowk.task", require "chowk.json", require "chowk.schema"
local log = require "chowk.log"
local r = app.routes()
local after = "nothing"

r:get("/table", function() return { items = json.array(), n = 1 } end)
r:get("/text", function() return "namaste" end)
r:get("/created", function() return 201, { id = 7 }, { Location = "/things/7" } end)
r:get("/empty", function() return app.empty end)
r:get("/moved", function() return app.redirect("/text") end)
r:get("/nothing", function() end)
r:get("/number", function() return 204 end)
r:get("/gsub", function() return ("a-b"):gsub("-", "+") end)
r:get("/fail", function() app.fail(404, "product_not_found", "No such mug", { slug = "mug" }) end)
r:get("/bug", function() local x; return x.y end)
r:get("/user-coroutine", function()
  local gen = coroutine.wrap(function() for i = 1, 3 do task.sleep("1ms"); coroutine.yield(i) end end)
  return { gen(), gen(), gen() }
end)
r:get("/slow", { deadline = "50ms" }, function() pcall(task.sleep, 30); after = "swallowed"; return "late" end)
r:get("/after", function() return after end)
r:get("/all", function()
  return task.all { function() task.sleep("20ms"); return "a" end, function() return "b" end }
end)
r:get("/stream", function()
  return app.stream(function(w)
    for i = 1, 20000 do w:write(("%06d\n"):format(i)) end
  end, { content_type = "text/plain" })
end)
r:get("/broken-stream", function() return app.stream(function(w) w:write("half"); error("lost it") end) end)
r:post("/echo", { body = { count = t.integer(), note = t.optional(t.string { max = 5 }) }, max_body = "1KiB" },
  function(req) return req:json() end)
r:get("/global", function() leaked = 1 return "x" end)
r:get("/log", function() log.warn("told", { answer = 42 }); return "x" end)
return r
]==]

describe("chowk.app", function()
  local s
  setup(function() s = server.start { app = APP } end)
  teardown(function() s:stop() end)

  it("sends what a handler returns", function()
    local a = s:get("/table")
    assert.equal(200, a.status)
    assert.equal("application/json", a.headers["content-type"])
    assert.truthy(a.body:find('"items":[]', 1, true))
    assert.equal("namaste", s:get("/text").body)
    a = s:get("/created")
    assert.same({ 201, "/things/7", '{"id":7}' }, { a.status, a.headers.location, a.body })
    a = s:get("/empty")
    assert.same({ 204, "" }, { a.status, a.body })
    a = s:get("/moved")
    assert.same({ 302, "/text" }, { a.status, a.headers.location })
  end)

  it("refuses what is not an answer, and names the route in the log", function()
    for _, path in ipairs { "/nothing", "/number", "/gsub" } do
      local a = s:get(path)
      assert.same({ 500, "internal_error" }, { a.status, a.json.code })
      assert.truthy(s:logged(a.json.error_id))
      assert.truthy(s:logged("the handler of GET " .. path))
    end
  end)

  it("turns app.fail into a problem and a bug into a 500 with an error id", function()
    local a = s:get("/fail")
    assert.equal("application/problem+json", a.headers["content-type"])
    assert.same({ 404, "product_not_found" }, { a.status, a.json.code })
    assert.same({ "No such mug", "mug" }, { a.json.detail, a.json.slug })
    a = s:get("/bug")
    assert.equal(500, a.status)
    assert.truthy(s:logged(a.json.error_id))
    assert.truthy(s:logged("attempt to index local 'x' (a nil value)"))
  end)

  it("shows a browser what failed, in development", function()
    local a = s:get("/bug", { headers = { Accept = "text/html", Authorization = "Bearer sesame" } })
    assert.equal(500, a.status)
    assert.equal("text/html; charset=utf-8", a.headers["content-type"])
    assert.truthy(a.body:find("attempt to index local 'x' (a nil value)", 1, true))
    assert.truthy(a.body:find("<span class=here>", 1, true)) -- the source line
    assert.falsy(a.body:find("sesame", 1, true))
    a = s:get("/fail", { headers = { Accept = "text/html" } }) -- an answer, not a mistake
    assert.equal("application/problem+json", a.headers["content-type"])
  end)

  it("lets calls wait inside a user's coroutine", function()
    assert.equal("[1,2,3]", s:get("/user-coroutine").body)
    assert.equal('["a","b"]', s:get("/all").body)
  end)

  it("ends a request at its deadline, whatever pcall says", function()
    local a = s:get("/slow")
    assert.same({ 503, "deadline" }, { a.status, a.json.code })
    assert.truthy(a.headers["retry-after"])
    assert.equal("nothing", s:get("/after").body)
  end)

  it("streams, and cuts the connection when the stream fails", function()
    local a = s:get("/stream")
    assert.equal(140000, #a.body)
    assert.equal("020000\n", a.body:sub(-7))
    a = s:get("/broken-stream")
    assert.falsy(a.body:find("\r\n0\r\n\r\n", 1, true))
    assert.truthy(s:logged("lost it"))
    assert.equal(200, s:get("/text").status)
  end)

  it("validates bodies, all errors at once", function()
    assert.equal('{"count":5}', s:post("/echo", { json = { count = 5 } }).body)
    local a = s:post("/echo", { json = { count = 1.5, note = "too long", more = 1 } })
    assert.same({ 422, "invalid", 3 }, { a.status, a.json.code, #a.json.errors })
    local headers = { ["Content-Type"] = "application/json" }
    assert.equal(400, s:post("/echo", { body = '{"count":01}', headers = headers }).status)
    assert.equal(415, s:post("/echo", { body = "count=1" }).status)
    assert.equal(413, s:post("/echo", { json = { count = 1, note = ("x"):rep(2000) } }).status)
  end)

  it("keeps globals frozen and names the line", function()
    assert.equal(500, s:get("/global").status)
    assert.truthy(s:logged("write to the global 'leaked'"))
  end)

  it("logs with the request's id", function()
    local id = s:get("/log").headers["x-request-id"]
    local line
    assert.truthy(s:logged("told"))
    for l in s:log():gmatch("[^\n]+") do
      if l:find("told", 1, true) then line = l end
    end
    assert.truthy(line and line:find(id, 1, true) and line:find("42", 1, true))
  end)
end)
