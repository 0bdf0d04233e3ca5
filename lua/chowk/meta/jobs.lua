---@meta chowk.jobs
-- luacheck: ignore 212 241 (signatures only)

---Background jobs: rows in PostgreSQL, run by the job workers. A job runs at least once.
---@class chowk.jobs
local jobs = {}

---@class chowk.job
---@field id integer
---@field name string
---@field attempt integer from 1; runs that parked themselves do not count
---@field max_attempts integer
---@field run_at string RFC 3339: when it was due
---@field created_at string RFC 3339
local job = {}

---When the function returns, the job is parked for so long instead of done; no failure. Does not yield.
---Write `return job:again("5m")`.
---@param delay string|number duration
function job:again(delay) end

---Runs fn(tx) in a transaction whose commit also completes the job: what it writes happens exactly once. Raises
---`lease_lost` if another process has taken the job over. Yields.
---@generic T
---@param fn fun(tx: chowk.pg.tx): T
---@param options? chowk.pg.tx_options
---@return T
function job:tx(fn, options) end

---@class chowk.jobs.define_options
---@field retries? integer failures it survives; 24
---@field timeout? string|number of one run; "1m"
---@field priority? 1|2|3|4 1 first; 2
---@field queue? string "default"
---@field concurrency? integer at most so many run at a time in the whole cluster
---@field unique? boolean not enqueued while one with the same arguments waits or runs
---@field backoff? string|number|(string|number)[] instead of attempt⁴ seconds; of a list the last one repeats

---Declares a kind of job. While loading only; every process that enqueues it must load it, too.
---@param name string A-Z a-z 0-9 . _ -, at most 64
---@param options? chowk.jobs.define_options
---@param fn fun(args: table, job: chowk.job) returning completes the job, raising fails it
---@overload fun(name: string, fn: fun(args: table, job: chowk.job))
function jobs.define(name, options, fn) end

---Enqueues a job by the clock, once per slot in the whole cluster; slots missed while nothing ran are made up for by
---one run. While loading only, after the job's define.
---@param expr string "minute hour day month weekday", or "@daily" and its like
---@param zone string "Asia/Kolkata", "UTC", any name of the zone database
---@param name string
---@param args? table
function jobs.cron(expr, zone, name, args) end

---@class chowk.jobs.enqueue_options
---@field delay? string|number duration
---@field run_at? string|number RFC 3339, or seconds since 1970
---@field priority? 1|2|3|4
---@field unique? boolean|string a key, or true: the arguments

---Enqueues a job, in a transaction of its own. Yields. In `pg.tx` write `tx:enqueue`.
---@param name string
---@param args? table what JSON can hold
---@param options? chowk.jobs.enqueue_options
---@return integer? id nil: one with this unique key waits or runs
function jobs.enqueue(name, args, options) end

---`tx:enqueue` as a statement for `tx:all`, `tx:defer` and `tx:commit`. Does not yield.
---@param name string
---@param args? table
---@param options? chowk.jobs.enqueue_options
---@return chowk.pg.statement
function jobs.statement(name, args, options) end

---Ends a job as hopeless: it is discarded at once. Does not return.
---@param message string
function jobs.fail(message) end

return jobs
