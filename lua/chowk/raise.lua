-- How failures are raised, the same everywhere (DESIGN 5). Private to the library.
--
-- Two kinds: what the world causes is a table error{code, message, retryable, sqlstate?}, raised without a position,
-- so that it can be looked at; what the author causes is a string with his file and line.
local core = require "chowk.core.vm"

local M = {}

local ERR, PROBLEM = core.meta("err"), core.meta("problem")
local is_err, check, where = core.is_err, core.check, core.where
local raw_pcall = pcall

--- What an async binding returns: `true, results…` or `false, err`. Returns the results or raises err.
-- Use as `return settle(core.query(…))`. Does not yield.
function M.settle(ok, ...)
  if ok then return ... end
  error((...), 0)
end

--- Raises a run-time failure. Codes are those of core/base/err.tbl.
-- @param code string  @param message string  @param more table|nil  further members: retryable, sqlstate
function M.failure(code, message, more)
  local err = { code = code, message = message, retryable = false }
  if more then
    for k, v in pairs(more) do err[k] = v end
  end
  error(setmetatable(err, ERR), 0)
end

--- Raises an RFC 9457 problem: the answer to this request, and the end of an open transaction.
function M.problem(status, code, detail, extra)
  error(setmetatable({ status = status, code = code, detail = detail, extra = extra }, PROBLEM), 0)
end

--- Raises a misuse: a string with the application's file:line in front.
function M.misuse(fmt, ...)
  error(where() .. (select("#", ...) > 0 and fmt:format(...) or fmt), 0)
end

--- Raises a misuse for an option that is none, and names those that are. @param known table  name → anything
function M.unknown(what, name, known)
  local names = {}
  for key in pairs(known) do names[#names + 1] = key end
  table.sort(names)
  M.misuse('%s: unknown option "%s": there are %s', what, tostring(name), table.concat(names, ", "))
end

--- A value as a message shows it: strings in quotes, of what has no text only its type.
function M.shown(value)
  if type(value) == "string" then return ("%q"):format(value) end
  local kind = type(value)
  return (kind == "number" or kind == "boolean" or kind == "nil") and tostring(value) or "a " .. kind
end

local PASSES = { cancelled = true, deadline = true }

local function after_try(ok, ...)
  if ok then return ... end
  check()
  local err = ...
  if is_err(err) and not PASSES[err.code] then return nil, err end
  error(err, 0)
end

--- The global `try(fn, …)`: fn's results, or `nil, err` for a run-time failure. Lua bugs, app.fail, cancel and
-- deadline pass through. Yields if fn does.
function M.try(fn, ...)
  return after_try(raw_pcall(fn, ...))
end

return M
