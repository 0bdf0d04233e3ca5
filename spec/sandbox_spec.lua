-- What the configuration may give application code beyond the sandbox; and that nothing of the library can be changed
-- from an application, whichever way it is reached. What else the sandbox keeps in is in the unit tests.
local server = require "spec.support.server"

local APP = [[
local app = require "chowk.app"
local routes = app.routes()
routes:get("/", function()
  local file = assert(io.open("/proc/self/comm"))
  local name = file:read("*l")
  file:close()
  return { comm = name, popen = io.popen ~= nil, home = os.getenv("HOME") ~= nil, execute = os.execute ~= nil,
    ffi = require("ffi").abi("64bit") }
end)
return routes
]]

describe("sandbox.allow", function()
  it("gives back what it names, and no more", function()
    local s = server.start { app = APP, config = { sandbox = { allow = { "io.open", "os.getenv", "ffi" } } } }
    finally(function() s:stop() end)
    assert.same({ popen = false, home = true, execute = false, ffi = true, comm = "chowk" }, s:get("/").json)
  end)

  it("refuses the start for a name that is not there", function()
    local ok, why = pcall(server.start, { app = APP, config = { sandbox = { allow = { "io.nothing" } } } })
    assert.falsy(ok)
    assert.truthy(tostring(why):find('sandbox.allow: there is no "io.nothing" to allow', 1, true), why)
  end)
end)

-- With `debug`, to look behind the frozen tables; what it then tries, any application could.
local WALKER = [[
local app, pg, redis, http = require "chowk.app", require "chowk.pg", require "chowk.redis", require "chowk.http"
local t, json, jobs, mail = require "chowk.schema", require "chowk.json", require "chowk.jobs", require "chowk.mail"
local look = debug.getmetatable
local holes, seen, n = {}, {}, 0

local function hole(path, what) holes[#holes + 1] = path .. ": " .. what end

local function is_hidden(path, object)
  if type(getmetatable(object)) == "table" then hole(path, "its metatable is open") end
  local class = look(object)
  if class and type(object) == "table" and pcall(setmetatable, object, {}) then
    hole(path, "takes another metatable")
    debug.setmetatable(object, class)
  end
end

-- The library's own: nothing in it may change.
local function walk(path, object)
  if type(object) ~= "table" or seen[object] then return is_hidden(path, object) end
  seen[object], n = true, n + 1
  is_hidden(path, object)
  if pcall(function() object.intruder = 1 end) then hole(path, "takes a new member") end
  if pcall(rawset, object, "intruder", 1) then hole(path, "takes a new member by rawset") end
  for key, value in next, object do
    if pcall(function() object[key] = value end) then hole(path, "lets " .. tostring(key) .. " be replaced") end
  end
  local contents = look(object) and look(object).__index
  for key, value in next, type(contents) == "table" and contents or object do
    walk(path .. "." .. tostring(key), value)
  end
end

-- What it makes for the application, which may do with it what it likes, but for all others.
local function made(path, object)
  if object == nil then return hole(path, "was not made") end
  if type(object) ~= "table" and type(object) ~= "userdata" or seen[object] then return end
  seen[object], n = true, n + 1
  is_hidden(path, object)
  for key, value in next, type(object) == "table" and object or {} do made(path .. "." .. tostring(key), value) end
end

local modules = {}
for name in ("@MODULES@"):gmatch("%S+") do
  local ok, module = pcall(require, "chowk." .. name)
  if ok then
    modules[#modules + 1] = name
    walk("chowk." .. name, module)
  end
end
for name in ("string table math os coroutine bit table.new"):gmatch("%S+") do walk(name, require(name)) end
is_hidden("a string", "")
is_hidden("a function", print)
is_hidden("_G", _G)
if pcall(rawset, _G, "print", 1) or pcall(function() print = 1 end) then hole("_G", "its print can be replaced") end

local routes = app.routes()
made("routes", routes)
made("routes:get", routes:get("/healthz", function() return "ok" end) or routes)
for _, make in ipairs { t.string, t.integer, t.slug } do made("a schema", make()) end
made("t.array", t.array(t.string()))
made("t.object", t.object { a = t.optional(t.string()) })
made("redis.script", redis.script "return 1")
made("jobs.define", jobs.define("job", function(_, job) made("a job", job) return job end) or {})

routes:get("/made", { query = t.object { q = t.optional(t.string()) } }, function(req)
  made("req", req)
  for _, name in ipairs { "headers", "query", "params", "cookies", "ctx" } do made("req." .. name, req[name] or {}) end
  made("app.redirect", app.redirect "/")
  made("app.stream", app.stream(function() end))
  made("json.array", json.array {})
  made("json.decode", json.decode '{"a": [null, {}]}')
  made("pg.array", pg.array({ 1 }, "int4"))
  made("pg.jsonb", pg.jsonb {})
  made("pg.query", pg.query "SELECT 1 AS a, NULL AS b")
  made("pg.json", pg.json "SELECT 1 AS a")
  made("pg.tx", pg.tx(function(tx) made("tx", tx) return 1 end))
  made("pg.listen", pg.listen "channel")
  pg.copy_in("COPY numbers FROM STDIN", function(writer) made("pg.copy_in", writer) writer:write "1\n" end)
  made("redis.subscribe", redis.subscribe "channel")
  redis.multi(function(m) made("redis.multi", m) m.set("a", "b") end)
  local response = http.get(req.query.q)
  made("http.get", response)
  made("http.stream", http.stream(req.query.q))
  made("a failure", select(2, try(pg.query, "SELECT * FROM nowhere")))
  made("a problem", select(2, pcall(app.fail, 404, "x")))
  made("mail.template", mail.template { subject = "a", text = "b" })
  made("json.raw", json.raw "1")
  return { holes = json.array(holes), n = n, modules = modules }
end)
return routes
]]

describe("an application", function()
  it("cannot change the library", function()
    local modules = {}
    for path in server.sh("ls lua/chowk/*.lua"):gmatch("chowk/([%w_]+)%.lua") do modules[#modules + 1] = path end
    local s = server.start { app = WALKER:gsub("@MODULES@", table.concat(modules, " ")),
      config = { sandbox = { allow = { "debug" } } } }
    finally(function() s:stop() end)
    s:exec "CREATE TABLE numbers (n int)"
    local answer = s:get("/made?q=http://127.0.0.1:" .. s.port .. "/healthz")
    assert.equal(200, answer.status, answer.body .. s:log())
    assert.same({}, answer.json.holes)
    assert.truthy(#answer.json.modules >= 18 and answer.json.n > 80, answer.body)
  end)
end)
