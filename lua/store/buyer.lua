--- Whose order it is: the user who is signed in, or who has a guest's token. For `auth` of routes.
local app = require "chowk.app"
local guest_token = require "store.guest_token"
local sign_in = require "store.sign_in"

local M = {}

--- Anybody, known if possible: {id?, email?, user_id?, token_hash?}. `id` is what limits and idempotency keys count by.
function M.anybody(req)
  local user = sign_in.user(req)
  if user then return { id = user.id, email = user.email, user_id = user.id } end
  return { token_hash = guest_token.hash_from(req) }
end

--- Statements: what an order of a user refers to. An address belongs to who signed in with it last.
function M.statements(user, email)
  email = user.email or email
  return {
    { "UPDATE users SET email = id || '@closed.invalid' WHERE lower(email) = lower($2) AND id <> $1::uuid", user.id,
      email },
    { "INSERT INTO users (id, email) VALUES ($1::uuid, $2) ON CONFLICT (id) DO NOTHING", user.id, email },
  }
end

--- A user who is signed in; else 401.
function M.user(req) return sign_in.user(req) end

--- Whoever may own an order; without any proof it does not exist.
function M.owner(req)
  local buyer = M.anybody(req)
  if not buyer.user_id and not buyer.token_hash then app.fail(404, "order_not_found", "There is no such order.") end
  return buyer
end

return M
