-- PostgreSQL. Statements of all requests travel over a few shared, pipelined connections; a transaction has one of its
-- own. Every function but array, jsonb and bytea waits without blocking.
--
--   local pg = require "chowk.pg"
--   pg.one("SELECT slug, name FROM products WHERE id = $1", 7)   --> { slug = …, name = … }, or nil: no such row
--   pg.tx(function(tx)
--     local stock = tx:lock("inventory", sku, { key = "sku" })
--     tx:exec("UPDATE inventory SET quantity = quantity - 1 WHERE sku = $1", sku)
--   end)
--
-- Parameters are nil or pg.null, booleans, numbers, strings, raw JSON, pg.array(…), pg.jsonb(…) and pg.bytea(…); their
-- count must be that of the placeholders. NULL reads as nil; a row is still written to JSON with all its columns.
-- Raises pg_error with a sqlstate (the server refused it), unavailable, queue_full, deadline, outcome_unknown (the
-- connection broke after a write was sent), refused (what may not run here, and what to write instead).
local core = require "chowk.core.pg"
local task = require "chowk.core.task"
local vm = require "chowk.core.vm"
local json = require "chowk.core.json"
local copy = require "chowk.pg_copy"
local enqueue = require "chowk.pg_enqueue"
local forget = require "chowk.pg_forget"
local gapless = require "chowk.pg_gapless"
local listen = require "chowk.pg_listen"
local raise = require "chowk.raise"
local page = require("chowk.pg_page").page
local replica = require "chowk.pg_replica"
local time = require "chowk.time"

local settle, misuse = raise.settle, raise.misuse
local is_err, check = vm.is_err, vm.check
local query, tx_query = core.query, core.tx_query
local raw_pcall, select, type = pcall, select, type

-- As in core/bind/bind_pg.h.
local SHAPES = { query = 0, one = 1, value = 2, exec = 3, json = 4, json_one = 5 }
local ROWS, ONE = SHAPES.query, SHAPES.one
local ANYTHING = 0 -- as `enum where` in core/bind/bind_pg.c

local M = {}

--- Notifications: pg.listen(channel, fn | options, options?), pg.notify(channel, payload?). See chowk/pg_listen.lua.
M.listen, M.notify = listen.listen, listen.notify

--- Many rows: pg.copy_in(sql, rows | function(w)), pg.copy_out(sql, function(text)). See chowk/pg_copy.lua.
M.copy_in, M.copy_out = copy.copy_in, copy.copy_out

--- SQL NULL, where a nil cannot stand: in the lists of pg.all and tx:all. The same value as json.null.
M.null = json.null

for name, shape in pairs(SHAPES) do
  M[name] = function(...)
    if (...) == M then return settle(query(ANYTHING, shape, select(2, ...))) end
    return settle(query(ANYTHING, shape, ...))
  end
end

--- pg.query(sql, …) → list of rows; an empty one is written as []. Yields.
--- pg.one(sql, …) → the first row, or nil. Yields.
--- pg.value(sql, …) → the first column of the first row, or nil. Yields.
--- pg.exec(sql, …) → number of rows affected. Yields.
--- pg.json(sql, …) → all rows as raw JSON, made without a Lua table; return it or put it into a table. Yields.
--- pg.json_one(sql, …) → the first row as raw JSON, or nil. Yields.

--- Several independent statements at once: pg.all{ {sql, …}, {sql, …} }. Each commits alone.
-- @param list table  lists {sql, value…}; write pg.null, not nil
-- @return list of lists of rows, in the same order
-- Raises the first failure, after all have ended. Yields.
function M.all(...)
  if (...) == M then return settle(core.all(ANYTHING, (select(2, ...)))) end
  return settle(core.all(ANYTHING, (...)))
end

--- A list as an array parameter. Nested lists are dimensions; pg.null is a NULL item.
-- @param list table
-- @param item_type string|nil  "json" or "jsonb": items are written as JSON; else the statement decides ($1::text[])
function M.array(list, item_type)
  return core.array(list, item_type)
end

--- A value as a json or jsonb parameter. @param value any  what json.encode takes
function M.jsonb(value)
  return core.jsonb(value)
end

--- Bytes as a bytea parameter. What is read is base64, here as in JSON: crypto.unbase64(row.picture) are the bytes.
-- @param bytes string
function M.bytea(bytes)
  return core.bytea(bytes)
end

--- What the connections of this worker do: { open, idle, in_flight, waiting, queries, errors, reconnects, waits }.
-- waits[i] is the number of calls that waited for a connection less than 2^(i-1) ms, and at least half of that.
-- Does not yield. Returns nil when no PostgreSQL is configured.
function M.stats()
  return core.stats()
end

local function run_page(target, ...)
  return settle(core.page(target, ...))
end

--- One page of rows by keyset, as raw JSON {"items": […], "next_cursor": "…" | null}: pg.page("SELECT id, price_paise …
-- FROM products WHERE category_id = $1", { by = { "price_paise", "id" }, limit = 20, cursor = req.query.cursor }, 7).
-- The statement has no ORDER BY and no LIMIT; `by` is unique and never NULL. See chowk/pg_page.lua. Yields.
function M.page(...)
  if (...) == M then return page(run_page, ANYTHING, select(2, ...)) end
  return page(run_page, ANYTHING, ...)
end

--- Reads that may be a little old: pg.replica.query one value json json_one all page. See chowk/pg_replica.lua.
M.replica = replica(SHAPES)

-- ---- inside a transaction ------------------------------------------------------------------------------------

local Tx = {}
Tx.__index = Tx
Tx.__metatable = "pg.tx"

for name, shape in pairs(SHAPES) do
  Tx[name] = function(self, ...)
    local handle = self.handle
    if handle == nil then misuse("write tx:%s(…), with a colon", name) end
    return settle(tx_query(handle, shape, ...))
  end
end

--- As pg.page, in the transaction. Yields.
function Tx:page(sql, options, ...)
  return page(run_page, self.handle, sql, options, ...)
end

--- Statements of the transaction in one round trip: tx:all{ {sql, …}, {sql, …} }.
-- @return list of lists of rows  Raises the first failure; the others were skipped. Yields.
function Tx:all(list)
  enqueue.note(self, list)
  return settle(core.tx_all(self.handle, list, false))
end

--- Statements to be sent together with COMMIT, in this order, once the function has returned: a round trip less, and
-- what they lock is held shortest. Their results are seen by nobody; a failure is the transaction's.
-- @param list  as tx:all  Does not yield.
function Tx:defer(list)
  if type(list) ~= "table" then misuse("tx:defer: expected a list of statements, got %s", type(list)) end
  enqueue.note(self, list)
  local deferred = self.deferred or {}
  for _, statement in ipairs(list) do deferred[#deferred + 1] = statement end
  self.deferred = deferred
end

local function behind(deferred, list)
  if not deferred then return list end
  for _, statement in ipairs(list) do deferred[#deferred + 1] = statement end
  return deferred
end

--- The last statements together with COMMIT, in one round trip: `return tx:commit{ {sql, …} }`. The transaction ends.
-- @return list of lists of rows  Raises commit_unknown if the connection broke after COMMIT was sent. Yields.
function Tx:commit(list)
  if self.keeps_answer then
    misuse("tx:commit: an idempotent route commits together with its answer: write tx:defer{…} and return")
  end
  enqueue.note(self, list)
  local n_deferred = self.deferred and #self.deferred or 0
  local lists = settle(core.tx_all(self.handle, behind(self.deferred, list), true))
  if n_deferred == 0 then return lists end
  local own = {}
  for i = n_deferred + 1, #lists do own[#own + 1] = lists[i] end
  return own
end

local function identifier(name, what)
  local ok = type(name) == "string" and name:find("^[%a_][%w_%.]*$") and not name:find("..", 1, true)
  if not ok or name:sub(-1) == "." then misuse("tx:lock: %s: expected a name, got %s", what, tostring(name)) end
  return '"' .. name:gsub("%.", '"."') .. '"'
end

local MODES = { update = "FOR UPDATE", share = "FOR SHARE", ["no key update"] = "FOR NO KEY UPDATE",
  ["key share"] = "FOR KEY SHARE" }
local WAITS = { nowait = " NOWAIT", skip = " SKIP LOCKED" }
local LOCK_OPTIONS = { mode = true, wait = true, key = true }

local function lock_statement(name, ids, options)
  for option in pairs(options) do
    if not LOCK_OPTIONS[option] then raise.unknown("tx:lock", option, LOCK_OPTIONS) end
  end
  local mode = MODES[options.mode or "update"]
  if not mode then misuse('tx:lock: mode must be "update", "no key update", "share" or "key share"') end
  local key, from = identifier(options.key or "id", "key"), identifier(name, "table")
  local wait = WAITS[options.wait] or ""
  if type(ids) == "table" then
    return ("SELECT * FROM %s WHERE %s = ANY($1) ORDER BY %s %s%s"):format(from, key, key, mode, wait), core.array(ids)
  end
  return ("SELECT * FROM %s WHERE %s = $1 %s%s"):format(from, key, mode, wait), ids
end

-- Waits for the lock at most so long; the transaction's own lock_timeout holds again afterwards.
local function rows_within(tx, seconds, sql, ids)
  local restore = tx.lock_timeout_ms > 0 and ("= " .. tx.lock_timeout_ms) or "TO DEFAULT"
  local lists = settle(core.tx_all(tx.handle, {
    { ("SET LOCAL lock_timeout = %d"):format(math.max(1, seconds * 1000)) },
    { sql, ids },
    { "SET LOCAL lock_timeout " .. restore },
  }, false))
  return lists[2]
end

--- Locks rows until the transaction ends, in key order, and returns them.
-- @param name string  table, "schema.table"
-- @param ids any|table  one key, or a list of keys
-- @param options table|nil  mode = "update" (default), "no key update", "share", "key share";
--   wait = "nowait", "skip", or a duration: pg_error 55P03 after it; key = the column, default "id"
-- @return for one key the row or nil; for a list a table from key to row
-- Yields.
function Tx:lock(name, ids, options)
  options = options or {}
  if ids == nil then misuse("tx:lock: expected a key or a list of keys, got nil") end
  local sql, value = lock_statement(name, ids, options)
  local is_timed = options.wait ~= nil and not WAITS[options.wait]
  local rows
  if is_timed then
    rows = rows_within(self, time.seconds(options.wait), sql, value)
  else
    rows = settle(tx_query(self.handle, ROWS, sql, value))
  end
  if type(ids) ~= "table" then return rows[1] end
  local map, key = {}, options.key or "id"
  for _, row in ipairs(rows) do map[row[key]] = row end
  return map
end

--- Takes an advisory lock that ends with the transaction.
-- @param key string|number  any text, or an integer
-- @param options table|nil  wait = "nowait": returns false at once if another holds it
-- @return true, or false  Yields.
function Tx:advisory(key, options)
  local is_number = type(key) == "number" and key % 1 == 0
  if not is_number and type(key) ~= "string" then
    misuse("tx:advisory: expected a string or an integer, got %s", type(key))
  end
  local wait = options and options.wait
  if wait ~= nil and wait ~= "nowait" then misuse('tx:advisory: wait must be "nowait"') end
  local hash = is_number and "$1::int8" or "hashtextextended($1, 0)"
  if wait then
    return settle(tx_query(self.handle, SHAPES.value, ("SELECT pg_try_advisory_xact_lock(%s)"):format(hash), key))
  end
  settle(tx_query(self.handle, ONE, ("SELECT pg_advisory_xact_lock(%s)"):format(hash), key))
  return true
end

gapless.setup(Tx)

--- Names what this transaction changes of the cache: tx:forget{ keys = "product:" .. slug, tags = { "catalogue" } }.
-- Once it has committed, and before pg.tx returns, no value loaded before is returned any more, by cache.fetch on any
-- machine; a crash in between is caught up with. Undone with the transaction, or with its savepoint. Needs the table
-- cache_forget (migrations); its row goes with the commit. @param what table  keys, tags: a string or a list of strings
function Tx:forget(what)
  forget.forget(self, what)
end

--- What to do when a unique constraint refuses this transaction, at once or at its end: it is undone, fn(err) runs
-- outside of it, and the transaction's function runs again, as after a conflict.
-- @param constraint string  its name  @param fn function(err)  may yield  Does not yield.
function Tx:on_duplicate(constraint, fn)
  if type(constraint) ~= "string" or type(fn) ~= "function" then
    misuse("tx:on_duplicate: expected a constraint's name and a function")
  end
  self.remedies = self.remedies or {}
  self.remedies[constraint] = fn
end

local function remedy_of(tx, err)
  if not tx.remedies or not is_err(err) or err.sqlstate ~= "23505" then return nil end
  local constraint = err.detail and err.detail:match "constraint: ([^;]+)"
  return constraint and tx.remedies[constraint]
end

-- 26000, 42P05: what a connection has prepared is not what we thought; by now the core prepares it anew.
local RERUN = { ["40001"] = true, ["40P01"] = true, ["26000"] = true, ["42P05"] = true }
local PASSES = { cancelled = true, deadline = true, commit_unknown = true, unavailable = true }
local SAVE, RELEASE, UNDO = 0, 1, 2

local function is_rerunnable(err)
  if not is_err(err) then return false end
  local is_stale = err.sqlstate == "0A000" and err.message:find("cached plan", 1, true)
  return RERUN[err.sqlstate] or is_stale or false
end

local function release_then(tx, number, ...)
  settle(core.savepoint(tx.handle, RELEASE, number))
  return ...
end

local function after_savepoint(tx, number, n_deferred, n_forgets, ok, ...)
  tx.depth = number - 1
  if ok then return ... end
  for i = #(tx.deferred or {}), n_deferred + 1, -1 do tx.deferred[i] = nil end
  forget.undo(tx, n_forgets)
  gapless.undo(tx)
  local err = ...
  check()
  local is_final = not is_err(err) or PASSES[err.code] or is_rerunnable(err) or remedy_of(tx, err)
  if is_final or not core.is_open(tx.handle) then error(err, 0) end
  settle(core.savepoint(tx.handle, UNDO, number))
  settle(core.savepoint(tx.handle, RELEASE, number))
  return nil, err
end

local function run_released(fn, tx, number)
  return release_then(tx, number, fn(tx))
end

--- `try` inside a transaction: fn(tx) under a savepoint. What fails in it is undone, and the transaction goes on.
-- @return fn's results, or nil, err for a run-time failure. Lua bugs, app.fail, cancel, deadline and conflicts that
--   run the whole transaction again pass through. Yields.
function Tx:savepoint(fn)
  if type(fn) ~= "function" then misuse("tx:savepoint: expected a function, got %s", type(fn)) end
  local number = self.depth + 1
  settle(core.savepoint(self.handle, SAVE, number))
  self.depth = number
  return after_savepoint(self, number, #(self.deferred or {}), #(self.forgets or {}),
    raw_pcall(run_released, fn, self, number))
end

-- ---- the life of a transaction ---------------------------------------------------------------------------------

local ISOLATION = { ["read committed"] = 0, ["repeatable read"] = 1, serializable = 2 }
local TX_OPTIONS = { isolation = true, read_only = true, retries = true, lock_timeout = true }
local DEFAULTS = { isolation = 0, read_only = false, retries = 3, lock_timeout_ms = 0 }

local function decode_options(options, is_final)
  if options == nil and not is_final then return DEFAULTS end
  options = options or {}
  if type(options) ~= "table" then misuse("pg.tx: expected options, a table, got %s", type(options)) end
  for name in pairs(options) do
    if not TX_OPTIONS[name] then raise.unknown("pg.tx", name, TX_OPTIONS) end
  end
  local isolation, retries = ISOLATION[options.isolation or "read committed"], options.retries or DEFAULTS.retries
  if not isolation then
    misuse('pg.tx: isolation must be "read committed", "repeatable read" or "serializable"')
  end
  if type(retries) ~= "number" or retries < 0 or retries > 100 then misuse("pg.tx: retries must be 0 to 100") end
  local timeout = options.lock_timeout and math.max(1, math.floor(time.seconds(options.lock_timeout) * 1000)) or 0
  return { isolation = isolation, read_only = options.read_only and true or false, retries = retries,
    lock_timeout_ms = timeout, is_final = is_final }
end

local run

local function commit_then(tx, ...)
  if core.is_open(tx.handle) then
    local has_deferred = tx.deferred and #tx.deferred > 0
    if has_deferred then settle(core.tx_all(tx.handle, tx.deferred, true)) else settle(core.commit(tx.handle)) end
  end
  enqueue.tell(tx)
  forget.apply(tx)
  return ...
end

local function run_and_commit(fn, tx)
  return commit_then(tx, fn(tx))
end

local function after(fn, options, attempt, tx, ok, ...)
  if ok then return ... end
  -- Ended before it failed: it may well have committed.
  if not core.is_open(tx.handle) then
    enqueue.tell(tx)
    if tx.forgets then raw_pcall(forget.apply, tx) end
  end
  core.rollback(tx.handle)
  check()
  local err = ...
  local remedy = remedy_of(tx, err)
  if attempt < options.retries and (remedy or is_rerunnable(err)) then
    if remedy then remedy(err) end
    settle(task.sleep(core.jitter(attempt)))
    return run(fn, options, attempt + 1)
  end
  error(err, 0)
end

function run(fn, options, attempt)
  local handle = core.begin(options.isolation, options.read_only, options.lock_timeout_ms, options.is_final)
  local tx = setmetatable({ handle = handle, depth = 0, lock_timeout_ms = options.lock_timeout_ms }, Tx)
  return after(fn, options, attempt, tx, raw_pcall(run_and_commit, fn, tx))
end

--- Runs fn(tx) in a transaction. Returning commits, raising rolls back. After a conflict (40001, 40P01) fn runs again
-- from its beginning, so it must not do anything outside the transaction that may not happen twice.
-- Inside, everything goes through tx: query one value exec json json_one all page lock advisory savepoint enqueue
-- defer on_duplicate commit forget gapless. In a job it commits only while the job's lease holds: lease_lost otherwise
-- (but for read_only).
-- @param fn function(tx)
-- @param options table|nil  isolation = "read committed" (default), "repeatable read", "serializable"; read_only;
--   retries = 3; lock_timeout = a duration, after which waiting for a lock raises pg_error 55P03
-- @return fn's results, after COMMIT was answered
-- Raises what fn raises; commit_unknown if the connection broke after COMMIT was sent: it may or may not be done.
-- Yields.
function M.tx(...)
  local fn, options = ...
  if fn == M then fn, options = select(2, ...) end
  if type(fn) ~= "function" then misuse("pg.tx: expected a function(tx), got %s", type(fn)) end
  return run(fn, decode_options(options), 0)
end

enqueue.setup(Tx, function(fn, options) return run(fn, decode_options(options, true), 0) end)

return M
