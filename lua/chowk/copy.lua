-- A value nobody else can change: a deep copy of plain data, in which lists stay lists (json.array).
local json = require "chowk.core.json"

local function copy(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for k, v in pairs(value) do out[k] = copy(v) end
  return json.is_array(value) and json.array(out) or out
end

return copy
