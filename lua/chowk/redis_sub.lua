-- redis.subscribe and redis.psubscribe. Private to the library: use it through chowk.redis.
--
-- One more connection per worker carries all subscriptions. Redis' pub/sub promises little: who is not connected
-- misses what is published. So after each interruption a message { gap = true } comes first: drop what you derived from
-- earlier messages and read the truth again.
local core = require "chowk.core.redis"
local log = require "chowk.log"
local raise = require "chowk.raise"
local task = require "chowk.task"
local time = require "chowk.time"

local settle = raise.settle
local READY_WAIT = 2

local Sub = {}
Sub.__index = Sub

--- The next message: { channel=, payload=, pattern= (psubscribe) }, or { gap = true }: some may have been missed.
-- @param timeout number|string|nil  seconds or a duration; nil: as long as the activity may wait
-- @return table|nil  nil: nothing came within the timeout, or the subscription was closed meanwhile
-- @raise queue_full (this reader was too slow, and has been dropped), redis_error (Redis forbids the channel)
-- Yields.
function Sub:next(timeout)
  return settle(core.sub_next(self.handle, timeout and time.seconds(timeout)))
end

--- An iterator over messages, until the subscription is closed: `for message in sub:messages() do … end`. Yields.
function Sub:messages()
  return function()
    if core.sub_is_closed(self.handle) then return nil end
    return settle(core.sub_next(self.handle))
  end
end

--- Ends it. Whoever waits in `next` gets nil. Does not yield.
function Sub:close()
  core.sub_close(self.handle)
end

local function deliver(sub, fn)
  for message in sub:messages() do
    local ok, err = pcall(fn, message)
    if not ok then log.error("a redis subscriber failed", { channel = message.channel, error = tostring(err) }) end
  end
end

local function open(what, patterns, channels, fn, options)
  if type(channels) == "string" then channels = { channels } end
  if fn ~= nil and type(fn) ~= "function" then raise.misuse("redis.%s: expected a function, got %s", what, type(fn)) end
  local handle, err = core.sub_open(channels, patterns, options and options.max_messages)
  if not handle then error(err, 0) end
  local sub = setmetatable({ handle = handle }, Sub)
  local ok, failure = core.sub_ready(handle, READY_WAIT)
  if not ok and failure.code ~= "unavailable" and failure.code ~= "timeout" then
    core.sub_close(handle)
    error(failure, 0)
  end
  if fn then task.spawn(deliver, sub, fn) end
  return sub
end

local M = {}

local function named(what, patterns)
  return function(first, ...)
    if type(first) == "table" and rawget(first, "subscribe") == M.channels then return open(what, patterns, ...) end
    return open(what, patterns, first, ...)
  end
end

--- Subscribes to channels. Returns once Redis has confirmed them; when Redis is away it returns all the same, goes on
-- trying, and begins with a { gap = true }. Not while loading: in app.on_start, a handler or a task.
-- @param channels string|list of strings
-- @param fn function|nil  called with each message in a task of its own, one after the other; its errors are logged.
--   nil: read with sub:next or sub:messages
-- @param options table|nil  max_messages: how many may wait for the reader before it is dropped (1000)
-- @return sub
-- @raise redis_error, unavailable (no Redis is configured)
-- Yields.
M.channels = named("subscribe", false)

--- As channels, by glob patterns: "orders.*".
M.patterns = named("psubscribe", true)

return M
