-- Number sequences: unique numbers for orders, tickets, parcels. A worker takes them from blocks that all workers of
-- the machine share in memory, so thousands of orders a second do not queue on one row of the database.
--
--   local seq = require "chowk.seq"
--   seq.next("order")    --> "PC2627-000123"
--   seq.value("order")   --> 124
--   seq.skip_past("order", "PC2627-004711")   a backup was restored: not below that again
--
-- conf/chowk.lua says which there are: seq = { formats = { order = "PC{fy}-{n:6}" } }. Placeholders are {fy} (2627),
-- {year}, {yy}, {month} and the counter {n:6}; counting starts again with what the format shows, or as seq.periods says
-- ("fy", "year", "month", "none"), at midnight in India.
--
-- Unique always, also across machines; consecutive usually, but a restart, a crash or a rollback leaves gaps: an
-- invoice that may not have gaps takes its number in its own transaction (tx:gapless).
local core = require "chowk.core.seq"
local pg = require "chowk.pg"
local raise = require "chowk.raise"

local take, settle = core.take, raise.settle

local M = {}

--- The next number as text, in its format.
-- @param name string  a key of seq.formats
-- @return string  at most 16 characters of [A-Za-z0-9/-]
-- @raise unavailable (PostgreSQL is away and nothing is leased), queue_full, deadline, pg_error (the database has no
--   get_next_order_sequence: run `chowk migrate`), invalid (more numbers than the format has room for); misuse for a
--   name that is not configured
-- Yields only when no number is leased; may be called inside pg.tx. A number that is then not used is a gap.
function M.next(name)
  return settle(take(name, true))
end

--- The next number itself, of a sequence with or without a format: both count together.
-- @param name string  a key of seq.formats or seq.periods
-- @return integer
-- @raise as seq.next, but invalid
-- Yields as seq.next.
function M.value(name)
  return settle(take(name, false))
end

-- get_next_order_sequence's row: never backwards, and one step for however many ask for it.
local SKIP = [[
  INSERT INTO sequences AS s (name, period, value) VALUES ($1, $2, $3)
  ON CONFLICT (name, period) DO UPDATE SET value = excluded.value WHERE s.value < excluded.value]]

--- For a number that turns out to be taken, as when the database was restored from a backup and the sequence is behind
-- what was given out since: the next ones come after it. What this machine has leased below it is dropped.
-- @param name string  a key of seq.formats
-- @param number string  as seq.next gave it; best the highest that is known
-- @return boolean  false: it is none of the running period, whose numbers it cannot meet
-- @raise what pg raises. Yields; not inside pg.tx.
function M.skip_past(name, number)
  if type(number) ~= "string" then raise.misuse("seq.skip_past: expected a number's text, got %s", type(number)) end
  local period, value = core.read(name, number)
  if not period then return false end
  pg.exec(SKIP, name, period, value)
  core.skip(name, number)
  return true
end

return M
