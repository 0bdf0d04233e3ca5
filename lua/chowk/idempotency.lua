-- Requests that may be sent twice and are done once: the route options `idempotent = true` and `idempotent = "steps"`.
-- Private; chowk.routes compiles them.
--
--   routes:post("/api/orders", { idempotent = true, guest = "body.email", body = … }, function(req, tx)
--     tx:exec(…)                                   -- everything in the one transaction that also keeps the answer
--     return 201, { number = … }
--   end)
--
-- The client sends Idempotency-Key, the same for every retry. The core opens one transaction, claims the key under an
-- advisory lock (no round trip: the claim travels with the handler's first statements, which do not run when it fails),
-- calls handler(req, tx), keeps the answer with it and commits before it answers. A duplicate that
-- arrives meanwhile gets 409 at once; later ones get the kept answer, marked Idempotent-Replayed. The same key with
-- another request is 422. (IETF draft-ietf-httpapi-idempotency-key-header)
--
-- app.fail with 4xx undoes the handler's work and is kept; 401, 403, 404 for a missing route, 413, 429, invalid bodies
-- and everything from 500 are not: the next try runs. So what a handler returns with such a status is undone as well,
-- although elsewhere returning commits: work that is kept without its answer would be done again by the next try. Keys
-- of different callers never meet: the caller is req.user, or what `guest` names in the body. Answers are kept
-- encrypted, for idempotency.ttl.
--
-- "steps" is for work that calls out between transactions: see chowk/idempotency_steps.lua.
local config = require("chowk.core.config").read()
local core = require "chowk.core.idempotency"
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local pg = require "chowk.pg"
local pg_core = require "chowk.core.pg"
local raise = require "chowk.raise"
local vm = require "chowk.core.vm"

local M = {}

local SECRETS = config["app.secret"]
local TTL_S = (config["idempotency.ttl"] or 86400000) / 1000
M.TTL_S = TTL_S
local NOT_KEPT = { [401] = true, [403] = true, [413] = true, [429] = true }
local raw_pcall = pcall

-- ---- the claim ----------------------------------------------------------------------------------------------------

-- A Structured Field string ("…"), or bare, as most clients send it.
local function read_key(req)
  local header = req:header "Idempotency-Key"
  if not header then
    raise.problem(400, "idempotency_key_missing", "Send an Idempotency-Key header: the same for every retry.")
  end
  local quoted = header:match '^"(.*)"$'
  local key = quoted and quoted:gsub('\\(["\\])', "%1") or header
  if req.headers["idempotency-key"] ~= header or #key < 1 or #key > 255 or key:find "[^\32-\126]" then
    raise.problem(400, "idempotency_key_invalid", "Send one Idempotency-Key of 1 to 255 printable ASCII characters.")
  end
  return key
end

local function member(body, name)
  local value = type(body) == "table" and body[name]
  return type(value) == "string" and value ~= "" and value:lower() or nil
end

local function caller_of(req, guest)
  local user = req.user
  if type(user) == "table" then user = user.id end
  if user ~= nil then return "user " .. tostring(user) end
  local who = guest and member(req:json(), guest)
  if who then return "guest " .. who end
  raise.problem(400, "caller_unknown", "An idempotent request needs to say who sends it.")
end

local function hash(text) return crypto.hex(crypto.sha256(text)) end

-- Path and query as sent, the query's members by name; those of one name in their order.
local function canonical_target(req)
  local path, query = core.target(req):match "^([^?]*)%?(.+)$"
  if not path then return core.target(req) end
  local members = {}
  for text in query:gmatch "[^&]+" do
    members[#members + 1] = { name = text:match "^[^=]*", text = text, at = #members }
  end
  table.sort(members, function(a, b)
    if a.name ~= b.name then return a.name < b.name end
    return a.at < b.at
  end)
  for i, m in ipairs(members) do members[i] = m.text end
  return path .. "?" .. table.concat(members, "&")
end

local function content_type(req)
  return (req:header "Content-Type" or ""):lower():gsub("%s+", "")
end

--- Who asks for what, under which key. Raises 400. Does not yield.
function M.claim(req, guest, route)
  local request = req.method .. " " .. route .. "\n"
  local claim = { key = read_key(req), scope = hash(request .. caller_of(req, guest)), method = req.method,
    path = req.path }
  claim.fingerprint = hash(table.concat({ req.method, canonical_target(req), content_type(req), req:body() }, "\n"))
  claim.context = claim.scope .. " " .. claim.key
  return claim
end

--- Raises the 409 for a key that somebody is at.
function M.in_progress()
  raise.problem(409, "request_in_progress", "A request with this Idempotency-Key is still running.",
    { retry_after = 1 })
end

--- Raises the 422 for a key of another request.
function M.reused()
  raise.problem(422, "idempotency_key_reused", "This Idempotency-Key was used for a different request.")
end

-- ---- answers that are kept ----------------------------------------------------------------------------------------

local function is_kept_status(status) return status < 500 and not NOT_KEPT[status] end

--- A handler's results as one string, and whether that is an answer to keep; or the problem it raised.
function M.record(req, ...)
  local record, status = core.capture(req, ...)
  return record, is_kept_status(status)
end
function M.problem_record(problem)
  return json.encode { problem = { status = problem.status, code = problem.code, detail = problem.detail,
    extra = problem.extra } } .. "\n"
end

--- Is what was raised an answer to keep?
function M.is_kept(err)
  return vm.is_problem(err) and is_kept_status(err.status)
end

--- Encrypted, for the database; bound to its key, so that rows cannot be exchanged.
function M.seal(claim, record)
  return pg.bytea(crypto.seal(record, SECRETS[1], claim.context))
end

function M.unseal(claim, sealed)
  return crypto.unseal(crypto.unbase64(sealed), SECRETS, claim.context)
    or raise.failure("invalid", "an idempotent answer cannot be read: was it kept under an app.secret that is gone?")
end

--- What the route's function returns for a record, or raises, if that is what it was.
function M.give(req, record, is_replay)
  local at = record:find("\n", 1, true)
  local head = json.decode(record:sub(1, at - 1))
  if is_replay then core.mark_replayed(req) end
  if head.problem then
    local p = head.problem
    raise.problem(p.status, p.code, p.detail, p.extra)
  end
  local headers = {}
  for _, pair in ipairs(head.headers) do
    local name, value = pair[1], pair[2]
    local earlier = headers[name]
    if type(earlier) == "table" then
      earlier[#earlier + 1] = value
    else
      headers[name] = earlier and { earlier, value } or value
    end
  end
  return head.status, record:sub(at + 1), headers
end

-- ---- idempotent = true --------------------------------------------------------------------------------------------

local CLAIM = "SELECT idempotency_claim($1, $2)"
local FIND = [[
  SELECT fingerprint = decode($3, 'hex') AS same, answer FROM idempotency_keys
  WHERE scope = $1 AND key = $2 AND expires_at > now() AND answer IS NOT NULL]]

-- A row that is there has expired, or the claim would have failed: it is replaced.
local KEEP = [[
  INSERT INTO idempotency_keys (scope, key, fingerprint, method, path, answer, expires_at)
  VALUES ($1, $2, decode($3, 'hex'), $4, $5, $6, now() + $7 * interval '1 second')
  ON CONFLICT (scope, key) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, answer = EXCLUDED.answer,
    method = EXCLUDED.method, path = EXCLUDED.path, created_at = now(), expires_at = EXCLUDED.expires_at]]

--- Statement: keeps the record.
function M.keep_statement(claim, record)
  return { KEEP, claim.scope, claim.key, claim.fingerprint, claim.method, claim.path, M.seal(claim, record), TTL_S }
end

--- Statement: ends a leased run with its record; `sql` takes scope, key, fence, answer, seconds to live.
function M.finish_statement(sql, claim, fence, record)
  return { sql, claim.scope, claim.key, fence, M.seal(claim, record), TTL_S }
end

-- An answer that is not kept is raised: that undoes it.
local function run_and_record(req, handler, tx)
  local record, is_kept = M.record(req, handler(req, tx))
  if not is_kept then error({ not_kept = record }, 0) end
  return record
end

-- The claim's refusals, and what PostgreSQL says of the statements behind it.
local REFUSALS = { CH409 = true, CH200 = true, ["25P02"] = true, ["3B001"] = true }

local function is_refusal(err)
  return vm.is_err(err) and REFUSALS[err.sqlstate] or false
end

--- Does the transaction end with what was raised, or run again? Anything else is undone to the savepoint: the commit
-- behind it is waited for, a rollback is not, and a retry that came sooner would find the key in use.
function M.ends_transaction(err)
  return vm.is_err(err) and (err.sqlstate ~= nil or err.code == "unavailable" or err.code == "commit_unknown")
end

-- → the record to keep; or nil, and what to raise (or { not_kept = record }) once the transaction is over
local function attempt(tx, req, handler)
  local outcome
  local record = tx:savepoint(function()
    local ok, result = raw_pcall(run_and_record, req, handler, tx)
    if ok then return result end
    vm.check()
    if is_refusal(result) then error({ refused = result }, 0) end -- there is no savepoint to go back to
    if M.ends_transaction(result) then error(result, 0) end
    outcome = result
    raise.failure("refused", "undone") -- a run-time failure undoes the savepoint
  end)
  if record then return record end
  if M.is_kept(outcome) then return M.problem_record(outcome) end
  return nil, outcome
end

local function run_once(tx, req, handler, claim)
  pg_core.send(tx.handle, CLAIM, claim.scope, claim.key)
  tx.keeps_answer = true
  local record, outcome = attempt(tx, req, handler)
  if record then tx:defer { M.keep_statement(claim, record) } end
  return record, outcome
end

-- What a refused claim comes to: the kept record, or 409; nil when nobody is at the key any more, and it is unknown
-- what stopped the claim: statements that were on their way behind it only know that they were skipped. Yields.
local function resolve(claim, err)
  -- The lock first: once it is free, what its last holder committed can be seen.
  local is_free = pg.value("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", claim.context)
  local earlier = pg.one(FIND, claim.scope, claim.key, claim.fingerprint)
  if earlier then
    if not earlier.same then M.reused() end
    return M.unseal(claim, earlier.answer)
  end
  local is_ours = err.sqlstate == "CH409" or err.sqlstate == "CH200"
  if is_free and not is_ours then return nil end
  M.in_progress()
end

local function run_or_resolve(req, handler, claim, is_again)
  local ok, record, outcome = raw_pcall(pg.tx, function(tx) return run_once(tx, req, handler, claim) end)
  if ok and not outcome then return record, false end
  if ok and type(outcome) == "table" and outcome.not_kept then return outcome.not_kept, false end
  if ok then error(outcome, 0) end
  vm.check()
  local refusal = type(record) == "table" and record.refused or record
  if not is_refusal(refusal) then error(record, 0) end
  local kept = resolve(claim, refusal)
  if kept then return kept, true end
  if is_again then error(refusal, 0) end
  return run_or_resolve(req, handler, claim, true)
end

--- The function of a route with `idempotent = true`, around its handler(req, tx).
function M.wrap(handler, guest, route)
  return function(req)
    local claim = M.claim(req, guest, route)
    core.keep_going()
    return M.give(req, run_or_resolve(req, handler, claim))
  end
end

return M
