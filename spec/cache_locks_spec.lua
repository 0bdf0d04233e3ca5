-- The cache when a process that has all of its locks is killed, or stands still: nobody is stalled, and nothing torn,
-- wrong or old is served, then or later. (tests/unit/services/cache_l1_kill_test.c kills in the middle of changes.)
local server = require "spec.support.server"
local holder = require "spec.support.holder"

local eventually = server.eventually

local IDS, LARGE, LOCKS = 120, 20000, 64
local WAIT = 30 -- seconds in which all of a batch is answered

local APP = [[
local app, cache, pg = require "chowk.app", require "chowk.cache", require "chowk.pg"
local routes = app.routes()
routes:get("/things/:id", function(req)
  return cache.fetch("thing:" .. req.params.id, { ttl = "6h" }, function()
    return pg.json_one("SELECT n, repeat(n::text, size) AS text FROM things WHERE id = $1", req.params.id)
  end)
end)
routes:put("/things/:id", function(req)
  pg.tx(function(tx)
    tx:exec("UPDATE things SET n = $2 WHERE id = $1", req.params.id, req:json().to)
    tx:forget { keys = { "thing:" .. req.params.id } }
  end)
  return app.empty
end)
routes:get("/stats", function() return cache.stats() end)
return routes
]]

-- Every third is small enough to be copied under a lock. All together are more than L1 holds.
local SCHEMA = [[
  CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL DEFAULT 1, size int NOT NULL);
  INSERT INTO things SELECT i, 1, CASE WHEN i %% 3 = 0 THEN 300 ELSE %d END FROM generate_series(1, %d) i;
]]

local function start()
  local s = server.start { app = APP, start = false,
    config = { workers = 2, log = { level = "warn" }, cache = { size = "1MiB", max_value = "64KiB" } } }
  local f = assert(io.open("migrations/0006_cache_forget.sql"))
  s:exec(SCHEMA:format(LARGE, IDS) .. f:read("*a"))
  f:close()
  s:start_process()
  return s
end

local function stats(s) return s:get("/stats").json end

-- Each thing is asked for twice, all at once, over both workers.
local function assert_all(s, n)
  local calls = {}
  for i = 1, 2 * IDS do calls[i] = { "GET", "/things/" .. (i % IDS + 1) } end
  for i, answer in ipairs(s:parallel(calls, WAIT)) do
    local id = i % IDS + 1
    assert.equal(200, answer.status)
    assert.equal(n, answer.json.n)
    assert.is_true(answer.json.text == tostring(n):rep(id % 3 == 0 and 300 or LARGE), "the text of " .. id)
  end
end

local function change_all(s, n)
  local calls = {}
  for id = 1, IDS do calls[id] = { "PUT", "/things/" .. id, { json = { to = n } } } end
  for _, answer in ipairs(s:parallel(calls, WAIT)) do assert.equal(204, answer.status, answer.body) end
end

-- It keeps values, throws out what is too much, and remembers nobody who loads.
local function assert_works(s)
  local before = stats(s)
  eventually("hits", function()
    s:get("/things/3")
    return stats(s).hits_l1 > before.hits_l1 + 10
  end)
  eventually("nothing in flight", function() return stats(s).in_flight == 0 end)
  local now = stats(s)
  assert.truthy(now.items > 0 and now.bytes_used > 0 and now.bytes_used <= now.bytes)
  assert.truthy(now.bytes_used >= now.items * 512)
end

describe("chowk.cache, when its locks are not given back", function()
  local s

  before_each(function()
    s = start()
    assert_all(s, 1)
  end)
  after_each(function() s:stop() end)

  it("goes on when their holder is killed", function()
    assert.truthy(holder.die(s, "chowk-cache") > LOCKS)
    assert_all(s, 1)
    local before = stats(s)
    assert.truthy(before.orphaned_shards > 0)
    change_all(s, 2)
    assert_all(s, 2)
    assert.truthy(stats(s).evictions > before.evictions)
    assert_works(s)
  end)

  it("does without them while their holder stands still, and serves nothing old when he goes on", function()
    local held = holder.stop(s, "chowk-cache")
    assert.truthy(held.n_locks > LOCKS)
    assert_all(s, 1)
    change_all(s, 2) -- no shard can be told
    assert_all(s, 2)
    local now = stats(s)
    assert.truthy(now.busy_locks > 0)
    assert.truthy(now.items > 0) -- the old ones are still in there
    held:continue()
    assert_all(s, 2)
    assert_works(s)
    assert.equal(0, stats(s).orphaned_shards)
  end)

  it("serves nothing old when he is killed then", function()
    local held = holder.stop(s, "chowk-cache")
    change_all(s, 2)
    held:kill()
    assert_all(s, 2)
    assert.truthy(stats(s).orphaned_shards > 0)
    assert_works(s)
  end)
end)
