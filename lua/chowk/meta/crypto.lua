---@meta chowk.crypto
-- luacheck: ignore 212

---@class chowk.crypto
local crypto = {}

---@param data string
---@return string digest 32 bytes
function crypto.sha256(data) end

---@param key string
---@param message string
---@return string digest 32 bytes
function crypto.hmac_sha256(key, message) end

---In a time that depends on the length only.
---@param a string
---@param b string
---@return boolean
function crypto.equal(a, b) end

---@param n integer 1 to 65536
---@return string bytes
function crypto.random(n) end

---@param n? integer random bytes, default 24
---@return string base64url
function crypto.token(n) end

---@return string version 4
function crypto.uuid() end

---@param data string
---@return string
function crypto.hex(data) end

---@param text string
---@return string|nil bytes
function crypto.unhex(text) end

---@param data string
---@return string
function crypto.base64(data) end

---@param data string
---@return string without padding
function crypto.base64url(data) end

---@param text string
---@return string|nil bytes
function crypto.unbase64(text) end

---@param text string
---@return string|nil bytes
function crypto.unbase64url(text) end

return crypto
