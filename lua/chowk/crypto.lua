-- Hashes, random bytes and encodings. Digests are raw bytes: crypto.hex(crypto.sha256(s)). None of these yields.
local core = require "chowk.core.crypto"
local raise = require "chowk.raise"

local M = {}

local function text(name, value)
  if type(value) ~= "string" then raise.misuse("crypto.%s: expected a string, got %s", name, type(value)) end
  return value
end

--- SHA-256 of bytes. @return 32 bytes
function M.sha256(data)
  return core.sha256(text("sha256", data))
end

--- HMAC-SHA256. @return 32 bytes
function M.hmac_sha256(key, message)
  return core.hmac_sha256(text("hmac_sha256", key), text("hmac_sha256", message))
end

--- Compares secrets in a time that depends on the length only.
function M.equal(a, b)
  return core.equal(text("equal", a), text("equal", b))
end

--- n random bytes, 1 to 65536.
function M.random(n)
  if type(n) ~= "number" or n < 1 or n > 65536 or n % 1 ~= 0 then
    raise.misuse("crypto.random: expected a whole number from 1 to 65536, got %s", tostring(n))
  end
  return core.random(n)
end

--- Encrypts and authenticates (AES-256-GCM): for what leaves our hands and comes back, or rests in a database.
-- @param plain string  @param secret string  any text; of high entropy, for it is the key
-- @param context string  what it is for: opens only with the same ("order 42")
-- @return string  29 bytes longer, different each time
function M.seal(plain, secret, context)
  return core.seal(text("seal", plain), text("seal", secret), text("seal", context))
end

--- The way back.
-- @param secrets string|table  one secret, or a list: current first, then the previous ones
-- @return string, or nil: sealed with another secret or for another context, or changed
function M.unseal(sealed, secrets, context)
  text("unseal", context)
  for _, secret in ipairs(type(secrets) == "table" and secrets or { secrets }) do
    local plain = core.unseal(text("unseal", sealed), text("unseal", secret), context)
    if plain then return plain end
  end
end

--- A token for links and cookies: n random bytes (default 24) as base64url, 32 characters.
function M.token(n)
  return core.base64url(M.random(n or 24))
end

--- A random UUID (version 4).
function M.uuid()
  local b = { core.random(16):byte(1, 16) }
  b[7], b[9] = b[7] % 16 + 64, b[9] % 64 + 128
  return ("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x"):format(unpack(b))
end

--- Bytes → lower-case hex.
function M.hex(data)
  return core.hex(text("hex", data))
end

--- Hex → bytes; nil if it is not hex.
function M.unhex(data)
  return core.unhex(text("unhex", data))
end

--- Bytes → base64 (RFC 4648), or base64url without padding; the way back gives nil for anything else.
function M.base64(data)
  return core.base64(text("base64", data))
end
function M.base64url(data)
  return core.base64url(text("base64url", data))
end
function M.unbase64(data)
  return core.unbase64(text("unbase64", data))
end
function M.unbase64url(data)
  return core.unbase64url(text("unbase64url", data))
end

return M
