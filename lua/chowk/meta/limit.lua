---@meta chowk.limit
-- luacheck: ignore 212 241

local limit = {}

---Counts against a class of limit.classes and refuses with the problem 429 rate_limited: by the class's own keys when
---given the request, else by a key of yours.
---Raises unavailable where the class is closed and its store away. Yields when Redis counts.
---@param name string a class
---@param who chowk.req|string|number whom to count; a key is compared in lower case
---@param quantity integer? default 1; 0 only looks
function limit.check(name, who, quantity) end

---The same without raising the refusal.
---@param name string
---@param who chowk.req|string|number
---@param quantity integer?
---@return boolean allowed always true unless limits are "on"
---@return integer retry_after seconds
function limit.allows(name, who, quantity) end

return limit
