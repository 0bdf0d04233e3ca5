-- Route declarations and what they compile to: one function run(req) per route. Private; chowk.app hands it out.
--
-- A route without options and middleware is its bare handler. Otherwise, in this order: auth, validation of params,
-- query and body (all errors together), the `use` functions from the outermost in, the handler. Everything is decided
-- while loading; a mistake in a declaration is an error that names its line.
local config = require("chowk.core.config").read()
local core = require "chowk.core.vm"
local req_core = require "chowk.core.req"
local limit = require "chowk.limit"
local raise = require "chowk.raise"
local schema = require "chowk.schema"
local time = require "chowk.time"

local M = {}
local Routes = {}
Routes.__index = Routes

local MAX_MOUNTS = 16
local has_routes = false -- some module has declared one
local named = {} -- name → {pattern, origin}, of the compiled routes

local function declare_only(what)
  if not core.is_loading() then raise.misuse("%s is for loading time: routes are fixed once loaded", what) end
end

-- ---- options ----------------------------------------------------------------------------------------------

local SIZES = { [""] = 1, B = 1, K = 1024, KB = 1024, KiB = 1024, M = 1048576, MB = 1048576, MiB = 1048576 }

local function bytes(value)
  if type(value) == "number" and value >= 1 and value % 1 == 0 then return value end
  local amount, unit = tostring(value):match("^(%d+)%s*(%a*)$")
  if not SIZES[unit] then raise.misuse('max_body: expected bytes or "10MiB", got %s', raise.shown(value)) end
  return amount * SIZES[unit]
end

local function of_type(expected)
  return function(value, name)
    if type(value) ~= expected then raise.misuse("%s: expected a %s, got %s", name, expected, type(value)) end
    return value
  end
end

local function auth(value)
  if type(value) == "function" then return value end
  raise.misuse("auth: expected a function(req) that returns the user or nil, got %s",
    type(value) == "string" and '"' .. value .. '"' or type(value))
end

local function deadline(value)
  local seconds = time.seconds(value)
  if seconds < 0.001 or seconds > 86400 then raise.misuse("deadline: expected 1ms to 1d, got %s", tostring(value)) end
  return seconds
end

local function idempotent(value)
  if value == true or value == "steps" then return value end
  raise.misuse('idempotent: expected true or "steps", got %s', raise.shown(value))
end

local function guest(value)
  local name = type(value) == "string" and value:match("^body%.([%w_]+)$")
  if not name then raise.misuse('guest: expected a member such as "body.email", got %s', raise.shown(value)) end
  return name
end

local READERS = { params = schema.compile, query = schema.compile, body = schema.compile, auth = auth, max_body = bytes,
  deadline = deadline, limit = limit.compile,
  idempotent = idempotent, guest = guest, summary = of_type "string", tags = of_type "table", name = of_type "string" }

local function read_options(options)
  local out = {}
  for name, value in pairs(options) do
    local reader = READERS[name]
    if not reader then raise.unknown("route", name, READERS) end
    out[name] = reader(value, name)
  end
  return out
end

-- ---- declaring --------------------------------------------------------------------------------------------

local function origin()
  return (core.where():gsub(": $", ""))
end

local function add(self, method, pattern, options, handler)
  declare_only("routes:" .. method:lower())
  if getmetatable(self) ~= Routes then raise.misuse("write routes:%s(…), with a colon", method:lower()) end
  if handler == nil then options, handler = {}, options end
  if type(pattern) ~= "string" or pattern:sub(1, 1) ~= "/" then
    raise.misuse('a route\'s pattern starts with "/", got %s', raise.shown(pattern))
  end
  if type(options) ~= "table" then raise.misuse("%s: the options must be a table, got %s", pattern, type(options)) end
  if type(handler) ~= "function" then
    raise.misuse("%s: the handler must be a function, got %s", pattern, type(handler))
  end
  if method == "GET" and options.body then
    raise.misuse("%s: a GET has no body: declare what it takes as `query`", pattern)
  end
  has_routes = true
  local entry = { method = method, pattern = pattern, options = read_options(options), handler = handler,
    origin = origin() }
  self.entries[#self.entries + 1] = entry
  return self
end

for _, method in ipairs { "GET", "POST", "PUT", "PATCH", "DELETE" } do
  Routes[method:lower()] = function(self, pattern, options, handler)
    return add(self, method, pattern, options, handler)
  end
end

function Routes:use(fn)
  declare_only("routes:use")
  if type(fn) ~= "function" then raise.misuse("routes:use: expected a function(req), got %s", type(fn)) end
  self.uses[#self.uses + 1] = fn
  return self
end

function Routes:mount(prefix, routes)
  declare_only("routes:mount")
  if type(prefix) ~= "string" or not prefix:match("^/") then
    raise.misuse('routes:mount: the prefix starts with "/", got %s', raise.shown(prefix))
  end
  if not M.is_routes(routes) then
    raise.misuse("routes:mount: expected app.routes(), got %s (does the module return its routes?)", type(routes))
  end
  self.entries[#self.entries + 1] = { prefix = prefix:gsub("/$", ""), mounted = routes, origin = origin() }
  return self
end

function M.new()
  return setmetatable({ entries = {}, uses = {} }, Routes)
end

--- Whether some module has declared a route, mounted or not.
function M.has_any()
  return has_routes
end

function M.is_routes(value)
  return getmetatable(value) == Routes
end

-- ---- compiling --------------------------------------------------------------------------------------------

local put, raw_pcall = req_core.put, pcall

local function check_user(req, fn)
  local user = fn(req)
  if not user then raise.problem(401, "unauthorized", "sign in first") end
  put(req, "user", user)
end

-- The limits that need no user count whoever is refused here; he who is not is tested with all of them later.
local function check_user_or_stranger(req, fn, check_stranger)
  local ok, err = raw_pcall(check_user, req, fn)
  if ok then return end
  if core.is_problem(err) and err.status < 500 then check_stranger(req) end
  error(err, 0)
end

-- Declared values replace what the URL had; the rest of the parameters stay as they are.
local function validate_params(req, of, errors)
  local raw = req.params
  local values = schema.run(of, raw, { errors = errors, where = "params", is_text = true, ignores_unknown = true })
  if #errors > 0 then return end
  for name, value in pairs(raw) do
    if values[name] == nil then values[name] = value end
  end
  put(req, "params", values)
end

local function validate(req, options)
  local errors = {}
  if options.params then validate_params(req, options.params, errors) end
  if options.query then
    put(req, "query", schema.run(options.query, req.query,
      { errors = errors, where = "query", is_text = true, ignores_unknown = true }))
  end
  if options.body then put(req, "json", schema.run(options.body, req:json(), { errors = errors })) end
  schema.raise_errors(errors)
end

-- Calls chain[i](req), chain[i + 1](req) … until one returns something.
local function run_chain(chain, i, req, ...)
  if (...) ~= nil then return ... end
  local fn = chain[i]
  if i == #chain then return fn(req) end
  return run_chain(chain, i + 1, req, fn(req))
end

local function wrap(options, uses, handler, pattern)
  local chain = {}
  for i, fn in ipairs(uses) do chain[i] = fn end
  chain[#chain + 1] = handler
  if options.idempotent then
    local library = options.idempotent == "steps" and "chowk.idempotency_steps" or "chowk.idempotency"
    chain[#chain] = require(library).wrap(handler, options.guest, pattern)
  end
  local has_schema = options.params or options.query or options.body
  local auth_fn, limits = options.auth, options.limit or {}
  local phase, check_limit, check_stranger = limits.phase, limits.check, limits.check_stranger
  local authorize = check_stranger and check_user_or_stranger or check_user
  return function(req)
    if phase == "early" then check_limit(req) end
    if auth_fn then authorize(req, auth_fn, check_stranger) end
    if phase == "user" then check_limit(req) end
    if has_schema then validate(req, options) end
    if phase == "body" then check_limit(req) end
    return run_chain(chain, 1, req)
  end
end

local function takes_arguments(fn)
  local info = debug.getinfo(fn, "u")
  return info.nparams > 0 or info.isvararg
end

-- A schema for a parameter that the pattern does not have would refuse every request.
local function check_params(entry, pattern)
  local declared = entry.options.params and entry.options.params.fields or {}
  for name in pairs(declared) do
    if not (pattern .. "/"):find("/[:*]" .. name:gsub("%W", "%%%0") .. "/") then
      error(('%s: params: the pattern %s has no parameter "%s"'):format(entry.origin, pattern, name), 0)
    end
  end
end

local function check_idempotent(entry)
  local options = entry.options
  if not options.idempotent then return end
  if type(config["app.secret"]) ~= "table" or #config["app.secret"] == 0 then
    error(entry.origin .. ": idempotent: kept answers are encrypted: set APP_SECRET (app.secret)", 0)
  end
  if not options.auth and not options.guest then
    error(entry.origin .. ': idempotent: say whose keys they are: `auth`, or guest = "body.email"', 0)
  end
  if options.guest and not options.body then
    error(entry.origin .. ": guest: it names a member of the body, so the route needs a `body` schema", 0)
  end
end

local function compile_entry(entry, prefix, uses)
  local options = entry.options
  local pattern = entry.pattern
  if prefix ~= "" then pattern = pattern == "/" and prefix or prefix .. pattern end
  check_params(entry, pattern)
  check_idempotent(entry)
  if options.limit and options.limit.phase == "body" and not options.body then
    error(("%s: limit: it counts by a member of the body, so the route needs a `body` schema"):format(entry.origin), 0)
  end
  local is_bare = #uses == 0 and not (options.auth or options.params or options.query or options.body
    or options.limit and options.limit.phase or options.idempotent)
  if options.name then
    local twin = named[options.name]
    if twin then
      error(('%s: the route name "%s" is taken by %s'):format(entry.origin, options.name, twin.origin), 0)
    end
    named[options.name] = { pattern = pattern, origin = entry.origin }
  end
  return {
    method = entry.method, pattern = pattern, origin = entry.origin, summary = options.summary,
    run = is_bare and entry.handler or wrap(options, uses, entry.handler, pattern),
    wants_req = not is_bare or takes_arguments(entry.handler),
    max_body = options.max_body or 0, deadline_ms = math.ceil((options.deadline or 0) * 1000),
  }
end

local function collect(routes, prefix, outer, list, depth)
  local uses = {}
  for _, fn in ipairs(outer) do uses[#uses + 1] = fn end
  for _, fn in ipairs(routes.uses) do uses[#uses + 1] = fn end
  for _, entry in ipairs(routes.entries) do
    if not entry.mounted then
      list[#list + 1] = compile_entry(entry, prefix, uses)
    elseif depth == MAX_MOUNTS then
      error(entry.origin .. ": routes are mounted more than 16 deep (into themselves?)", 0)
    else
      collect(entry.mounted, prefix .. entry.prefix, uses, list, depth + 1)
    end
  end
  return list
end

--- What the C router is built from.
-- @return list of {method, pattern, origin, summary, run, wants_req, max_body, deadline_ms}
function M.compile(routes)
  return collect(routes, "", {}, {}, 0)
end

-- ---- addresses --------------------------------------------------------------------------------------------

local function escape(text)
  return (tostring(text):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function query_text(query)
  local parts = {}
  for name, value in pairs(query) do
    for _, item in ipairs(type(value) == "table" and value or { value }) do
      parts[#parts + 1] = escape(name) .. "=" .. escape(item)
    end
  end
  table.sort(parts)
  return #parts > 0 and "?" .. table.concat(parts, "&") or ""
end

function M.url_for(name, params, query)
  local route = named[name]
  if not route then raise.misuse('app.url_for: no route is named "%s"', tostring(name)) end
  local path = route.pattern:gsub("/([:*])([%w_]+)", function(kind, key)
    local value = params and params[key]
    if value == nil then raise.misuse('app.url_for: "%s" needs the parameter "%s"', name, key) end
    return "/" .. (kind == "*" and tostring(value):gsub("[^/]+", escape) or escape(value))
  end)
  return path .. (query and query_text(query) or "")
end

return M
