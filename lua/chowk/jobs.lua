-- Background jobs: work that must be done, but not while somebody waits. They are rows in PostgreSQL (table jobs), run
-- by the job workers (`jobs.workers`), so that they never delay a request.
--
--   local jobs = require "chowk.jobs"
--   jobs.define("order.mail", { retries = 10 }, function(args, job)
--     mail.send { to = args.email, … }
--   end)
--   jobs.enqueue("order.mail", { email = "asha@example.in" })            -- now, by itself
--   pg.tx(function(tx) …; tx:enqueue("order.mail", { … }) end)           -- with the transaction, or never
--   jobs.cron("0 3 * * *", "Asia/Kolkata", "cart.cleanup")               -- every night at three, once in the cluster
--
-- A job runs at least once: its process may die after the work and before saying so. So make it safe to repeat, or let
-- its last step be job:tx, whose commit also completes the job: both or neither.
-- A job that raises runs again after 1 s, 16 s, 81 s, … (attempt⁴, at most a day, ±10 %), and is discarded after its
-- last attempt, or at once where trying again cannot help: jobs.fail, values that PostgreSQL refuses (classes 22, 23),
-- failures that say retryable = false and are answers. No answer (unavailable, timeout, an unknown outcome, …) is never
-- the end of a job. Discarded ones are kept: `chowk jobs dead`.
local core = require "chowk.core.jobs"
local pg = require "chowk.core.pg"
local json = require "chowk.core.json"
local clock = require "chowk.core.time"
local raise = require "chowk.raise"
local time = require "chowk.time"

local settle, misuse = raise.settle, raise.misuse
local type, pairs = type, pairs
local null = json.null

local M = {}

local defined = {} -- name → {queue, priority, max_attempts, is_unique}

-- ---- options ---------------------------------------------------------------------------------------------------

local function check_options(what, options, allowed)
  if options == nil then return {} end
  if type(options) ~= "table" then misuse("%s: expected options, a table, got %s", what, type(options)) end
  for name in pairs(options) do
    if not allowed[name] then raise.unknown(what, name, allowed) end
  end
  return options
end

local function integer(what, name, value, default, min, max)
  if value == nil then return default end
  if type(value) ~= "number" or value % 1 ~= 0 or value < min or value > max then
    misuse("%s: %s: expected a whole number from %d to %d, got %s", what, name, min, max, raise.shown(value))
  end
  return value
end

local function text(what, name, value, default)
  if value == nil then return default end
  if type(value) ~= "string" then misuse("%s: %s: expected a string, got %s", what, name, type(value)) end
  return value
end

local MAX_STEPS, MAX_STEP_MS = 16, 4294967295

local function steps(backoff)
  if backoff == nil then return nil end
  local list = type(backoff) == "table" and backoff or { backoff }
  if #list < 1 or #list > MAX_STEPS then misuse("jobs.define: backoff: expected 1 to %d durations", MAX_STEPS) end
  local out = {}
  for i, duration in ipairs(list) do
    out[i] = math.floor(time.seconds(duration) * 1000)
    if out[i] > MAX_STEP_MS then misuse("jobs.define: backoff: a step is longer than 49 days") end
  end
  return out
end

-- ---- declarations -----------------------------------------------------------------------------------------------

local Job = {}
Job.__index = Job

-- What C starts: the job's function with its arguments, and with the job itself.
local function runner(name, fn)
  return function(args, id, attempt, max_attempts, run_at_ms, created_at_ms)
    local job = setmetatable({
      id = id, name = name, attempt = attempt, max_attempts = max_attempts,
      run_at = clock.rfc3339(run_at_ms), created_at = clock.rfc3339(created_at_ms),
    }, Job)
    fn(json.decode(args), job)
  end
end

local DEFINE = { retries = true, timeout = true, unique = true, concurrency = true, priority = true, queue = true,
  backoff = true }

--- Declares a kind of job. While loading only; every process that enqueues it must load it, too.
-- @param name string     A-Z a-z 0-9 . _ -, at most 64
-- @param options table|nil  retries = 24: failures it survives; timeout = "1m" of one run; priority = 2 (1 first … 4);
--   queue = "default"; concurrency: at most so many run at a time in the whole cluster; unique = true: not enqueued
--   while one with the same arguments waits or runs; backoff = "10s" or { "1s", "1m", … }: instead of attempt⁴
-- @param fn function(args, job)  may yield. Returning completes the job; raising fails it
function M.define(name, options, fn)
  if type(name) ~= "string" then misuse("jobs.define: expected a name, got %s", type(name)) end
  if fn == nil and type(options) == "function" then options, fn = nil, options end
  if type(fn) ~= "function" then misuse("jobs.define: expected a function(args, job), got %s", type(fn)) end
  local what = ('jobs.define("%s")'):format(name)
  options = check_options(what, options, DEFINE)
  local queue = text(what, "queue", options.queue, "default")
  local timeout = time.seconds(options.timeout or "1m")
  if timeout <= 0 or timeout > 86400 then misuse("%s: timeout: expected up to a day", what) end
  local kind = {
    queue = queue,
    priority = integer(what, "priority", options.priority, 2, 1, 4),
    max_attempts = integer(what, "retries", options.retries, 24, 0, 1000) + 1,
    is_unique = options.unique and true or false,
  }
  local concurrency = integer(what, "concurrency", options.concurrency, 0, 1, 100000)
  core.define(name, queue, concurrency, timeout * 1000, steps(options.backoff), runner(name, fn))
  defined[name] = kind
end

local function kind_of(what, name)
  local kind = defined[name]
  if not kind then
    misuse('%s: no job "%s" is defined: call jobs.define at the top level of a module', what, tostring(name))
  end
  return kind
end

local function encode(what, args)
  if args == nil then return "{}" end
  if type(args) ~= "table" then misuse("%s: arguments: expected a table, got %s", what, type(args)) end
  return json.encode(args)
end

--- Enqueues a job by the clock, once per slot in the whole cluster. Slots missed while nothing ran are made up for by
-- one run. A unique job that still waits for its next try is run at the slot instead of a second one, however long its
-- pause had become. While loading only, after the job's define; what is no longer declared stops.
-- @param expr string  "minute hour day month weekday" with lists, ranges, steps and names, or "@daily" and its like
-- @param zone string  "Asia/Kolkata", "UTC", any name of the zone database
-- @param name string  of the job  @param args table|nil
function M.cron(expr, zone, name, args)
  for i, value in ipairs { expr or false, zone or false, name or false } do
    if type(value) ~= "string" then
      misuse("jobs.cron: argument %d: expected a string: jobs.cron(expr, zone, name, args)", i)
    end
  end
  local kind = kind_of("jobs.cron", name)
  core.cron(expr, zone, name, encode("jobs.cron", args), kind.priority, kind.max_attempts, kind.is_unique)
end

-- ---- enqueueing --------------------------------------------------------------------------------------------------

local INSERT = [[
  INSERT INTO jobs (kind, queue, args, priority, max_attempts, run_at, state, unique_key)
  SELECT $1, $2, $3::jsonb, $4::int, $5::int, r.at,
         (CASE WHEN r.at > now() THEN 'scheduled' ELSE 'available' END)::job_state,
         CASE WHEN $8::boolean THEN md5($3::jsonb::text) ELSE $9::text END
  FROM (SELECT coalesce(to_timestamp($6::float8), now() + $7::float8 * interval '1 second') AS at) r
  ON CONFLICT (kind, unique_key)
    WHERE unique_key IS NOT NULL AND state IN ('available', 'scheduled', 'running', 'retryable') DO NOTHING
  RETURNING id]]

local ENQUEUE = { delay = true, run_at = true, unique = true, priority = true }

local function moment(what, value)
  if value == nil then return null end
  local unix = value
  if type(value) == "string" then unix = time.parse(value) end
  if type(unix) ~= "number" or unix ~= unix or unix < 0 or unix > 1e11 then
    misuse('%s: run_at: expected seconds since 1970 or "2026-11-23T06:19:16Z", got %s', what, tostring(value))
  end
  return unix
end

-- → the statement's values, and the queue to tell (nil: not now)
local function prepare(what, name, args, options)
  local kind = kind_of(what, name)
  options = check_options(what, options, ENQUEUE)
  if options.delay and options.run_at then misuse("%s: delay and run_at exclude each other", what) end
  local delay = options.delay and time.seconds(options.delay) or 0
  local run_at = moment(what, options.run_at)
  local is_unique, key = kind.is_unique, null
  if options.unique ~= nil then
    is_unique = options.unique == true
    if type(options.unique) == "string" then
      key = options.unique
    elseif type(options.unique) ~= "boolean" then
      misuse("%s: unique: expected true, false or a key, got %s", what, type(options.unique))
    end
  end
  local priority = integer(what, "priority", options.priority, kind.priority, 1, 4)
  local list = { INSERT, name, kind.queue, encode(what, args), priority, kind.max_attempts, run_at, delay, is_unique,
    key }
  if delay == 0 and run_at == null then list.job_queue = kind.queue end
  return list
end

local VALUE, ANYWHERE = 2, 0 -- as in chowk.pg

local function notify_then(queue, id)
  if id and queue then core.notify(queue) end
  return id
end

--- Enqueues a job, in a transaction of its own. Yields.
-- @param name string  @param args table|nil  what JSON can hold
-- @param options table|nil  delay = "5m"; run_at = seconds since 1970 or RFC 3339; priority = 1 … 4; unique = a key, or
--   true: its arguments: no second one while the first waits or runs
-- @return integer|nil  its id; nil: there is one with this unique key
-- Raises what pg raises; a misuse inside pg.tx: write tx:enqueue.
function M.enqueue(name, args, options)
  local list = prepare("jobs.enqueue", name, args, options)
  return notify_then(list.job_queue, settle(pg.query(ANYWHERE, VALUE, unpack(list, 1, 10))))
end

--- tx:enqueue, as a statement for tx:all and tx:commit, which saves its round trip: tx:commit { …, jobs.statement(…) }.
-- Parameters as jobs.enqueue. Does not yield.
function M.statement(name, args, options)
  return prepare("jobs.statement", name, args, options)
end

core.prepare = prepare -- for chowk.pg_enqueue

--- Ends a job as hopeless: it is discarded at once, with this message. Does not return.
function M.fail(message)
  if type(message) ~= "string" then misuse("jobs.fail: expected a message, got %s", type(message)) end
  raise.failure("job_failed", message)
end

-- ---- inside a job -------------------------------------------------------------------------------------------------

--- When the function returns, the job is parked for so long instead of done; that counts as no failure.
-- @param delay number|string  "5m". Does not yield: write `return job:again("5m")`
function Job.again(_, delay)
  core.again(time.seconds(delay))
end

--- Runs fn(tx) in a transaction whose commit also completes the job: what it writes happens exactly once. Raises
-- lease_lost, and writes nothing, if another process has taken the job over. For the job's last step. Yields.
-- @param fn function(tx)  @param options table|nil  as pg.tx
-- @return fn's results
function Job.tx(_, fn, options)
  if not core.is_running() then misuse("job:tx: this is not the activity of a job") end
  return core.run_final(fn, options)
end

return M
