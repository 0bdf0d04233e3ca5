-- Work beside and between requests.
local core = require "chowk.core.task"
local raise = require "chowk.raise"
local time = require "chowk.time"

local M = {}
local settle = raise.settle

--- Waits. Yields.
-- @param duration number|string  seconds, or "200ms"
-- Raises deadline or cancelled with the activity it runs in.
function M.sleep(duration)
  settle(core.sleep(time.seconds(duration)))
end

--- Starts fn(…) as an activity of its own, later in this turn: without a deadline, cancelled when this generation
-- stops. Its errors are logged. Does not yield. Not while loading: use app.on_start.
function M.spawn(fn, ...)
  if type(fn) ~= "function" then raise.misuse("task.spawn: expected a function, got %s", type(fn)) end
  core.spawn(fn, ...)
end

--- Runs functions at the same time, within this activity's deadline. Yields.
-- @param fns table  list of functions  @return list of each one's first result, in order
-- Raises the first error, after the others were cancelled and have ended.
function M.all(fns)
  if type(fns) ~= "table" then raise.misuse("task.all: expected a list of functions, got %s", type(fns)) end
  return settle(core.all(fns))
end

return M
