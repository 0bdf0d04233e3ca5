-- What the configuration may give application code beyond the sandbox. What the sandbox keeps in is in the unit tests.
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
