-- JSON, strict in both directions (TRAPS T15). None of these yields; all may be used in every phase.
local core = require "chowk.core.json"
local raise = require "chowk.raise"

local M = {}

--- JSON null, as decode gives it and encode writes it. It is a value, and true in a condition: compare with ==.
M.null = core.null

--- Value → text. Arrays are json.array{} tables and sequences; an empty plain table is {}.
-- @param value any  tables, strings, numbers, booleans, json.null, raw JSON
-- @return string
-- Raises error{code="invalid"} naming the path: functions, mixed keys, holes, NaN, infinity, deeper than 64 levels.
function M.encode(value)
  return core.encode(value)
end

--- Text → value. Arrays come back as json.array{}, null as json.null, numbers exactly or not at all.
-- @param text string
-- Raises error{code="invalid"} with line and column.
function M.decode(text)
  if type(text) ~= "string" then raise.misuse("json.decode: expected a string, got %s", type(text)) end
  return core.decode(text)
end

--- Marks a table as an array, so that it is written as [] even when empty.
-- @param list table|nil  @return the same table, or a new one
function M.array(list)
  if list ~= nil and type(list) ~= "table" then raise.misuse("json.array: expected a table, got %s", type(list)) end
  return core.array(list)
end

--- True for a table that json.array marked or json.decode made from an array.
function M.is_array(value)
  return core.is_array(value)
end

--- Text that is JSON already, as a value of its own: goes out as it is, alone or inside a table.
-- @param text string  checked once  @return raw JSON; tostring gives the text
-- Raises error{code="invalid"} if it is not JSON.
function M.raw(text)
  if type(text) ~= "string" then raise.misuse("json.raw: expected a string, got %s", type(text)) end
  return core.raw(text)
end

return M
