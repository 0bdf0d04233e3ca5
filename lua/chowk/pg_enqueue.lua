-- Jobs in a transaction: tx:enqueue, and telling the workers once it has committed (TRAPS T16: a NOTIFY inside costs
-- every commit 40 %). Also job:tx, whose commit completes the job. Private to chowk.pg.
local core = require "chowk.core.jobs"
local pg = require "chowk.core.pg"
local raise = require "chowk.raise"
require "chowk.jobs" -- sets core.prepare

local settle, misuse, pairs, type = raise.settle, raise.misuse, pairs, type

local VALUE = 2 -- as in chowk.pg
local M = {}

local function note_queue(tx, queue)
  if not queue then return end
  tx.queues = tx.queues or {}
  tx.queues[queue] = true
end

--- Statements that jobs.statement made say which queue they are for.
function M.note(tx, list)
  if type(list) ~= "table" then return end
  for i = 1, #list do
    local statement = list[i]
    if type(statement) == "table" and statement.job_queue then note_queue(tx, statement.job_queue) end
  end
end

--- After the commit, or when it is not known: who is told of nothing finds nothing. Does not yield.
function M.tell(tx)
  local queues = tx.queues
  if not queues then return end
  tx.queues = nil
  for queue in pairs(queues) do core.notify(queue) end
end

--- Adds tx:enqueue.
-- @param Tx table  the methods of transactions
-- @param run_final function(fn, options)  runs a transaction whose commit completes the job
function M.setup(Tx, run_final)
  --- Enqueues a job that is there once the transaction has committed, and never otherwise. Parameters and result as
  -- jobs.enqueue. Yields.
  function Tx:enqueue(name, args, options)
    local list = core.prepare("tx:enqueue", name, args, options)
    note_queue(self, list.job_queue)
    return settle(pg.tx_query(self.handle, VALUE, unpack(list, 1, 10)))
  end

  function core.run_final(fn, options)
    if type(fn) ~= "function" then misuse("job:tx: expected a function(tx), got %s", type(fn)) end
    if options and options.read_only then misuse("job:tx: a read-only transaction cannot complete a job") end
    return run_final(fn, options)
  end
end

return M
