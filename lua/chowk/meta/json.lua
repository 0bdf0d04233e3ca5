---@meta chowk.json
-- luacheck: ignore 212

---JSON text as a value: goes out as it is, alone or inside a table.
---@class chowk.raw

---@class chowk.json
---@field null lightuserdata
local json = {}

---Raises invalid, naming the path.
---@param value any
---@return string
function json.encode(value) end

---Raises invalid, with line and column.
---@param text string
---@return any
function json.decode(text) end

---Marks the table as an array: [] even when empty.
---@param list? table
---@return table
function json.array(list) end

---@param value any
---@return boolean
function json.is_array(value) end

---@param text string
---@return chowk.raw
function json.raw(text) end

return json
