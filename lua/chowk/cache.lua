-- Cached values: in memory that all workers of the machine share (L1), then in Redis (L2), then from a loader, of which
-- one runs per key and machine, however many ask.
--
--   local cache = require "chowk.cache"
--   return cache.fetch("product:" .. slug, { ttl = "6h", stale = "1h", tags = { "catalogue" } }, function()
--     return pg.json_one("SELECT … FROM products WHERE slug = $1", slug)
--   end) or app.fail(404, "product_not_found")
--
-- Raw JSON (pg.json, pg.json_one) is stored and sent as it is, a string as a string, anything else as JSON: what you
-- get is then read back from JSON, on a miss as on a hit, and yours to change. nil means nothing is there.
--
-- There is no put: a value that somebody stores may be older than what was written meanwhile, and would stay. A writer
-- says what he changed, tx:forget{ keys = …, tags = … } in his transaction (or cache.delete after an autocommit write),
-- and the next reader loads it. A load that began before that is never stored after it, here, in Redis, on any machine.
-- So a loader reads the primary (pg, not pg.replica), and nothing here works inside pg.tx, where a read could see what
-- is then rolled back.
--
-- While Redis is away L1 and loaders go on; what was to be forgotten is caught up with.
local core = require "chowk.core.cache"
local vm = require "chowk.core.vm"
local config = require "chowk.config"
local log = require "chowk.log"
local raise = require "chowk.raise"
local task = require "chowk.task"
local time = require "chowk.time"

local settle, misuse = raise.settle, raise.misuse
local peek, wait = core.peek, core.wait
local raw_pcall, select, type = pcall, select, type

-- As `enum outcome` in core/bind/bind_cache.c and `enum cache_mode` in core/services/cache.h.
local ABSENT, FRESH, STALE, LOAD = 0, 1, 2, 3
local FETCH, TRY, GET = 0, 1, 2
local MAX_LIFE = 30 * 86400

local M = {}

-- ---- options -------------------------------------------------------------------------------------------------

local OPTIONS = { ttl = true, stale = true, neg_ttl = true, tags = true, jitter = true, refresh = true }

local function duration(name, value, default)
  if value == nil then return default end
  local seconds = time.seconds(value)
  if seconds > MAX_LIFE then misuse("cache.fetch: %s is at most 30 days", name) end
  return seconds
end

local function decode(options)
  if type(options) ~= "table" then misuse("cache.fetch: expected options, a table, got %s", type(options)) end
  for name in pairs(options) do
    if not OPTIONS[name] then raise.unknown("cache.fetch", name, OPTIONS) end
  end
  local ttl, stale = duration("ttl", options.ttl, config.get("cache.ttl") / 1000), duration("stale", options.stale, 0)
  if ttl <= 0 then misuse("cache.fetch: ttl must be more than 0") end
  if ttl + stale > MAX_LIFE then misuse("cache.fetch: ttl and stale together are at most 30 days") end
  local jitter = options.jitter or 0.05
  if type(jitter) ~= "number" or not (jitter >= 0 and jitter <= 0.9) then
    misuse("cache.fetch: jitter is the share of the ttl by which it may be shortened, 0 to 0.9")
  end
  if options.tags ~= nil and type(options.tags) ~= "table" then
    misuse("cache.fetch: tags is a list of strings, got %s", type(options.tags))
  end
  return { ttl = ttl, stale = stale, neg_ttl = duration("neg_ttl", options.neg_ttl, 0), tags = options.tags,
    jitter = jitter }
end

local NO_OPTIONS = {}

-- ---- loading -------------------------------------------------------------------------------------------------

local function store(ticket, policy, value)
  return core.store(ticket, value, policy.ttl, policy.stale, policy.neg_ttl, policy.jitter)
end

local function after_load(ticket, policy, ok, value)
  if ok then return store(ticket, policy, value) end
  core.fail(ticket, value)
  vm.check()
  error(value, 0)
end

local function load_value(ticket, policy, loader)
  return after_load(ticket, policy, raw_pcall(loader))
end

-- In the background, while the old value is served. Somebody else may have been faster.
local function refresh(ticket, key, policy, loader)
  local outcome, value = settle(wait(key, policy.tags, FETCH, ticket))
  if outcome == LOAD then load_value(value, policy, loader) end
end

local function refresh_and_log(ticket, key, policy, loader)
  local ok, err = raw_pcall(refresh, ticket, key, policy, loader)
  vm.check()
  if not ok then
    log.warn("cache: a refresh failed; the old value is served on", { key = key, error = tostring(err) })
  end
end

local function refresh_later(key, policy, loader)
  local ticket = core.refresh(key, policy.tags)
  if ticket then task.spawn(refresh_and_log, ticket, key, policy, loader) end
end

-- Not in L1.
local function obtain(key, policy, loader)
  local outcome, value = settle(wait(key, policy.tags, FETCH))
  if outcome == LOAD then return load_value(value, policy, loader) end
  if outcome == STALE then refresh_later(key, policy, loader) end
  return value
end

--- The value of a key, loaded if it is not there. While it is stale (older than ttl, not than ttl + stale) the old
-- value is returned at once and one caller loads the new one in the background; if that fails, the old one stays.
-- @param key string  at most 250 bytes
-- @param options table|nil  ttl = "6h" (default: cache.ttl); stale = how long after it the old value may be served (0);
--   neg_ttl = how long "nothing there" is remembered (0: it is not); tags = list of at most 16 strings, for purge_tag
--   and tx:forget; jitter = share of the ttl by which it is shortened at random (0.05); refresh = true forgets and
--   loads at once
-- @param loader function()  → the value, or nil: nothing there. In the background `req` knows only what was read before
-- @return the value, or nil
-- Raises what the loader raises, which is never cached; invalid (the value is over cache.max_value); deadline. A
-- misuse in a transaction, hit or miss, and for a loader that fetches its own key. Yields, but not on a hit in L1.
function M.fetch(key, options, loader)
  if type(loader) ~= "function" then
    misuse("cache.fetch: expected cache.fetch(key, options, function() … end), got %s for the loader", type(loader))
  end
  local outcome, value = peek(key)
  local is_forced = options ~= nil and options.refresh
  if outcome == FRESH and not is_forced then return value end
  local policy = decode(options or NO_OPTIONS)
  if is_forced then
    settle(core.forget({ key }, nil, ""))
  elseif outcome == STALE then
    refresh_later(key, policy, loader)
    return value
  end
  return obtain(key, policy, loader)
end

--- The value if it is cached, also a stale one; nil if it is not. @param key string  Yields unless it is in L1.
function M.get(key)
  local outcome, value = peek(key)
  if outcome ~= ABSENT then return value end
  return (select(2, settle(wait(key, nil, GET))))
end

-- ---- several at once -----------------------------------------------------------------------------------------

-- What L1 has of keys → map key → value, list of the other keys, list of the stale ones.
local function peek_all(what, keys)
  if type(keys) ~= "table" then misuse("cache.%s: expected a list of keys, got %s", what, type(keys)) end
  local found, missing, stale, seen = {}, {}, {}, {}
  for _, key in ipairs(keys) do
    local outcome, value = peek(key)
    if seen[key] then outcome = nil
    elseif outcome == ABSENT then missing[#missing + 1] = key
    else found[key] = value end
    if outcome == STALE then stale[#stale + 1] = key end
    seen[key] = true
  end
  return found, missing, stale
end

--- Those of the keys that are cached. @param keys table  list  @return table  key → value
-- Yields unless all are in L1.
function M.get_many(keys)
  local found, missing = peek_all("get_many", keys)
  if #missing == 0 then return found end
  local results = settle(core.wait_many(missing, nil, GET))
  for i, key in ipairs(missing) do found[key] = results[2 * i] end
  return found
end

local function store_all(tickets, policy, values, found)
  if type(values) ~= "table" then
    misuse("cache.fetch_many: the loader returns a table key → value, got %s", type(values))
  end
  for key, ticket in pairs(tickets) do
    tickets[key] = nil
    found[key] = store(ticket, policy, values[key])
  end
end

local function load_all(tickets, wanted, policy, loader, found)
  local ok, err = raw_pcall(function() store_all(tickets, policy, loader(wanted), found) end)
  if ok then return end
  for _, ticket in pairs(tickets) do core.fail(ticket, err) end
  vm.check()
  error(err, 0)
end

--- Several keys at once: what is not cached is loaded by one call of the loader.
-- @param keys table  list of at most 1000  @param options table|nil  as cache.fetch, but refresh
-- @param loader function(missing)  gets the list of keys to load → table key → value; a key it leaves out is nothing
-- @return table  key → value  Raises as cache.fetch. Yields unless all are in L1.
function M.fetch_many(keys, options, loader)
  if type(loader) ~= "function" then misuse("cache.fetch_many: expected a loader(missing), got %s", type(loader)) end
  local policy = decode(options or NO_OPTIONS)
  local function load_one(key)
    return function() return loader({ key })[key] end
  end
  local found, missing, stale = peek_all("fetch_many", keys)
  for _, key in ipairs(stale) do refresh_later(key, policy, load_one(key)) end
  if #missing == 0 then return found end
  local results = settle(core.wait_many(missing, policy.tags, TRY))
  local tickets, wanted, others = {}, {}, {}
  for i, key in ipairs(missing) do
    local outcome, value = results[2 * i - 1], results[2 * i]
    if outcome == LOAD then
      tickets[key], wanted[#wanted + 1] = value, key
    elseif outcome == FRESH or outcome == STALE then
      found[key] = value
    else
      others[#others + 1] = key
    end
    if outcome == STALE then refresh_later(key, policy, load_one(key)) end
  end
  if #wanted > 0 then load_all(tickets, wanted, policy, loader, found) end
  for _, key in ipairs(others) do found[key] = obtain(key, policy, load_one(key)) end -- others are at it
  return found
end

-- ---- forgetting ----------------------------------------------------------------------------------------------

local function list(what, names)
  if type(names) == "string" then return { names } end
  if type(names) ~= "table" then misuse("cache.%s: expected a string or a list, got %s", what, type(names)) end
  return names
end

--- Forgets keys, on every machine. After a write outside of a transaction; in one it is tx:forget, which a crash
-- cannot lose. @param keys string|table  Yields. Raises deadline; it is done all the same.
function M.delete(keys)
  settle(core.forget(list("delete", keys), nil, ""))
end

--- Forgets every value that was stored with one of these tags, on every machine. @param tags string|table
-- Costs the same however many there are. Yields. Raises as cache.delete.
function M.purge_tag(tags)
  settle(core.forget(nil, list("purge_tag", tags), ""))
end

--- Forgets everything, on every machine. Yields. Raises as cache.delete.
function M.purge_all()
  settle(core.forget(nil, "", ""))
end

--- There is none; it says what to write instead.
function M.put()
  misuse("cache.put does not exist: what is put may be older than what was written meanwhile. Write "
    .. "tx:forget{ keys = … } with the change, or cache.fetch(key, { refresh = true }, loader)")
end
M.set = M.put

--- The figures of this machine as raw JSON: hits_l1, hits_stale, misses_l1, hits_l2, loads, load_errors, waits, refused
-- (loads not stored, because a write came between), forgets, l2_errors, evictions, busy_locks, orphaned_shards,
-- l1_drops, items, bytes_used, bytes, in_flight, l2, l2_behind. nil without a server. Does not yield.
function M.stats()
  return core.stats()
end

return M
