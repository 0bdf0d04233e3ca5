-- tx:forget: what a transaction changes of the cache. The names are a row of the table cache_forget, so they exist if
-- and only if the transaction has committed; afterwards, before pg.tx returns, the cache forgets them and the row goes.
-- If this process dies between the two, any worker finds the row (core/services/cache_sweep.c). Private to chowk.pg.
local cache = require "chowk.core.cache"
local crypto = require "chowk.crypto"
local pg = require "chowk.core.pg"
local raise = require "chowk.raise"

local settle, misuse = raise.settle, raise.misuse

local M = {}

local INSERT = "INSERT INTO cache_forget (id, keys, tags) VALUES ($1, $2, $3)"

local function list(name, value)
  if value == nil then return {} end
  if type(value) == "string" then return { value } end
  if type(value) ~= "table" then misuse("tx:forget: %s is a string or a list, got %s", name, type(value)) end
  return value
end

--- Records keys and tags; the row goes with the commit. In tx.forgets is one entry per call, for savepoints to cut.
function M.forget(tx, what)
  if type(what) ~= "table" then misuse("tx:forget: expected { keys = …, tags = … }, got %s", type(what)) end
  for name in pairs(what) do
    if name ~= "keys" and name ~= "tags" then misuse('tx:forget: unknown member "%s"', tostring(name)) end
  end
  local keys, tags = list("keys", what.keys), list("tags", what.tags)
  if #keys + #tags == 0 then return end
  cache.check(keys, tags)
  local id = crypto.uuid()
  tx:defer{ { INSERT, id, pg.array(keys, "text"), pg.array(tags, "text") } }
  tx.forgets = tx.forgets or {}
  table.insert(tx.forgets, { id = id, keys = keys, tags = tags })
end

--- The calls since there were n of them are undone.
function M.undo(tx, n)
  for i = #(tx.forgets or {}), n + 1, -1 do tx.forgets[i] = nil end
end

local function unite(lists, name)
  local all, seen = {}, {}
  for _, entry in ipairs(lists) do
    for _, value in ipairs(entry[name]) do
      if not seen[value] then all[#all + 1], seen[value] = value, true end
    end
  end
  return all
end

local MOST = 1000 -- names in one call, as in core/bind/bind_cache.c

--- After the commit, or when it is not known: forgets what was recorded. Yields. Raises deadline; it is done all the
-- same.
function M.apply(tx)
  local forgets = tx.forgets
  if not forgets or #forgets == 0 then return end
  tx.forgets = nil
  local keys, tags, ids = unite(forgets, "keys"), unite(forgets, "tags"), {}
  for i, entry in ipairs(forgets) do ids[i] = entry.id end
  if #keys > MOST or #tags > MOST then keys, tags = nil, "" end
  settle(cache.forget(keys, tags, table.concat(ids, ",")))
end

return M
