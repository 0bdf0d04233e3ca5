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
--
-- A command that waits inside Redis (blpop and its kind, xread with BLOCK) has a connection of its own, one of
-- redis.blocking_connections per worker. It never waits beyond the deadline of the request; in a task without one,
-- redis.blpop(key, 0) waits for ever. While the connection to Redis is being renewed, writes raise `unavailable` at
-- once; reads wait for it, redis.offline_wait at most. After a write was sent, a client that goes away no longer ends
-- the request; only its deadline does.
local core = require "chowk.core.redis"
local raise = require "chowk.raise"
local subscribe = require "chowk.redis_sub"

local command, pipeline, multi, settle = core.command, core.pipeline, core.multi, raise.settle

local M = {}

--- Runs one command by its name.
-- @param name string  "GET"; any case
-- @param ... string|number|raw
-- @return the reply
-- @raise redis_error (Redis refused it: its text is the message), unavailable, queue_full, deadline, outcome_unknown
--   (a write had been sent when the connection broke, or the deadline came), refused (would disturb the connection
--   that all requests share: the message says what to write instead)
-- Yields.
function M.call(...)
  if (...) == M then return settle(command(select(2, ...))) end
  return settle(command(...))
end

--- Is the connection there? Waits for nothing: a Redis that has fallen silent counts as up until that is noticed,
-- within a minute.
-- @return boolean
-- Does not yield.
M.is_up = core.is_up

-- ---- scripts --------------------------------------------------------------------------------------------------

local Script = {}
Script.__index = Script

--- Runs the script: `script({ key, … }, arg, …)`.
-- @param keys list of strings  what it touches (KEYS)
-- @param ... string|number|raw  ARGV
-- @return what the script returns, as a reply
-- @raise as M.call
-- Yields.
function Script:__call(keys, ...)
  return settle(core.run_script(self.handle, keys, ...))
end

--- A Lua script that runs inside Redis, all or nothing, with nobody in between: the way to decide on what it reads.
-- It is sent by its hash, and with its text when Redis does not know that. May be made while loading.
--
--   local take = redis.script [[
--     local left = tonumber(redis.call("GET", KEYS[1]) or "0")
--     if left < tonumber(ARGV[1]) then return false end
--     return redis.call("DECRBY", KEYS[1], ARGV[1]) ]]
--   take({ "stock:1" }, 2)            --> 3, or nil
--   redis.pipeline { { take, { "stock:1" }, 2 }, { "GET", "x" } }
-- @param source string
-- @return chowk.redis.script  callable
-- Does not yield.
function M.script(a, b)
  local source = a == M and b or a
  if type(source) ~= "string" then raise.misuse("redis.script: expected the script's text, got %s", type(source)) end
  return setmetatable({ handle = core.script(source), source = source }, Script)
end

-- {script, {keys}, args…} as a command. By its text: in the middle of a batch there is no second try.
local function script_command(item)
  local script, keys = item[1], item[2]
  if type(keys) ~= "table" then raise.misuse("redis: a script in a list is { script, { keys… }, args… }") end
  local out = { "EVAL", script.source, #keys }
  for i = 1, #keys do out[i + 3] = keys[i] end
  for i = 3, #item do out[#out + 1] = item[i] end
  return out
end

local function with_scripts(list)
  if type(list) ~= "table" then return list end
  local out
  for i = 1, #list do
    local item = list[i]
    if type(item) == "table" and getmetatable(item[1]) == Script then
      if not out then
        out = {}
        for j = 1, #list do out[j] = list[j] end
      end
      out[i] = script_command(item)
    end
  end
  return out or list
end

-- ---- several commands -----------------------------------------------------------------------------------------

--- Sends several commands at once and waits for all replies.
-- @param commands list of {name, args…} or {script, {keys}, args…}, at most 10000
-- @return list of replies in the same order, with nil where Redis said nil; a command that Redis answered with an
--   error has an error{code="redis_error"} in its place
-- @raise what M.call raises, but redis_error: when one command got no answer at all, or is refused (then none was sent)
-- Yields.
function M.pipeline(a, b)
  return settle(pipeline(with_scripts(a == M and b or a)))
end

local function recorded(name, ...)
  local item = { name, ... }
  for i = 1, select("#", ...) do
    if item[i + 1] == nil then raise.misuse("redis %s: argument %d is nil", name, i) end
  end
  return item
end

-- What fn(m) calls on m, as a list of commands: m.set(k, v), m:set(k, v), m.call("SET", k, v).
local function record(fn)
  local list = {}
  fn(setmetatable({}, { __index = function(t, key)
    local name = key ~= "call" and tostring(key):upper() or nil
    return function(...)
      local from = (...) == t and 2 or 1
      if name then
        list[#list + 1] = recorded(name, select(from, ...))
      else
        list[#list + 1] = recorded(select(from, ...))
      end
    end
  end }))
  return list
end

--- Runs commands as one transaction: all of them, with nobody else's between, or none.
-- Redis rolls nothing back: a command that fails when its turn comes (a wrong type) has its error in its place, and the
-- others have run. What must depend on a value read before wants redis.script: there is no WATCH here.
--
--   redis.multi { { "DECRBY", "stock:1", 2 }, { "RPUSH", "sold", "1" } }
--   redis.multi(function(m) m.decrby("stock:1", 2); m.rpush("sold", "1") end)
-- @param commands list as for M.pipeline, or a function that is given a recorder; nothing is sent before it returns
-- @return list of replies, as M.pipeline's
-- @raise as M.call; redis_error when Redis would not queue one of them (then none has run)
-- Yields.
function M.multi(a, b)
  local commands = a == M and b or a
  if type(commands) == "function" then
    commands = record(commands)
    if #commands == 0 then return {} end
  end
  return settle(multi(with_scripts(commands)))
end

-- ---- subscriptions --------------------------------------------------------------------------------------------

M.subscribe = subscribe.channels
M.psubscribe = subscribe.patterns

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
