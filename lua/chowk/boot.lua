-- Runs once per lua_State, before anything else: two `require`s, one for the library and one for the application.
-- The library's sees chowk.core.* (C) and chowk.* (bytecode in the binary); the application's sees the public chowk.*
-- modules and its own files from the bundle, in an environment of its own (chowk.sandbox).
local core = ...

local library, modules = {}, {} -- what was loaded, by name: for the library, for the application
local LOADING = {}
local PRIVATE = {
  ["chowk.boot"] = true, ["chowk.coroutine"] = true, ["chowk.raise"] = true, ["chowk.routes"] = true,
  ["chowk.sandbox"] = true, ["chowk.pg_listen"] = true, ["chowk.pg_copy"] = true, ["chowk.pg_page"] = true,
  ["chowk.pg_enqueue"] = true, ["chowk.pg_replica"] = true, ["chowk.pg_forget"] = true,
  ["chowk.idempotency"] = true, ["chowk.pg_gapless"] = true, ["chowk.idempotency_steps"] = true,
  ["chowk.http_body"] = true, ["chowk.mail_message"] = true, ["chowk.mail_template"] = true,
  ["chowk.razorpay_api"] = true,
}
-- Parts of LuaJIT that cannot reach memory or block.
local PLAIN = { bit = true, ["table.new"] = true, ["table.clear"] = true, ["table.nkeys"] = true,
  ["table.isarray"] = true, ["table.isempty"] = true, ["table.clone"] = true }

local library_env = setmetatable({}, {
  __index = _G,
  __newindex = function(_, name) error("the library writes the global " .. tostring(name), 2) end,
})

local function library_require(name)
  local module = library[name]
  if module ~= nil then return module end
  local core_name = name:match("^chowk%.core%.(.+)$")
  if core_name then
    module = core_name == "vm" and core or core.core(core_name)
    if module == nil then error("no C module " .. name, 2) end
  else
    local chunk = core.embedded(name)
    if not chunk then return require(name) end
    module = setfenv(chunk, library_env)(name)
  end
  library[name] = module
  return module
end
rawset(library_env, "require", library_require)
library.vm = core

-- getmetatable(object).method = … would change the library for everybody: what it sets as a metatable is hidden from
-- applications (lx_new_class does it for C's), and its own code looks with debug.getmetatable.
local set = setmetatable
rawset(library_env, "getmetatable", debug.getmetatable)
rawset(library_env, "setmetatable", function(object, class)
  if class and class.__metatable == nil then class.__metatable = false end
  return set(object, class)
end)

local raise = library_require "chowk.raise"
local sandbox = library_require "chowk.sandbox"
rawset(library_env, "try", raise.try)

local app_env

local function load_module(name)
  if name:find("^chowk%.core%.") or PRIVATE[name] then
    raise.misuse("module '%s' is private to the library", name)
  end
  if PLAIN[name] then return sandbox.freeze(require(name), name) end
  if name == "chowk" or name:find("^chowk%.") then
    if not core.embedded(name) then raise.misuse("module '%s' not found: the library has none of that name", name) end
    return sandbox.freeze(library_require(name), name)
  end
  local chunk = core.bundled(name)
  if not chunk then
    raise.misuse("module '%s' not found: no %s.lua below app.root (and no LuaRocks or C modules)", name,
      (name:gsub("%.", "/")))
  end
  return setfenv(chunk, app_env)(name)
end

--- `require` as the application sees it. Yields only if the module's top level does, which only works after loading.
local function app_require(name)
  if type(name) ~= "string" then raise.misuse("require: expected a module name, got %s", type(name)) end
  local module = modules[name]
  if module == LOADING then raise.misuse("module '%s' requires itself, directly or through another", name) end
  if module ~= nil then return module end
  modules[name] = LOADING
  local ok, result = xpcall(load_module, core.note_trace, name)
  if not ok then
    modules[name] = nil
    core.check()
    error(result, 0)
  end
  if result == nil then result = true end
  modules[name] = result
  return result
end

local freeze_globals
app_env, freeze_globals = sandbox.build(app_require)
-- The last four are there only if the configuration allows them.
for _, name in ipairs { "string", "table", "math", "os", "coroutine", "io", "debug", "jit", "ffi" } do
  modules[name] = app_env[name]
end

local boot = {}

--- Requires the main module and compiles the routes it returns.
-- @param main string|nil  module name
-- @return list of {method, pattern, origin, run, wants_req, max_body, deadline_ms}
function boot.load(main)
  local list = {}
  if main then
    local result = app_require(main)
    local routes = library_require "chowk.routes"
    if routes.is_routes(result) then
      list = routes.compile(result)
    elseif result ~= true or routes.has_any() then
      error(("module '%s' must return what app.routes() gave it, as its last line: got %s"):format(main,
        result == true and "nothing" or type(result)), 0)
    end
  end
  freeze_globals()
  return list
end

--- Compiles a file that is not in the bundle, for `chowk run`: it sees what the application sees, may set globals of
-- its own, and prints to standard output. Raises the syntax error, with the file's name and line.
-- @param text string  Lua source, never bytecode
-- @param name string  the file's name
-- @param print function
-- @return function
function boot.compile(text, name, print)
  local chunk, err = load(text, "@" .. name, "t")
  if not chunk then error(err, 0) end
  return setfenv(chunk, setmetatable({ print = print }, { __index = app_env, __metatable = "frozen" }))
end

return boot
