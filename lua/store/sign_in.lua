--- Who is signed in: Supabase's access tokens (`Authorization: Bearer …`), signed with the project's shared secret
-- (HS256, settings.auth.jwt_secret). Without that secret nobody is: the shop sells to guests.
--
-- The algorithm is ours, not the token's. Keys of the project itself (anon, service_role) are no users.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local settings = require "store.settings"

local M = {}

local SKEW_S = 30
local MAX_TOKEN = 8192
local UUID = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

local function decode(part)
  local text = crypto.unbase64url(part)
  local value = text and try(json.decode, text)
  return type(value) == "table" and value or {}
end

local function is_for_us(aud)
  if type(aud) ~= "table" then return aud == "authenticated" end
  for _, one in ipairs(aud) do
    if one == "authenticated" then return true end
  end
  return false
end

local function is_current(claims, now)
  local from = claims.nbf
  if type(claims.exp) ~= "number" or claims.exp + SKEW_S <= now then return false end
  return type(from) ~= "number" or from - SKEW_S <= now
end

-- @return the claims of a valid token, or nil
local function claims_of(token, secret, now)
  if #token > MAX_TOKEN then return nil end
  local signed, header, payload, signature = token:match "^(([%w_-]+)%.([%w_-]+))%.([%w_-]+)$"
  if not signed or decode(header).alg ~= "HS256" then return nil end
  local given = crypto.unbase64url(signature)
  if not given or not crypto.equal(given, crypto.hmac_sha256(secret, signed)) then return nil end
  local claims = decode(payload)
  local is_user = claims.role == "authenticated" and type(claims.sub) == "string" and claims.sub:find(UUID)
  return is_user and is_for_us(claims.aud) and is_current(claims, now) and claims or nil
end

--- The user of a request, or nil: nobody has signed in. A token that is not valid is refused (401): whoever sends one
-- wants to be known.
-- @return table|nil {id, email}
function M.user(req)
  local token = (req:header "Authorization" or ""):match "^[Bb]earer (%S+)$"
  if not token or not settings.jwt_secret then return nil end
  local claims = claims_of(token, settings.jwt_secret, os.time())
  if not claims then app.fail(401, "unauthorized", "The access token is not valid.") end
  return { id = claims.sub:lower(), email = type(claims.email) == "string" and claims.email or nil }
end

return M
