---@meta chowk.schema
-- luacheck: ignore 212

---@class chowk.type

---@class chowk.schema
local t = {}

---@param options? {min?: integer, max?: integer, default?: integer}
---@return chowk.type
function t.integer(options) end

---Money: whole paise, 0 or more.
---@param options? {min?: integer, max?: integer, default?: integer}
---@return chowk.type
function t.paise(options) end

---@param options? {min?: number, max?: number, default?: number}
---@return chowk.type
function t.number(options) end

---@param options? {default?: boolean}
---@return chowk.type
function t.boolean(options) end

---Lengths in characters; the pattern is Lua's.
---@param options? {min?: integer, max?: integer, pattern?: string, default?: string}
---@return chowk.type
function t.string(options) end

---@param options? {default?: string}
---@return chowk.type
function t.slug(options) end

---@param options? {default?: string}
---@return chowk.type
function t.email(options) end

---@param options? {default?: string}
---@return chowk.type
function t.uuid(options) end

---@param values table {"a", "b", default = "a"}
---@return chowk.type
function t.enum(values) end

---@param options? {default?: any}
---@return chowk.type
function t.any(options) end

---@param of chowk.type
---@param options? {min?: integer, max?: integer, default?: table}
---@return chowk.type
function t.array(of, options) end

---@param fields table<string, chowk.type> unknown members are errors
---@return chowk.type
function t.object(fields) end

---@param of chowk.type
---@return chowk.type may be missing or null
function t.optional(of) end

---The coerced value, or the 422 problem with all errors.
---@param of chowk.type|table<string, chowk.type>
---@param value any
---@return any
function t.validate(of, value) end

return t
