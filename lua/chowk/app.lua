-- The application's face: routes, answers, failures, start and stop.
local core = require "chowk.core.app"
local process = require "chowk.core.config"
local vm = require "chowk.core.vm"
local raise = require "chowk.raise"
local routes = require "chowk.routes"
local sandbox = require "chowk.sandbox"

local M = {}
local RESPONSE = vm.meta("response")
local settle = raise.settle

--- A new, empty set of routes: routes:get(pattern, options?, handler), post, put, patch, delete, use(fn),
-- mount(prefix, routes). Patterns: "/a/:name/*rest". A module that declares routes returns them. While loading only.
-- Options: params query body (schemas), auth (function(req) → user or nil), max_body, deadline, summary, tags, name.
M.routes = routes.new

--- Ends the request with an RFC 9457 problem, and rolls back an open transaction. Does not return.
-- @param status integer  400 to 599  @param code string  for programs  @param detail string|nil  for people
-- @param extra table|nil  further members of the problem; retry_after also sets the header of a 429 or 503
function M.fail(status, code, detail, extra)
  if type(status) ~= "number" or status < 400 or status > 599 or status % 1 ~= 0 then
    raise.misuse("app.fail: the status must be 400 to 599, got %s", tostring(status))
  end
  if type(code) ~= "string" or code == "" then
    raise.misuse("app.fail: the code must be a string, got %s", type(code))
  end
  if detail ~= nil and type(detail) ~= "string" then
    raise.misuse("app.fail: the detail must be a string, got %s", type(detail))
  end
  if extra ~= nil and type(extra) ~= "table" then
    raise.misuse("app.fail: the extra members must be a table, got %s", type(extra))
  end
  raise.problem(status, code, detail, extra)
end

--- The answer without a body: `return app.empty` is the 204.
local EMPTY = {} -- one of those, for everybody: constant
for k, v in pairs(RESPONSE) do EMPTY[k] = v end
EMPTY.__index = { status = 204 }
EMPTY.__newindex = function() raise.misuse("app.empty cannot be changed") end
M.empty = sandbox.constant(setmetatable({}, EMPTY))

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

--- An answer that sends the client elsewhere: `return app.redirect(url)`.
-- @param url string  @param status integer|nil  301, 302 (default), 303, 307, 308
function M.redirect(url, status)
  if type(url) ~= "string" then raise.misuse("app.redirect: expected a URL, got %s", type(url)) end
  if status ~= nil and not REDIRECTS[status] then
    raise.misuse("app.redirect: the status must be 301, 302, 303, 307 or 308, got %s", tostring(status))
  end
  return setmetatable({ status = status or 302, headers = { Location = url } }, RESPONSE)
end

local STREAM_OPTIONS = { content_type = "string", status = "number", headers = "table" }

--- An answer written piece by piece: `return app.stream(function(w) w:write("…") end)`. The function runs after the
-- handler has returned, without a deadline; w:write yields while the client reads slower than it writes.
-- @param fn function(w)  w:write(string | raw JSON): raises cancelled when the client is gone
-- @param options table|nil  content_type ("application/octet-stream"), status (200), headers
function M.stream(fn, options)
  if type(fn) ~= "function" then raise.misuse("app.stream: expected a function(w), got %s", type(fn)) end
  options = options or {}
  for name, value in pairs(options) do
    local expected = STREAM_OPTIONS[name]
    if not expected then raise.unknown("app.stream", name, STREAM_OPTIONS) end
    if type(value) ~= expected then
      raise.misuse("app.stream: %s: expected a %s, got %s", name, expected, type(value))
    end
  end
  return setmetatable({ status = options.status or 200, headers = options.headers, stream = fn,
    content_type = options.content_type or "application/octet-stream" }, RESPONSE)
end

core.set_writer_methods {
  write = function(writer, text) settle(core.write(writer, text)) end,
}

--- The path of a named route:
-- app.url_for("product", { slug = "mug" }, { ref = "mail" }) → "/api/products/mug?ref=mail". Misuse for a missing one.
M.url_for = routes.url_for

local function hook(name)
  return function(fn)
    if type(fn) ~= "function" then raise.misuse("app.%s: expected a function, got %s", name, type(fn)) end
    core[name](fn)
  end
end

--- Runs fn() when this generation starts, or stops, on every worker: what connects, subscribes or spawns goes here.
-- While loading only. fn may yield. At a reload the old generation's tasks are cancelled and its on_stop begins, then
-- the new one's on_start begins, then it gets its first request; neither waits for the other to end. Requests of the
-- old generation may still be in flight after its on_stop, which has five seconds.
M.on_start, M.on_stop = hook("on_start"), hook("on_stop")

--- fn() decides whether new code may serve: before a reload it runs once, in a process of its own that serves nobody,
-- with PostgreSQL and Redis at hand. Raising, returning false, or not ending within reload.timeout refuses the reload.
-- While loading only. fn may yield. It sees the real databases: read, and write nothing you do not roll back.
M.self_test = hook("self_test")

--- True once a stop has begun: requests are still served, but a readiness check should say no. Does not yield.
M.is_stopping = process.is_stopping

--- True while some worker of this machine is in a crash loop: it is not started again until there is other code. The
-- others serve for it, but a readiness check should say no, so that somebody looks. Does not yield.
M.is_degraded = process.is_degraded

return M
