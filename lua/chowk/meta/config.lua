---@meta chowk.config
-- luacheck: ignore 212

---@class chowk.config
---@field settings table the application's own part; a missing key raises
---@field development boolean
local config = {}

---A missing key raises; nil only for one that exists and has no value.
---@param key string "pg.pool_size"
---@return any
function config.get(key) end

return config
