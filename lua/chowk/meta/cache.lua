---@meta chowk.cache
-- luacheck: ignore 212 (signatures only)

---Cached values: in memory shared by the workers of a machine, then in Redis, then from a loader, of which one runs per
---key and machine. Raw JSON stays raw. Not inside `pg.tx`: there it is `tx:forget`.
---@class chowk.cache
local cache = {}

---@class chowk.cache.options
---@field ttl? string|number how long a value is fresh: "6h", or seconds; default `cache.ttl`
---@field stale? string|number how long after that the old one may be served, while one loads the new one; default 0
---@field neg_ttl? string|number how long "nothing there" is remembered; default 0: it is not
---@field tags? string[] at most 16, without white space; for `purge_tag` and `tx:forget`
---@field jitter? number 0 to 0.9: by up to this share the ttl is shortened at random; default 0.05
---@field refresh? boolean forgets the value and loads it at once

---The value of a key, loaded if it is not there; nil: nothing there. Waits unless it is in memory. Raises what the
---loader raises, `invalid` for a value over `cache.max_value`, `deadline`.
---
---```lua
---return cache.fetch("product:" .. slug, { ttl = "6h", stale = "1h" }, function()
---  return pg.json_one("SELECT … FROM products WHERE slug = $1", slug)
---end) or app.fail(404, "product_not_found")
---```
---@generic T
---@param key string at most 250 bytes
---@param options chowk.cache.options?
---@param loader fun(): T?
---@return T?
function cache.fetch(key, options, loader) end

---Several keys at once; what is not cached is loaded by one call. Waits as `fetch`.
---@param keys string[] at most 1000
---@param options chowk.cache.options? but refresh
---@param loader fun(missing: string[]): table<string, any>
---@return table<string, any>
function cache.fetch_many(keys, options, loader) end

---The value if it is cached, else nil. Waits unless it is in memory.
---@param key string
---@return any
function cache.get(key) end

---Those of the keys that are cached. Waits unless all are in memory.
---@param keys string[]
---@return table<string, any>
function cache.get_many(keys) end

---Forgets keys, on every machine. Waits; raises `deadline`, but is done all the same.
---@param keys string|string[]
function cache.delete(keys) end

---Forgets all values with one of these tags, on every machine. Waits as `delete`.
---@param tags string|string[]
function cache.purge_tag(tags) end

---Forgets everything, on every machine. Waits as `delete`.
function cache.purge_all() end

---The figures of this machine as raw JSON.
---@return chowk.raw?
function cache.stats() end

return cache
