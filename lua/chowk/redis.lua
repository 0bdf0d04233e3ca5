-- Redis: every command as a function. All of them wait without blocking; what runs in the same turn of the loop leaves
-- in one write. A Redis that is away raises error{code="unavailable"}: it is never the only home of anything, so `try`
-- it where the shop can go on without.
--
--   local redis = require "chowk.redis"
--   redis.set("greeting", "hello", "EX", 60)     --> "OK"
--   redis.get("greeting")                        --> "hello", or nil: no such key
--   redis:incr("visits")                         --> 1
--   redis.call("GETDEL", "greeting")
--   local a, b = unpack(redis.pipeline { {"GET", "a"}, {"INCR", "b"} }, 1, 2)
--
-- Arguments are strings, numbers and raw JSON. Replies: nil for Redis nil, a status and a bulk string as a string, an
-- integer as a number (a string from 10^14 on), an array as a table with nil where Redis said nil, so count with the
-- number of keys you asked for, not with `#`.
local core = require "chowk.core.redis"
local raise = require "chowk.raise"

local command, pipeline, settle = core.command, core.pipeline, raise.settle

local M = {}

--- Runs one command by its name.
-- @param name string  "GET"; any case
-- @param ... string|number|raw
-- @return the reply
-- @raise redis_error (Redis refused it: its text is the message), unavailable, queue_full, deadline, outcome_unknown
--   (the connection broke after a write had been sent), refused (would disturb the connection that all requests share:
--   the message says what to write instead)
-- Yields.
function M.call(...)
  if (...) == M then return settle(command(select(2, ...))) end
  return settle(command(...))
end

--- Sends several commands at once and waits for all replies.
-- @param commands list of {name, args…}, at most 10000
-- @return list of replies in the same order, with nil where Redis said nil; a command that Redis answered with an
--   error has an error{code="redis_error"} in its place
-- @raise what M.call raises, but redis_error: when one command got no answer at all, or is refused (then none was sent)
-- Yields.
function M.pipeline(...)
  if (...) == M then return settle(pipeline((select(2, ...)))) end
  return settle(pipeline((...)))
end

local function method(name)
  return function(...)
    if (...) == M then return settle(command(name, select(2, ...))) end
    return settle(command(name, ...))
  end
end

--- redis.<command>(…): any command of Redis, in lower case, with its arguments as in Redis' own documentation.
-- The same parameters, replies and errors as M.call. Yields.
return setmetatable(M, {
  __index = function(t, key)
    if type(key) ~= "string" or not key:find("^%a[%w_]*$") then return nil end
    local fn = method(key:upper())
    rawset(t, key, fn)
    return fn
  end,
})
