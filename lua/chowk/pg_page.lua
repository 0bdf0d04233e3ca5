-- pg.page, tx:page and pg.replica.page: part of chowk.pg. Private to the library.
--
-- Keyset paging: a page begins behind the last row of the one before, found by an index, so it costs the same however
-- deep it lies, and rows that come and go meanwhile shift nothing. The statement becomes a subquery, which PostgreSQL
-- takes apart again: an index on the columns of `by` is used as if the ORDER BY stood in the statement.
local core = require "chowk.core.pg"
local crypto = require "chowk.core.crypto"
local raise = require "chowk.raise"
local vm = require "chowk.core.vm"

local misuse = raise.misuse
local concat, raw_pcall, select, type, unpack = table.concat, pcall, select, type, unpack

local M = {}

local MAX_KEYS, MAX_LIMIT, MAX_PLANS = 8, 1000, 500
local OPTIONS = { by = true, desc = true, limit = true, cursor = true, hide = true }
local NO_NAMES = {}

local function quote(name) return 'page."' .. name:gsub('"', '""') .. '"' end

local function check_names(what, names, min)
  if type(names) ~= "table" then misuse("pg.page: %s must be a list of columns, got %s", what, type(names)) end
  for i = 1, #names do
    if type(names[i]) ~= "string" or names[i] == "" or names[i]:find("%z") then
      misuse("pg.page: %s must be a list of columns, item %d is %s", what, i, tostring(names[i]))
    end
  end
  if #names < min or #names > MAX_KEYS * 4 then misuse("pg.page: %s has %d columns", what, #names) end
end

local function joined(names)
  return #names > 0 and concat(names, "\0") .. "\0" or ""
end

-- (a, b) > ($n, …), or a > $n
local function condition(columns, first, is_desc)
  local values = {}
  for i = 1, #columns do values[i] = "$" .. first + i - 1 end
  local left, right = concat(columns, ", "), concat(values, ", ")
  if #columns > 1 then left, right = "(" .. left .. ")", "(" .. right .. ")" end
  return left .. (is_desc and " < " or " > ") .. right
end

local function make_plan(sql, options)
  local by, n_params, is_desc = options.by, core.count_params(sql), options.desc
  check_names("by", by, 1)
  check_names("hide", options.hide or NO_NAMES, 0)
  if #by > MAX_KEYS then misuse("pg.page: by has more than %d columns", MAX_KEYS) end
  local columns, order = {}, {}
  for i, name in ipairs(by) do
    columns[i] = quote(name)
    order[i] = columns[i] .. (is_desc and " DESC" or "")
  end
  local head = "SELECT * FROM (" .. sql .. "\n) AS page"
  local tail = " ORDER BY " .. concat(order, ", ") .. " LIMIT $"
  return {
    n_params = n_params, n_keys = #by, by = joined(by), hide = joined(options.hide or NO_NAMES),
    tag = crypto.sha256(head .. tail),
    first = head .. tail .. n_params + 1,
    next = head .. " WHERE " .. condition(columns, n_params + 1, is_desc) .. tail .. n_params + #by + 1,
  }
end

local plans, n_plans = {}, 0

-- Texts are few; who builds them without end finds the cache emptied now and then.
local function plan_of(sql, options)
  local key = (options.desc and "-" or "+") .. joined(options.by) .. "\0" .. joined(options.hide or NO_NAMES)
  local of_sql = plans[sql]
  local plan = of_sql and of_sql[key]
  if plan then return plan end
  plan = make_plan(sql, options)
  if n_plans >= MAX_PLANS then plans, n_plans, of_sql = {}, 0, nil end
  if not of_sql then
    of_sql = {}
    plans[sql] = of_sql
  end
  of_sql[key], n_plans = plan, n_plans + 1
  return plan
end

local function check_options(sql, options)
  if type(sql) ~= "string" then misuse("pg.page: expected a statement, a string, got %s", type(sql)) end
  if type(options) ~= "table" then misuse("pg.page: expected options, a table with by = {…}, got %s", type(options)) end
  for name in pairs(options) do
    if not OPTIONS[name] then raise.unknown("pg.page", name, OPTIONS) end
  end
  if options.desc ~= nil and type(options.desc) ~= "boolean" then
    misuse("pg.page: desc must be true or false: one direction for all columns of by")
  end
  local limit, cursor = options.limit or 20, options.cursor
  if type(limit) ~= "number" or limit % 1 ~= 0 or limit < 1 or limit > MAX_LIMIT then
    misuse("pg.page: limit must be a whole number from 1 to %d, got %s", MAX_LIMIT, tostring(limit))
  end
  if cursor ~= nil and type(cursor) ~= "string" then
    misuse("pg.page: cursor must be a string, got %s", type(cursor))
  end
  if type(options.by) ~= "table" then misuse("pg.page: by must be a list of columns, got %s", type(options.by)) end
  return limit, cursor
end

local function fail_cursor()
  raise.problem(422, "invalid_cursor", "This cursor is not from this list: leave it away to begin at the first page.")
end

-- What the type of a key's column has changed to since, it cannot be read as.
local UNREADABLE = { ["22P02"] = true, ["22007"] = true, ["22008"] = true, ["22003"] = true }

local function after_next(ok, ...)
  if ok then return ... end
  vm.check()
  local err = ...
  if vm.is_err(err) and UNREADABLE[err.sqlstate] then fail_cursor() end
  error(err, 0)
end

--- One page of a statement's rows, by keyset.
-- @param run function(target, by, hide, limit, tag, sql, …), with its target
-- @param sql string  a SELECT without ORDER BY and LIMIT, with the columns of `by` in its list
-- @param options table  by = columns that order the rows, together unique and never NULL ({"price_paise", "id"});
--   desc = true for all of them descending; limit = 1 … 1000 (20); cursor = the next_cursor of the page before, or nil;
--   hide = columns that are in the statement for `by` only
-- @return raw JSON {"items": […], "next_cursor": "…" | null}
-- Raises the problem 422 invalid_cursor for a cursor that is none of this list; else as pg.query. Yields.
function M.page(run, target, sql, options, ...)
  local limit, cursor = check_options(sql, options)
  local plan, n = plan_of(sql, options), select("#", ...)
  if n ~= plan.n_params then
    misuse("pg.page: the statement has %d parameters ($1 …), %d were given", plan.n_params, n)
  end
  if not cursor then
    local args = { ... }
    args[n + 1] = limit + 1
    return run(target, plan.by, plan.hide, limit, plan.tag, plan.first, unpack(args, 1, n + 1))
  end
  local keys = core.cursor_read(cursor, plan.tag, plan.n_keys)
  if not keys then fail_cursor() end
  local args = { ... }
  for i = 1, plan.n_keys do args[n + i] = keys[i] end
  n = n + plan.n_keys + 1
  args[n] = limit + 1
  return after_next(raw_pcall(run, target, plan.by, plan.hide, limit, plan.tag, plan.next, unpack(args, 1, n)))
end

return M
