-- State machines over a column: which states there are and which moves lead from where to where is data; a move is a
-- compare-and-set with its event row, in the caller's transaction.
--
--   local payment = machine.define {
--     name = "payment", table = "orders", column = "payment_status",
--     events = { table = "order_events", key = "order_id" },
--     states = { "unpaid", "authorized", "paid", "failed", "refunded" }, initial = "unpaid",
--     moves = {
--       authorize = { from = { "unpaid", "failed" }, to = "authorized" },
--       capture = { from = { "unpaid", "authorized", "failed" }, to = "paid", jobs = { "mail.paid" } },
--       refund = { from = { "paid" }, to = "refunded" },
--     },
--   }
--   pg.tx(function(tx)
--     payment:move(tx, order.id, "capture", { actor = "razorpay", data = { payment_id = p.id } })
--   end)
--
-- The table has the column, `version int` and `updated_at`; the table of events has its key column, type, from_status,
-- to_status, actor and data jsonb. An event's type is "payment.capture". `jobs` are enqueued in the same transaction,
-- with { id, from, to, move, data }.
--
-- Who has locked the row and read its state saves the round trip: the move as statements for tx:defer or tx:commit.
--   tx:defer(payment:statements(order.payment_status, order.id, "capture", { actor = "razorpay" }))
local core = require "chowk.core.vm"
local jobs = require "chowk.jobs"
local pg = require "chowk.pg"
local raise = require "chowk.raise"

local M = {}
local Machine = {}
Machine.__index = Machine
Machine.__metatable = "machine"

local NAME = "^[%a_][%w_]*$"

-- ---- definition -------------------------------------------------------------------------------------------------

local function check_name(value, what)
  if type(value) ~= "string" or not value:find(NAME) then
    raise.misuse("machine.define: %s: expected a name, got %s", what, tostring(value))
  end
  return value
end

local function check_states(def)
  local states = {}
  if type(def.states) ~= "table" or #def.states == 0 then
    raise.misuse("machine.define: %s: states: expected a list of names", def.name)
  end
  for _, state in ipairs(def.states) do states[check_name(state, def.name .. ": a state")] = true end
  if not states[def.initial] then
    raise.misuse('machine.define: %s: initial: "%s" is no state', def.name, tostring(def.initial))
  end
  return states
end

local function check_move(def, states, name, move)
  check_name(name, def.name .. ": a move")
  if type(move) ~= "table" or type(move.from) ~= "table" or #move.from == 0 then
    raise.misuse("machine.define: %s.%s: expected { from = { … }, to = … }", def.name, name)
  end
  for _, state in ipairs(move.from) do
    if not states[state] then
      raise.misuse('machine.define: %s.%s: "%s" is no state', def.name, name, tostring(state))
    end
  end
  if not states[move.to] then
    raise.misuse('machine.define: %s.%s: "%s" is no state', def.name, name, tostring(move.to))
  end
  local from = {}
  for _, state in ipairs(move.from) do from[state] = true end
  if move.jobs ~= nil and type(move.jobs) ~= "table" then
    raise.misuse("machine.define: %s.%s: jobs: expected a list of names", def.name, name)
  end
  return { from = from, list = pg.array(move.from, "text"), to = move.to, jobs = move.jobs or {} }
end

-- A state that no move leads to is a mistake in the table.
local function check_reachable(def, moves)
  local reached = { [def.initial] = true }
  for _, move in pairs(moves) do reached[move.to] = true end
  for _, state in ipairs(def.states) do
    if not reached[state] then raise.misuse('machine.define: %s: no move leads to "%s"', def.name, state) end
  end
end

--- Declares a machine. While loading only.
-- @param def table  name, table, column, key ("id"), events = {table=, key=}, states, initial, moves: see above
-- @return machine
function M.define(def)
  if not core.is_loading() then raise.misuse("machine.define is for loading time") end
  if type(def) ~= "table" then raise.misuse("machine.define: expected a table, got %s", type(def)) end
  check_name(def.name, "name")
  check_name(def.table, "table")
  check_name(def.column, "column")
  local events = type(def.events) == "table" and def.events or {}
  check_name(events.table, "events.table")
  check_name(events.key, "events.key")
  local states, moves = check_states(def), {}
  for name, move in pairs(def.moves or {}) do moves[name] = check_move(def, states, name, move) end
  check_reachable(def, moves)
  return setmetatable({
    name = def.name, table = def.table, column = def.column, key = check_name(def.key or "id", "key"),
    events = { table = events.table, key = events.key }, moves = moves, sql = {},
  }, Machine)
end

-- ---- moving -----------------------------------------------------------------------------------------------------

local SQL = [[
  WITH old AS (SELECT %(key) AS id, %(column) AS was FROM %(table) WHERE %(key) = $1 FOR UPDATE),
  moved AS (
    UPDATE %(table) t SET %(column) = $2%(set), version = t.version + 1, updated_at = now()
    FROM old WHERE t.%(key) = old.id AND old.was::text = ANY ($3::text[])
    RETURNING old.id, old.was, t.%(column) AS now),
  event AS (
    INSERT INTO %(events) (%(event_key), type, from_status, to_status, actor, data)
    SELECT id, $4, was::text, now::text, $5, $6 FROM moved)
  SELECT old.was::text AS was, EXISTS (SELECT 1 FROM moved) AS moved FROM old]]

-- The row is locked, and was in $3. Nobody sees what a deferred statement returns, so one that finds another state
-- after all fails, and the transaction with it. (now() keeps the planner from evaluating the failure beforehand.)
local LOCKED_SQL = [[
  WITH moved AS (
    UPDATE %(table) t SET %(column) = $2%(set), version = t.version + 1, updated_at = now()
    WHERE t.%(key) = $1 AND t.%(column)::text = $3
    RETURNING t.%(key) AS id, t.%(column) AS now),
  event AS (
    INSERT INTO %(events) (%(event_key), type, from_status, to_status, actor, data)
    SELECT id, $4, $3, now::text, $5, $6 FROM moved)
  SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM moved)
              THEN ('%(name): the row is not locked, its state has changed: ' || now())::int END]]

local N_FIXED = 6

-- One text for each set of further columns, so that it is prepared once.
local function statement_of(self, template, columns)
  local cache_key = template .. table.concat(columns, ",")
  local sql = self.sql[cache_key]
  if sql then return sql end
  local set = {}
  for i, column in ipairs(columns) do set[i] = (", %s = $%d"):format(check_name(column, "set"), N_FIXED + i) end
  local parts = { key = self.key, column = self.column, table = self.table, set = table.concat(set),
    events = self.events.table, event_key = self.events.key, name = self.name }
  sql = template:gsub("%%%(([%w_]+)%)", parts)
  self.sql[cache_key] = sql
  return sql
end

local function find_move(self, name)
  local move = self.moves[name]
  if not move then raise.misuse('%s has no move "%s"', self.name, tostring(name)) end
  return move
end

local function further(set)
  local columns, values = {}, {}
  for column in pairs(set or {}) do columns[#columns + 1] = column end
  table.sort(columns)
  for i, column in ipairs(columns) do values[i] = set[column] end
  return columns, values
end

local function check_options(self, what, options)
  if type(options) ~= "table" or type(options.actor) ~= "string" then
    raise.misuse("%s:%s: say who moves it: { actor = … }", self.name, what)
  end
  return options.data or {}
end

local function refuse(self, name, was, move)
  raise.failure("illegal_transition", ('%s: no "%s" from "%s"'):format(self.name, name, was),
    { machine = self.name, from = was, to = move.to })
end

--- Moves one row, if it is where the move may begin.
-- @param tx transaction  @param id any  @param name string  the move
-- @param options table  actor = string (required), data = table for the event, set = { column = value } beside it
-- @return string  the state it was in; nil: there is no such row
-- @raise illegal_transition (409 when nobody catches it), with `machine`, `from` and `to`. Yields.
function Machine:move(tx, id, name, options)
  local move, data = find_move(self, name), check_options(self, "move", options)
  local columns, values = further(options.set)
  local row = tx:one(statement_of(self, SQL, columns), id, move.to, move.list, self.name .. "." .. name,
    options.actor, pg.jsonb(data), unpack(values, 1, #columns))
  if not row then return nil end
  if not row.moved then refuse(self, name, row.was, move) end
  for _, job in ipairs(move.jobs) do
    tx:enqueue(job, { id = id, from = row.was, to = move.to, move = name, data = data })
  end
  return row.was
end

--- The move of a row that this transaction has locked, as statements for tx:all, tx:defer and tx:commit.
-- @param state string  what the locked row's column says  @param id any  @param name string  the move
-- @param options table  as Machine:move
-- @return table  statements: the move with its event, and its jobs. They fail if the row is in another state after all
-- @raise illegal_transition, at once. Does not yield.
function Machine:statements(state, id, name, options)
  local move, data = find_move(self, name), check_options(self, "statements", options)
  self:expect(state, name)
  local columns, values = further(options.set)
  local list = { { statement_of(self, LOCKED_SQL, columns), id, move.to, state, self.name .. "." .. name, options.actor,
    pg.jsonb(data), unpack(values, 1, #columns) } }
  for _, job in ipairs(move.jobs) do
    list[#list + 1] = jobs.statement(job, { id = id, from = state, to = move.to, move = name, data = data })
  end
  return list
end

--- Raises illegal_transition unless this move may begin in that state. Does not yield.
function Machine:expect(state, name)
  local move = find_move(self, name)
  if not move.from[state] then refuse(self, name, tostring(state), move) end
end

--- May this move begin in that state? Does not yield.
function Machine:can(state, name)
  return find_move(self, name).from[state] == true
end

--- Where this move leads. Does not yield. @return string
function Machine:to(name)
  return find_move(self, name).to
end

--- The moves that may begin in that state, by name. Does not yield.
-- @return string[]
function Machine:from(state)
  local names = {}
  for name, move in pairs(self.moves) do
    if move.from[state] then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

return M
