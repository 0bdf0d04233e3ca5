-- What application code can reach (TRAPS T22): a pick of Lua's globals, in frozen tables. Without: bytecode, ffi,
-- debug, io, jit, package, setfenv, os.execute and its like. A write to a global is an error with its line once loading
-- is over. Frozen tables stay the same tables, so that identity comparisons hold; their contents move behind __index.
-- What `sandbox.allow` in the configuration names is given back: the operator's decision, not the application's.
local config = require "chowk.core.config"
local core = require "chowk.core.vm"
local log = require "chowk.core.log"
local raise = require "chowk.raise"
local co = require "chowk.coroutine"

local rawset, setmetatable, getmetatable, pairs, type = rawset, setmetatable, getmetatable, pairs, type
local set_any = debug.setmetatable
local raw_pcall, raw_xpcall, check = pcall, xpcall, core.check

local M = {}
local frozen = setmetatable({}, { __mode = "k" })

string.dump = nil -- luacheck: ignore
getmetatable("").__metatable = "string"

--- Says of a table whose metatable refuses writes that rawset has to, too. @return the same table
function M.constant(t)
  frozen[t] = true
  return t
end

--- Freezes a table in place, with the tables in it: reads as before, writes are errors naming file and line. Does not
-- yield. @return the same table
function M.freeze(t, name)
  if type(t) ~= "table" or frozen[t] then return t end
  local meta = getmetatable(t)
  local contents = setmetatable({}, meta)
  for k, v in pairs(t) do rawset(contents, k, M.freeze(v, name .. "." .. tostring(k))) end
  for k in pairs(contents) do rawset(t, k, nil) end
  frozen[t] = true
  set_any(t, {
    __index = contents,
    __newindex = function(_, key) raise.misuse("%s.%s: the library cannot be changed", name, tostring(key)) end,
    __call = meta and meta.__call,
    __metatable = "frozen",
  })
  return t
end

local function after(ok, ...)
  if not ok then check() end
  return ok, ...
end

local function app_rawset(t, k, v)
  if frozen[t] then raise.misuse("rawset: this table is frozen") end
  return rawset(t, k, v)
end

local GC = { count = true, collect = true, step = true }
local function app_collectgarbage(what, arg)
  what = what or "collect"
  if not GC[what] then raise.misuse('collectgarbage("%s") is not available: "count", "collect", "step" are', what) end
  return collectgarbage(what, arg)
end

-- Standard output of a worker is nobody's terminal: print goes to the log.
local function app_print(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  log.write("info", table.concat(parts, "\t"))
end

local function no_getenv(name)
  raise.misuse('os.getenv: write settings = { x = env("%s") } in conf/chowk.lua and read config.settings.x of '
    .. 'require "chowk.config", or allow it there: sandbox = { allow = { "os.getenv" } }', tostring(name))
end

local function pick(lib, names)
  local out = {}
  for name in names:gmatch("%S+") do out[name] = lib[name] end
  return out
end

local function copy(lib)
  local out = {}
  for k, v in pairs(lib) do out[k] = v end
  return out
end

-- ---- what the configuration may give back ---------------------------------------------------------------------

local GRANTABLE = { io = io, os = os, debug = debug, jit = jit, ffi = require "ffi" }

local function grant(globals, name)
  local library, member = name:match("^(%w+)%.(%w+)$")
  library = library or name
  local source = GRANTABLE[library]
  if not source or member and source[member] == nil then
    error(('sandbox.allow: there is no "%s" to allow: io, os, debug, jit, ffi, or a part as in "io.open"')
      :format(name), 0)
  end
  local given = globals[library] or {}
  for key, value in pairs(member and { [member] = source[member] } or source) do given[key] = value end
  globals[library] = given
end

-- Text only, and in the application's environment unless it gives its own.
local function loaders(env)
  local function app_load(chunk, name, mode, chunk_env)
    if mode ~= nil and mode ~= "t" then raise.misuse("load: only text can be loaded, mode is %q", tostring(mode)) end
    local fn, err = load(chunk, name, "t")
    if not fn then return nil, err end
    return setfenv(fn, chunk_env or env)
  end
  return app_load, function(chunk, name) return app_load(chunk, name) end
end

--- Builds the application's environment. Raises if `sandbox.allow` names what is not there.
-- @param require function  the application's require
-- @return env table, freeze function (call it when loading is over)
function M.build(require)
  local globals = pick(_G, "assert error ipairs next pairs rawequal rawget rawlen select tonumber tostring type unpack "
    .. "getmetatable setmetatable _VERSION")
  globals.pcall = function(fn, ...) return after(raw_pcall(fn, ...)) end
  globals.xpcall = function(fn, handler, ...) return after(raw_xpcall(fn, handler, ...)) end
  globals.try, globals.require, globals.print = raise.try, require, app_print
  globals.rawset, globals.collectgarbage = app_rawset, app_collectgarbage
  globals.string = M.freeze(copy(string), "string")
  globals.table = M.freeze(copy(table), "table")
  globals.math = M.freeze(copy(math), "math")
  globals.bit = M.freeze(copy(bit), "bit")
  globals.os = pick(os, "clock date difftime time")
  globals.os.getenv = no_getenv
  local allowed = config.read()["sandbox.allow"]
  for _, name in ipairs(type(allowed) == "table" and allowed or {}) do grant(globals, name) end
  for library in pairs(GRANTABLE) do globals[library] = M.freeze(globals[library], library) end
  globals.coroutine = M.freeze(co, "coroutine")

  local is_open = true
  local env = {}
  globals._G = env
  globals.load, globals.loadstring = loaders(env)
  frozen[env] = true
  local builtin = copy(globals)
  setmetatable(env, {
    __index = globals,
    __newindex = function(_, name, value)
      if builtin[name] ~= nil then raise.misuse("the global '%s' belongs to Lua and cannot be changed", name) end
      if not is_open then
        raise.misuse("write to the global '%s': globals are frozen after loading, declare it `local`", tostring(name))
      end
      globals[name] = value
    end,
    __metatable = "frozen",
  })
  return env, function() is_open = false end
end

return M
