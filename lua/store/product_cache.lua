--- Product documents in Redis: raw JSON under product:<slug>, six hours, PostgreSQL when Redis is away.
--
-- A loader that read the old row may finish after a writer has committed and deleted the key; what it stores then
-- would be wrong for six hours. So each slug has an epoch: a miss remembers it before reading the row, a writer
-- raises it, and a document is stored only if its epoch still holds.
local json = require "chowk.json"
local log = require "chowk.log"
local redis = require "chowk.redis"
local task = require "chowk.task"

local M = {}

local TTL = "21600"            -- seconds
local EPOCH_TTL = "86400"      -- longer than any loader runs, and than the document lives

local STORE = [[
  if (redis.call('GET', KEYS[2]) or '0') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
  return 1]]
local FORGET = [[
  redis.call('INCR', KEYS[2])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
  return redis.call('DEL', KEYS[1])]]

local function keys(slug) return "product:" .. slug, "product:epoch:" .. slug end

-- Loads the document and stores it under the epoch that held before the load.
local function load_and_store(slug, load)
  local key, epoch_key = keys(slug)
  local epoch, away = try(redis.get, epoch_key)
  local document = load(slug)
  if document and not away then
    try(redis.eval, STORE, "2", key, epoch_key, epoch or "0", tostring(document), TTL)
  end
  return document
end

--- The cached document, or what `load(slug)` returns, which is then cached. nil (no such product) is not cached.
-- @return raw JSON, or nil. Yields; raises only what `load` raises.
function M.fetch(slug, load)
  local hit = try(redis.get, (keys(slug)))
  if hit then return json.raw(hit) end
  return load_and_store(slug, load)
end

-- Until Redis has heard of it: an old price must not come back with Redis.
local function forget_later(slug)
  local key, epoch_key = keys(slug)
  local wait = 1
  repeat
    task.sleep(wait .. "s")
    wait = math.min(wait * 2, 30)
  until try(redis.eval, FORGET, "2", key, epoch_key, EPOCH_TTL)
  log.info("product cache caught up", { slug = slug })
end

--- Call after a write has committed: drops the document and stores the new one.
-- @return raw JSON of the new document, or nil. Yields; raises only what `load` raises.
function M.refresh(slug, load)
  local key, epoch_key = keys(slug)
  local _, away = try(redis.eval, FORGET, "2", key, epoch_key, EPOCH_TTL)
  if away then
    task.spawn(forget_later, slug)
    return load(slug)
  end
  return load_and_store(slug, load)
end

return M
