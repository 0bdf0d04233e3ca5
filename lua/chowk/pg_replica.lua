-- pg.replica: part of chowk.pg. Private to the library.
--
-- Reads that may be a little old go to a replica that answers and is at most pg.replica_max_lag behind, else to the
-- primary. Never read money or stock here, nor what this request has just written.
local core = require "chowk.core.pg"
local page = require("chowk.pg_page").page
local raise = require "chowk.raise"
local vm = require "chowk.core.vm"

local settle, misuse = raise.settle, raise.misuse
local is_err, check, query = vm.is_err, vm.check, core.query
local select = select

-- As `enum where` in core/bind/bind_pg.c.
local ON_REPLICA, READ_ON_PRIMARY = 1, 2

-- The replica is gone, or had to throw the query out to replay what it got: the primary answers instead.
local function is_of_replica(err)
  return is_err(err) and (err.code == "unavailable" or err.sqlstate == "40001")
end

local function on_replica(run, ...)
  local ok, result = run(ON_REPLICA, ...)
  if ok then return result end
  check()
  if not is_of_replica(result) then error(result, 0) end
  return settle(run(READ_ON_PRIMARY, ...))
end

--- pg.replica.query, one, value, json, json_one, all and page: as those of pg, for reads.
-- Raise refused for what is no read; else as pg.query. Yield.
local Replica = {}

function Replica.all(...)
  if (...) == Replica then return on_replica(core.all, (select(2, ...))) end
  return on_replica(core.all, (...))
end

local function run_page(_, ...)
  return on_replica(core.page, ...)
end

function Replica.page(...)
  if (...) == Replica then return page(run_page, nil, select(2, ...)) end
  return page(run_page, nil, ...)
end

local function add_shape(name, shape)
  Replica[name] = function(...)
    if (...) == Replica then return on_replica(query, shape, select(2, ...)) end
    return on_replica(query, shape, ...)
  end
end

--- @param shapes table  name → number, as in core/bind/bind_pg.h
return function(shapes)
  for name, shape in pairs(shapes) do
    if name ~= "exec" then add_shape(name, shape) end
  end
  return setmetatable(Replica, { __index = function(_, name)
    misuse("pg.replica.%s: a replica only reads: query, one, value, json, json_one, all and page", tostring(name))
  end })
end
