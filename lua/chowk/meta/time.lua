---@meta chowk.time
-- luacheck: ignore 212

---@class chowk.time
local time = {}

---@return string RFC 3339, UTC
function time.now() end

---@return integer seconds since 1970
function time.unix() end

---@return integer milliseconds since 1970
function time.unix_ms() end

---@return integer milliseconds of a clock that only goes forward
function time.mono_ms() end

---@param duration number|string "200ms", "15m", "1h30m"
---@return number seconds
function time.seconds(duration) end

---@param text string RFC 3339
---@return number|nil seconds since 1970
function time.parse(text) end

---@param unix number
---@param zone? string "UTC", "Asia/Kolkata", "+05:30"
---@return string RFC 3339
function time.format(unix, zone) end

return time
