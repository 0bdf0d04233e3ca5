--- One Idempotency-Key, one order: the plain form, where the whole request is one transaction.
--
--   local claim = idempotency.claim(req, scope)                       -- 400 without a usable key
--   return idempotency.answer(pg.tx(function(tx)
--     local r = tx:all { claim:lock(), claim:find(), … }              -- first statements of the transaction
--     local earlier = claim:judge(r[1][1], r[2][1])                   -- the answer to repeat, 409, or 422
--     if earlier then return earlier end
--     …
--     tx:commit { …, claim:keep(answer) }
--     return answer                                                   -- {status, body = JSON text, headers?}
--   end))
--
-- The advisory lock makes a duplicate that arrives meanwhile answer 409 at once instead of waiting for the first one's
-- row; a record that can be seen is finished. Answers are kept a day. Business refusals (4xx) are answers like any
-- other; what raises is rolled back and kept nowhere.
local app = require "chowk.app"
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local pg = require "chowk.pg"

local M = {}
local Claim = {}
Claim.__index = Claim

-- The key as a Structured Field string ("…") or bare, as most clients send it.
local function read_key(req)
  local header = req:header("Idempotency-Key")
  if not header then
    app.fail(400, "idempotency_key_missing", "Send an Idempotency-Key header: the same for every retry of one order.")
  end
  if req.headers["idempotency-key"] ~= header then
    app.fail(400, "idempotency_key_invalid", "Send one Idempotency-Key header, not several.")
  end
  local quoted = header:match('^"(.*)"$')
  local key = quoted and quoted:gsub("\\([\"\\])", "%1") or header
  if #key < 1 or #key > 255 or key:find("[^\32-\126]") then
    app.fail(400, "idempotency_key_invalid", "An Idempotency-Key has 1 to 255 printable ASCII characters.")
  end
  return key
end

--- @param req request
-- @param caller string   who asks: keys of different callers never meet
-- @return claim. Fails with 400.
function M.claim(req, caller)
  local scope = crypto.hex(crypto.sha256(req.method .. " " .. req.path .. "\n" .. caller))
  return setmetatable({
    scope = scope,
    key = read_key(req),
    method = req.method,
    path = req.path,
    fingerprint = crypto.hex(crypto.sha256(req.method .. " " .. req.path .. "\n" .. req:body())),
  }, Claim)
end

--- What the advisory lock is taken on; also for statements that must not lock anything for a duplicate.
function Claim:lock_name() return self.scope .. "\n" .. self.key end

--- Statement: one row {free, id}: whether nobody else runs this key now, and a fresh uuid.
function Claim:lock()
  return { [[
    SELECT pg_try_advisory_xact_lock(hashtextextended($1::text, 0)) AS free, gen_random_uuid()::text AS id]],
    self:lock_name() }
end

--- Statement: the finished record, if there is one. Must run after lock(), with a snapshot of its own.
function Claim:find()
  return { [[
    SELECT fingerprint = decode($3::text, 'hex') AS same, status, order_id::text, headers,
           convert_from(body, 'UTF8') AS body
    FROM idempotency_keys WHERE scope = $1 AND key = $2 AND expires_at > now()]],
    self.scope, self.key, self.fingerprint }
end

--- @return nil to go on, or the answer to give: the earlier one, or 409 when somebody else is at it. Fails with 422.
function Claim:judge(lock, record) -- luacheck: ignore self
  if not lock.free then
    return { status = 409, headers = { ["Retry-After"] = "1" }, body = M.problem(409, "request_in_progress",
      "A request with this Idempotency-Key is still running.") }
  end
  if not record then return nil end
  if not record.same then
    app.fail(422, "idempotency_key_reused", "This Idempotency-Key was used for a different request.")
  end
  local headers = record.headers or {}
  headers["Idempotent-Replayed"] = "true"
  return { status = record.status, body = record.body, headers = headers, order_id = record.order_id }
end

--- Statement: keeps an answer. It must be the last of the transaction, or travel with the last.
-- @param answer table {status, body = JSON text, headers?, order_id?}
function Claim:keep(answer)
  return { [[
    INSERT INTO idempotency_keys AS k
      (scope, key, fingerprint, method, path, recovery_point, order_id, status, headers, body)
    VALUES ($1, $2, decode($3::text, 'hex'), $4, $5, 'finished', $6::uuid, $7, $8, convert_to($9::text, 'UTF8'))
    ON CONFLICT (scope, key) DO UPDATE
      SET fingerprint = EXCLUDED.fingerprint, order_id = EXCLUDED.order_id, status = EXCLUDED.status,
          headers = EXCLUDED.headers, body = EXCLUDED.body, created_at = now(), last_run_at = now(),
          expires_at = EXCLUDED.expires_at
      WHERE k.expires_at <= now()]],   -- only an expired record may be replaced
    self.scope, self.key, self.fingerprint, self.method, self.path, answer.order_id or pg.null, answer.status,
    pg.jsonb(answer.headers or {}), answer.body }
end

local TITLES = { [409] = "Conflict", [422] = "Unprocessable Content" }

--- An RFC 9457 problem as JSON text, like those of app.fail.
function M.problem(status, code, detail)
  return json.encode { type = "about:blank", title = TITLES[status], status = status, code = code, detail = detail }
end

--- What a handler returns for an answer.
function M.answer(answer)
  local headers = answer.headers or {}
  headers["Content-Type"] = answer.status >= 400 and "application/problem+json" or "application/json"
  return answer.status, answer.body, headers
end

return M
