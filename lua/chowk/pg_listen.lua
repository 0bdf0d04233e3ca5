-- pg.listen and pg.notify: part of chowk.pg. Private to the library.
--
-- All subscriptions of a worker share one connection, which is made again when it is lost. What was sent meanwhile is
-- gone, so a subscription then reports a gap, and its reader looks at the tables again. A notification says "look", it
-- is no queue: after a crash of the reader nobody repeats it.
local core = require "chowk.core.pg"
local log = require "chowk.log"
local raise = require "chowk.raise"
local task = require "chowk.core.task"
local time = require "chowk.time"
local vm = require "chowk.core.vm"

local settle, misuse = raise.settle, raise.misuse
local raw_pcall, type = pcall, type

local M = {}

local Sub = {}
Sub.__index = Sub
Sub.__metatable = "pg.subscription"

--- The next notification, oldest first.
-- @param timeout number|string|nil  a duration; nil waits for ever
-- @return payload, is_gap: nil when none came in time or the subscription was closed; is_gap says that notifications
--   before this one may be missing (with options.gap that function is called instead)
-- Yields.
function Sub:next(timeout)
  local seconds = timeout and time.seconds(timeout)
  local payload, is_gap = settle(core.sub_next(self.handle, seconds))
  if not is_gap or not self.gap then return payload, is_gap end
  self.gap()
  if payload ~= nil then return payload, false end
  return self:next(timeout)
end

--- Ends the subscription; whoever waits in next gets nil. Does not yield.
function Sub:close()
  self.is_closed = true
  core.sub_close(self.handle)
end

local OPTIONS = { queue = true, gap = true }

local function decode_options(options)
  if options == nil then return {} end
  if type(options) ~= "table" then misuse("pg.listen: expected options, a table, got %s", type(options)) end
  for name in pairs(options) do
    if not OPTIONS[name] then raise.unknown("pg.listen", name, OPTIONS) end
  end
  local queue = options.queue
  if queue ~= nil and (type(queue) ~= "number" or queue % 1 ~= 0 or queue < 1 or queue > 1e6) then
    misuse("pg.listen: queue must be a whole number from 1 to 1000000")
  end
  if options.gap ~= nil and type(options.gap) ~= "function" then misuse("pg.listen: gap must be a function") end
  return options
end

local function check_channel(name, channel)
  if type(channel) ~= "string" then misuse("pg.%s: expected a channel, a string, got %s", name, type(channel)) end
  if #channel < 1 or #channel > 63 or channel:find("%z") then
    misuse("pg.%s: a channel's name has 1 to 63 bytes, none of them zero", name)
  end
end

local function take(sub, fn)
  local payload = sub:next()
  if payload ~= nil then fn(payload) end
end

-- One failing notification must not end the subscription.
local function consume(sub, fn)
  while not sub.is_closed do
    local ok, err = raw_pcall(take, sub, fn)
    if not ok then
      vm.check()
      log.error("a function given to pg.listen failed", { channel = sub.channel, error = tostring(err) })
    end
  end
end

--- Subscribes to a channel. From its return on nothing is missed without a gap being reported.
-- @param channel string
-- @param fn function(payload)|nil  runs for each notification, one after the other, in an activity of its own
-- @param options table|nil  queue = 1000, how many wait at most (more: all are dropped, a gap); gap = function(),
--   called when notifications may have been missed
-- @return subscription: sub:next(timeout), sub:close()
-- Raises refused when pg.pool_mode is "transaction". Yields. Not while loading: use app.on_start.
function M.listen(channel, fn, options)
  check_channel("listen", channel)
  if fn ~= nil and type(fn) ~= "function" then fn, options = nil, fn end
  options = decode_options(options)
  local handle = core.sub_open(channel, options.queue or 1000)
  local sub = setmetatable({ handle = handle, channel = channel, gap = options.gap }, Sub)
  settle(core.sub_wait(handle))
  if fn then task.spawn(consume, sub, fn) end
  return sub
end

--- Notifies whoever listens to a channel, here or elsewhere. Autocommit: it is sent when this returns.
-- @param channel string  @param payload string|nil  less than 8000 bytes
-- Raises as pg.exec. Yields.
function M.notify(channel, payload)
  check_channel("notify", channel)
  if payload ~= nil and type(payload) ~= "string" then
    misuse("pg.notify: expected a payload, a string, got %s: write json.encode(…)", type(payload))
  end
  settle(core.query(0, 3, "SELECT pg_notify($1, $2)", channel, payload or ""))
end

return M
