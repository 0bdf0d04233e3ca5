---@meta chowk.limit
-- luacheck: ignore 212 241

local limit = {}

---Counts against a class of limit.classes by a key of your own and refuses with the problem 429 rate_limited.
---Raises unavailable where the class is closed and its store away. Yields when Redis counts.
---@param name string a class
---@param key string|number whom to count; compared in lower case
---@param quantity integer? default 1; 0 only looks
function limit.check(name, key, quantity) end

---The same without raising the refusal.
---@param name string
---@param key string|number
---@param quantity integer?
---@return boolean allowed always true unless limits are "on"
---@return integer retry_after seconds
function limit.allows(name, key, quantity) end

return limit
