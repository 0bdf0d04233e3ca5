-- pg.copy_in and pg.copy_out: part of chowk.pg. Private to the library.
--
-- COPY is the fast way for many rows, in and out, on a connection of its own for as long as it takes. Neither side is
-- ever held in memory: a writer waits while the server reads slower, and nothing is read before the reader is done with
-- what it got. What raises in between ends the COPY: of a COPY in nothing stays.
local core = require "chowk.core.pg"
local raise = require "chowk.raise"
local vm = require "chowk.core.vm"

local settle, misuse = raise.settle, raise.misuse
local raw_pcall, type = pcall, type

local M = {}

local Writer = {}
Writer.__index = Writer
Writer.__metatable = "pg.copy writer"

--- One row, a list of values as parameters are: nil and pg.null are NULL. Yields now and then.
function Writer:row(values)
  settle(core.copy_row(self.handle, values))
end

--- Bytes in the format the statement names. Yields while the server reads slower.
function Writer:write(text)
  if type(text) ~= "string" then misuse("w:write: expected a string, got %s", type(text)) end
  settle(core.copy_write(self.handle, text))
end

local function finish(handle, ok, ...)
  core.copy_close(handle)
  if ok then return ... end
  vm.check()
  error((...), 0)
end

local function fill(handle, sql, source)
  settle(core.copy_wait(handle, sql, false))
  if type(source) == "function" then
    source(setmetatable({ handle = handle }, Writer))
  else
    for i = 1, #source do settle(core.copy_row(handle, source[i])) end
  end
  return settle(core.copy_end(handle))
end

--- Copies rows into a table: one statement, all of it or nothing.
-- @param sql string  "COPY items (id, name) FROM STDIN", which takes no parameters
-- @param source table|function  a list of rows, each a list of values in the order of the columns; or function(w),
--   which calls w:row{…} or w:write(text) as often as it likes (it may yield, and use pg.* meanwhile)
-- @return number of rows
-- Raises what the function raises, and then nothing stays; pg_error; deadline; outcome_unknown when the connection
-- broke after the end was sent. Yields.
function M.copy_in(sql, source)
  if type(sql) ~= "string" then misuse("pg.copy_in: expected a statement, a string, got %s", type(sql)) end
  if type(source) ~= "table" and type(source) ~= "function" then
    misuse("pg.copy_in: expected a list of rows or a function(w), got %s", type(source))
  end
  local handle = core.copy_open(sql, false)
  return finish(handle, raw_pcall(fill, handle, sql, source))
end

local function drain(handle, sql, fn)
  settle(core.copy_wait(handle, sql, true))
  while true do
    local text, n = settle(core.copy_read(handle))
    if text == nil then return n end
    fn(text)
  end
end

--- Copies rows out: fn(text) gets them in pieces of whole rows, in the format the statement names.
-- @param sql string  "COPY (SELECT …) TO STDOUT WITH (FORMAT csv, HEADER)", which takes no parameters
-- @param fn function(text)  may yield, as a stream's w:write does; the next piece is read when it returns
-- @return number of rows
-- Raises what fn raises; pg_error; deadline; unavailable. Yields.
function M.copy_out(sql, fn)
  if type(sql) ~= "string" then misuse("pg.copy_out: expected a statement, a string, got %s", type(sql)) end
  if type(fn) ~= "function" then misuse("pg.copy_out: expected a function(text), got %s", type(fn)) end
  local handle = core.copy_open(sql, true)
  return finish(handle, raw_pcall(drain, handle, sql, fn))
end

return M
