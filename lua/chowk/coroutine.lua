-- The `coroutine` library of application code (STYLE 52). A call that waits inside a user's own coroutine yields a
-- private value to whoever resumed that; these functions pass it outward, coroutine by coroutine, until
-- core/script/co.c has it, and pass the results inward again. To the author it looks as if only the innermost one
-- waited.
local core = require "chowk.core.vm"

local create, raw_resume, raw_yield = coroutine.create, coroutine.resume, coroutine.yield
local running, status = coroutine.running, coroutine.status
local is_main, is_parked, outward, check = core.is_main, core.is_parked, core.outward, core.check

local waiting = setmetatable({}, { __mode = "k" }) -- coroutines whose innermost call is parked: nobody may resume them

local function relay(thread, ok, first, ...)
  if not ok then
    check()
    return false, first
  end
  if first ~= nil and is_parked(first) then
    waiting[thread] = true
    local function deliver(...)
      waiting[thread] = nil
      return relay(thread, raw_resume(thread, ...))
    end
    return deliver(outward())
  end
  return true, first, ...
end

local function resume(thread, ...)
  if type(thread) == "thread" then
    if waiting[thread] then return false, "cannot resume a coroutine that waits in a call" end
    if is_main(thread) then return false, "cannot resume a request's own coroutine" end
  end
  return relay(thread, raw_resume(thread, ...))
end

local function results_or_error(ok, ...)
  if ok then return ... end
  error((...), 0)
end

local M = { create = create, running = running, isyieldable = coroutine.isyieldable }

--- As in Lua. Yields if the coroutine waits.
function M.resume(thread, ...)
  return resume(thread, ...)
end

--- As in Lua. The function it returns yields if the coroutine waits.
function M.wrap(fn)
  local thread = create(fn)
  return function(...) return results_or_error(resume(thread, ...)) end
end

--- As in Lua; an error outside a coroutine that the application has made.
function M.yield(...)
  if is_main(running()) then error("attempt to yield from outside a coroutine", 2) end
  return raw_yield(...)
end

--- As in Lua. A coroutine that waits in a call is "normal": it is not yours to resume.
function M.status(thread)
  return waiting[thread] and "normal" or status(thread)
end

return M
