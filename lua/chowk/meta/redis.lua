---@meta chowk.redis
-- luacheck: ignore 212 241 (signatures only)

---Redis over one shared, pipelined connection per worker. Every command of Redis is a function, in lower case; the
---common ones are spelled out here. All of them wait, and raise `redis_error`, `unavailable`, `queue_full`, `deadline`,
---`outcome_unknown` (a write was sent, and no answer came) or `refused`. Those that block inside Redis (`blpop` …) have
---connections of their own, and end with the deadline at the latest.
---@class chowk.redis
local redis = {}

---@alias chowk.redis.arg string|number|chowk.raw
---@alias chowk.redis.reply string|number|chowk.redis.reply[]|nil

---Runs any command by its name: `redis.call("GETDEL", key)`.
---@param name string
---@param ... chowk.redis.arg
---@return chowk.redis.reply
function redis.call(name, ...) end

---Is the connection there? Waits for nothing: a Redis that has fallen silent counts as up until that is noticed,
---within a minute.
---@return boolean
function redis.is_up() end

---Sends several commands in one write: `redis.pipeline{ {"GET", "a"}, {"INCR", "b"} }`. A reply is nil for Redis nil,
---and an error table where Redis answered with an error.
---@param commands (chowk.redis.arg|chowk.redis.script|string[])[][] a script is `{ script, { keys }, args… }`
---@return (chowk.redis.reply|chowk.err)[]
function redis.pipeline(commands) end

---@class chowk.redis.recorder every command of Redis as a function that only notes it down
---@field call fun(name: string, ...: chowk.redis.arg)
---@field [string] fun(...: chowk.redis.arg)

---A transaction: all of them run with nobody else's between, or none does. A command that fails when its turn comes
---has its error in its place, and the others have run. To decide on what is read, use redis.script: there is no WATCH.
---@param commands (chowk.redis.arg|chowk.redis.script|string[])[][]|fun(m: chowk.redis.recorder)
---@return (chowk.redis.reply|chowk.err)[]
function redis.multi(commands) end

---@class chowk.redis.script
---@overload fun(keys: string[], ...: chowk.redis.arg): chowk.redis.reply

---A Lua script that runs inside Redis, all or nothing: `local take = redis.script[[…]]`, `take({ key }, 2)`. It is sent
---by its hash, and by its text when Redis does not know that. May be made while loading; does not wait.
---@param source string
---@return chowk.redis.script
function redis.script(source) end

---@class chowk.redis.message
---@field channel? string
---@field payload? string
---@field pattern? string the pattern it matched, after psubscribe
---@field gap? true instead of all others: the connection was lost and is back; messages may have been missed

---@class chowk.redis.subscription
local subscription = {}

---Waits. nil: nothing came within the timeout, or it was closed. Raises `queue_full` when this reader was too slow and
---has been dropped.
---@param timeout? number|string
---@return chowk.redis.message?
function subscription:next(timeout) end

---`for message in sub:messages() do … end`, until it is closed.
---@return fun(): chowk.redis.message?
function subscription:messages() end

function subscription:close() end

---Returns once Redis has confirmed the channels; when Redis is away it returns all the same, goes on trying, and begins
---with `{ gap = true }`. Not while loading. With a function: it is called with each message, in a task of its own.
---@param channels string|string[]
---@param fn? fun(message: chowk.redis.message)
---@param options? { max_messages?: integer } how many may wait for the reader; 1000
---@return chowk.redis.subscription
function redis.subscribe(channels, fn, options) end

---As subscribe, by glob patterns: "orders.*".
---@param patterns string|string[]
---@param fn? fun(message: chowk.redis.message)
---@param options? { max_messages?: integer }
---@return chowk.redis.subscription
function redis.psubscribe(patterns, fn, options) end

---nil: no such key.
---@param key string
---@return string?
function redis.get(key) end

---`redis.set(k, v, "EX", 60)`, `"PX", ms`, `"NX"`, `"XX"`.
---@param key string
---@param value chowk.redis.arg
---@param ... chowk.redis.arg
---@return string? status "OK"; nil when NX or XX did not hold
function redis.set(key, value, ...) end

---Reads and deletes.
---@param key string
---@return string?
function redis.getdel(key) end

---One value per key, nil where there is none.
---@param ... string
---@return (string|nil)[]
function redis.mget(...) end

---How many keys there were.
---@param ... string
---@return integer
function redis.del(...) end

---As del; the memory is given back in the background.
---@param ... string
---@return integer
function redis.unlink(...) end

---How many of them exist.
---@param ... string
---@return integer
function redis.exists(...) end

---1 if the key exists.
---@param key string
---@param seconds integer
---@param ... string
---@return integer
function redis.expire(key, seconds, ...) end

---Seconds left; -1 without expiry, -2 without key.
---@param key string
---@return integer
function redis.ttl(key) end

---The number after it.
---@param key string
---@return integer|string
function redis.incr(key) end

---The number after it.
---@param key string
---@param by integer
---@return integer|string
function redis.incrby(key, by) end

---The number after it.
---@param key string
---@return integer|string
function redis.decr(key) end

---nil: no such field.
---@param key string
---@param field string
---@return string?
function redis.hget(key, field) end

---Field, value, field, value, …; how many fields are new.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.hset(key, ...) end

---How many fields there were.
---@param key string
---@param ... string
---@return integer
function redis.hdel(key, ...) end

---Field, value, field, value, …
---@param key string
---@return string[]
function redis.hgetall(key) end

---The number after it.
---@param key string
---@param field string
---@param by integer
---@return integer|string
function redis.hincrby(key, field, by) end

---Length of the list.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.lpush(key, ...) end

---Length of the list.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.rpush(key, ...) end

---nil: empty.
---@param key string
---@param count? integer
---@return string|string[]|nil
function redis.lpop(key, count) end

---nil: empty.
---@param key string
---@param count? integer
---@return string|string[]|nil
function redis.rpop(key, count) end

---Both ends included, 0-based, -1 is the last.
---@param key string
---@param first integer
---@param last integer
---@return string[]
function redis.lrange(key, first, last) end

---Length of the list.
---@param key string
---@return integer
function redis.llen(key) end

---How many are new.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.sadd(key, ...) end

---How many there were.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.srem(key, ...) end

---Waits until an item comes: `{ key, item }`; nil after `timeout` seconds. 0: until the deadline, in a task for ever.
---@param key string
---@param ... string|number further keys, then the timeout
---@return string[]?
function redis.blpop(key, ...) end

---All of the set.
---@param key string
---@return string[]
function redis.smembers(key) end

---1 or 0.
---@param key string
---@param member chowk.redis.arg
---@return integer
function redis.sismember(key, member) end

---Size of the set.
---@param key string
---@return integer
function redis.scard(key) end

---Score, member, score, member, …; how many are new.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.zadd(key, ...) end

---`"BYSCORE"`, `"REV"`, `"LIMIT", offset, count`, `"WITHSCORES"`.
---@param key string
---@param first chowk.redis.arg
---@param last chowk.redis.arg
---@param ... chowk.redis.arg
---@return string[]
function redis.zrange(key, first, last, ...) end

---How many there were.
---@param key string
---@param ... chowk.redis.arg
---@return integer
function redis.zrem(key, ...) end

---nil: no such member.
---@param key string
---@param member chowk.redis.arg
---@return string?
function redis.zscore(key, member) end

---How many received it.
---@param channel string
---@param message chowk.redis.arg
---@return integer
function redis.publish(channel, message) end

---Runs a script atomically: keys first, then arguments.
---@param script string
---@param n_keys integer
---@param ... chowk.redis.arg
---@return chowk.redis.reply
function redis.eval(script, n_keys, ...) end

---"PONG"
---@return string
function redis.ping() end

return redis
