-- `idempotent = "steps"`: work that calls out between transactions, done once although the process may die anywhere.
-- Private; chowk.routes compiles it.
--
--   routes:post("/api/orders/:number/refunds", { idempotent = "steps", auth = "admin" }, function(req)
--     local refund = req:step("requested", function(tx) return insert_refund(tx, req) end)
--     local done = razorpay.refund(refund.payment_id, { key = req:derived_key "refund" })   -- may run twice: same key
--     req:step("settled", function(tx) settle(tx, refund, done) end)
--     return 201, { id = done.id }
--   end)
--
-- Each step is a transaction that commits its effects together with its result. A retry of the request returns the
-- results of the steps that have committed and runs only the rest; what stands between steps runs again. The first step
-- leases the key until the request's deadline; each later one checks that the lease is still this run's, so that two
-- runs of one key never interleave. app.fail with 4xx, in a step or outside, is the answer that is kept; anything else,
-- also a 5xx or 429 that is returned, gives the lease back, and the next try goes on.
local core = require "chowk.core.idempotency"
local req_core = require "chowk.core.req"
local vm = require "chowk.core.vm"
local crypto = require "chowk.crypto"
local idempotency = require "chowk.idempotency"
local json = require "chowk.json"
local pg = require "chowk.pg"
local raise = require "chowk.raise"
local time = require "chowk.time"

local M = {}

local raw_pcall = pcall
local REPLAY = setmetatable({}, { __tostring = function() return "the answer is known already" end })
local GRACE_MS = 1000 -- the lease outlives the deadline, which ends the run

local LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS free, gen_random_uuid()::text AS id"
local FIND = [[
  SELECT fingerprint = decode($3, 'hex') AS same, coalesce(locked_until > now(), false) AS is_leased, answer, steps
  FROM idempotency_keys WHERE scope = $1 AND key = $2 AND expires_at > now()]]
-- A row that is there has expired, its answer with it, or is an earlier run's of this very request.
local LEASE = [[
  INSERT INTO idempotency_keys (scope, key, fingerprint, method, path, lock_token, locked_until, steps, expires_at)
  VALUES ($1, $2, decode($3, 'hex'), $4, $5, $6::uuid, now() + $7 * interval '1 ms', $8,
          now() + greatest($7 * interval '1 ms', $9 * interval '1 second'))
  ON CONFLICT (scope, key) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, lock_token = EXCLUDED.lock_token,
    locked_until = EXCLUDED.locked_until, steps = EXCLUDED.steps, answer = NULL, last_run_at = now(),
    expires_at = EXCLUDED.expires_at]]
local HOLD = "SELECT 1 FROM idempotency_keys WHERE scope = $1 AND key = $2 AND lock_token = $3::uuid FOR UPDATE"
local SAVE = "UPDATE idempotency_keys SET steps = $4 WHERE scope = $1 AND key = $2 AND lock_token = $3::uuid"
local FINISH = [[
  UPDATE idempotency_keys SET answer = $4, locked_until = NULL, expires_at = now() + $5 * interval '1 second'
  WHERE scope = $1 AND key = $2 AND lock_token = $3::uuid]]
local RELEASE = [[
  UPDATE idempotency_keys SET locked_until = NULL WHERE scope = $1 AND key = $2 AND lock_token = $3::uuid]]

-- ---- what is kept of a run ------------------------------------------------------------------------------------------

local function seal_results(run, results)
  return idempotency.seal(run.claim, json.encode(results))
end

local function copy(results)
  local out = {}
  for name, entry in pairs(results) do out[name] = entry end
  return out
end

-- Not this run's turn. What is raised is no answer of the handler's: it is not kept, and the key not looked at again
-- (the rollback may not be through, and its lock would seem to be somebody else's).
local function refuse(run, fn)
  run.is_refused = true
  fn()
end

-- In the first step's transaction: whose turn it is. Returns false when the answer is known.
local function look(run, tx)
  local claim = run.claim
  local found = tx:all { { LOCK, claim.context }, { FIND, claim.scope, claim.key, claim.fingerprint } }
  local lock, row = found[1][1], found[2][1]
  if not lock.free then refuse(run, idempotency.in_progress) end
  run.fence, run.results = lock.id, {}
  if not row then return true end
  if not row.same then refuse(run, idempotency.reused) end
  if row.answer then
    run.replay = idempotency.unseal(claim, row.answer)
    return false
  end
  if row.is_leased then refuse(run, idempotency.in_progress) end
  if row.steps then run.results = json.decode(idempotency.unseal(claim, row.steps)) end
  return true
end

local function lease_statement(run, results)
  local claim = run.claim
  local left_ms = math.max(0, run.req.deadline - time.mono_ms()) + GRACE_MS
  return { LEASE, claim.scope, claim.key, claim.fingerprint, claim.method, claim.path, run.fence, math.ceil(left_ms),
    seal_results(run, results), idempotency.TTL_S }
end

local function hold(run, tx)
  if not tx:one(HOLD, run.claim.scope, run.claim.key, run.fence) then refuse(run, idempotency.in_progress) end
  return true
end

-- ---- a step ---------------------------------------------------------------------------------------------------------

local function value_of(entry)
  local value = entry.value
  if value == json.null then return nil end
  return value
end

-- fn's result as JSON has it, so that a retry sees the same; or nil, and what it raised.
local function run_step(fn, tx)
  local raised
  local entry = tx:savepoint(function()
    local ok, result = raw_pcall(fn, tx)
    if ok then return json.decode(json.encode { value = result }) end
    vm.check()
    if idempotency.ends_transaction(result) then error(result, 0) end
    raised = result
    raise.failure("refused", "undone")
  end)
  return entry, raised
end

-- → the results so far, with this step's; or nil: the answer is known; or what the step raised, and whether that is the
-- answer, kept
local function step_in(run, name, fn, tx)
  local is_first = not run.is_leased
  if is_first then
    if not look(run, tx) then return end
  else
    hold(run, tx)
  end
  local entry, raised = run.results[name], nil
  if not entry then
    tx.keeps_answer = true
    entry, raised = run_step(fn, tx)
  end
  local is_answer = raised ~= nil and idempotency.is_kept(raised)
  if raised ~= nil and not is_answer then return run.results, raised, false end
  local results = copy(run.results)
  results[name] = entry
  if is_first then tx:defer { lease_statement(run, results) } end
  if is_answer then
    tx:defer { idempotency.finish_statement(FINISH, run.claim, run.fence, idempotency.problem_record(raised)) }
  elseif not is_first then
    tx:defer { { SAVE, run.claim.scope, run.claim.key, run.fence, seal_results(run, results) } }
  end
  return results, raised, is_answer
end

local function step(run, name, fn)
  if type(name) ~= "string" or name == "" then raise.misuse("req:step: expected a name, got %s", type(name)) end
  if type(fn) ~= "function" then raise.misuse("req:step: expected a function(tx), got %s", type(fn)) end
  if run.replay then error(REPLAY, 0) end
  if run.names[name] then raise.misuse('req:step: the name "%s" is used twice in one request', name) end
  run.names[name] = true
  local known = run.is_leased and run.results[name]
  if known then return value_of(known) end
  local results, raised, is_answer = pg.tx(function(tx) return step_in(run, name, fn, tx) end)
  if not results then error(REPLAY, 0) end
  if raised ~= nil and not is_answer then error(raised, 0) end
  run.is_leased, run.results = true, results
  if is_answer then
    run.is_finished = true
    error(raised, 0)
  end
  return value_of(results[name])
end

-- ---- the end of a run -----------------------------------------------------------------------------------------------

-- A handler without any step: its answer alone is kept.
local function finish_unleased(run, record)
  pg.tx(function(tx)
    if look(run, tx) then tx:defer { idempotency.keep_statement(run.claim, record) } end
  end)
end

local function finish(run, record)
  if run.is_finished then return end
  if not run.is_leased then return finish_unleased(run, record) end
  local statement = idempotency.finish_statement(FINISH, run.claim, run.fence, record)
  if pg.exec(unpack(statement)) == 0 then idempotency.in_progress() end
end

local function run_and_record(req, handler)
  return idempotency.record(req, handler(req))
end

-- The lease ends with its run; if this fails too, with the deadline.
local function release(run)
  if run.is_leased and not run.is_finished then
    raw_pcall(pg.exec, RELEASE, run.claim.scope, run.claim.key, run.fence)
  end
end

local function end_run(run, ok, result, is_kept)
  if run.replay then return idempotency.give(run.req, run.replay, true) end
  if not ok then
    vm.check()
    if run.is_refused or not idempotency.is_kept(result) then
      release(run)
      error(result, 0)
    end
    result, is_kept = idempotency.problem_record(result), true
  end
  if is_kept then finish(run, result) else release(run) end
  return idempotency.give(run.req, run.replay or result, run.replay ~= nil)
end

--- The function of a route with `idempotent = "steps"`, around its handler(req).
function M.wrap(handler, guest, route)
  return function(req)
    local run = { req = req, claim = idempotency.claim(req, guest, route), names = {} }
    req_core.put(req, "step", function(_, name, fn) return step(run, name, fn) end)
    req_core.put(req, "derived_key", function(_, name)
      return crypto.hex(crypto.sha256(run.claim.context .. "\n" .. tostring(name))):sub(1, 32)
    end)
    core.keep_going()
    return end_run(run, raw_pcall(run_and_record, req, handler))
  end
end

return M
