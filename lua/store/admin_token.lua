--- The shared token of the shop's people, before they sign in. Without settings.admin_token their routes answer as if
-- they did not exist.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local settings = require "store.settings"

local M = {}

--- As `auth` it runs before validation: whoever has no token learns nothing of the body's form either.
-- @return "admin"
function M.check(req)
  local expected = settings.admin_token
  local given = (req:header("Authorization") or ""):match("^Bearer (.+)$")
  if not expected then app.fail(404, "not_found", "There is nothing here.") end
  if not given or not crypto.equal(given, expected) then app.fail(403, "forbidden", "This needs the admin token.") end
  return "admin"
end

return M
