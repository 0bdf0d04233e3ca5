-- The effective configuration (conf/chowk.lua, defaults, environment), read-only. None of these yields.
local core = require "chowk.core.config"
local copy = require "chowk.copy"
local json = require "chowk.core.json"
local raise = require "chowk.raise"
local sandbox = require "chowk.sandbox"

local M = {}
local values = core.read()

local function read_only(name)
  return function(_, key) raise.misuse("%s.%s: the configuration is read-only", name, tostring(key)) end
end

-- Tables of the configuration raise for a key that is not there, naming it in full. Lists are handed out as copies:
-- `#` and ipairs would not see what a guarded one holds.
local function guard(t, name)
  local contents = {}
  for k, v in pairs(t) do
    if v == json.null then v = nil end
    contents[k] = type(v) == "table" and not json.is_array(v) and guard(v, name .. "." .. tostring(k)) or v
  end
  return sandbox.constant(setmetatable({}, {
    __index = function(_, key)
      local value = contents[key]
      if value == nil and t[key] == nil then raise.misuse("%s.%s is not set in conf/chowk.lua", name, tostring(key)) end
      return json.is_array(value) and copy(value) or value
    end,
    __newindex = read_only(name),
  }))
end

--- The application's own part: whatever conf/chowk.lua has under `settings`. A key that is not there raises.
M.settings = guard(type(values.settings) == "table" and values.settings or {}, "settings")

--- True under `chowk dev`.
M.development = core.is_development()

--- One value of the configuration.
-- @param key string  as `chowk config` prints it: "pg.pool_size"
-- @return the value, a table as a copy; nil only for a key that exists and has none. Raises a misuse naming an unknown
-- key.
function M.get(key)
  if key == "settings" then return M.settings end
  local value = values[key]
  if value == nil then raise.misuse('config.get: there is no key "%s" (`chowk config` lists them)', tostring(key)) end
  if value == json.null then return nil end
  return copy(value)
end

return M
