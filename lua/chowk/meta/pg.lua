---@meta chowk.pg
-- luacheck: ignore 212 241 (signatures only)

---PostgreSQL over a few shared, pipelined connections per worker; a transaction has one of its own. Everything but
---`array`, `jsonb` and `bytea` waits without blocking, and raises `pg_error` (with `sqlstate`), `unavailable`,
---`queue_full`, `deadline`, `outcome_unknown`, `commit_unknown` or `refused`.
---@class chowk.pg
---@field null lightuserdata SQL NULL where a nil cannot stand
local pg = {}

---@class chowk.pg.param
---@alias chowk.pg.value nil|boolean|number|string|lightuserdata|chowk.raw|chowk.pg.param
---@alias chowk.pg.row table<string, any> NULL columns read as nil, and are written to JSON as null
---@alias chowk.pg.statement any[] `{sql, value…}`, with pg.null instead of nil

---All rows; none is written as `[]`.
---@param sql string
---@param ... chowk.pg.value
---@return chowk.pg.row[]
function pg.query(sql, ...) end

---The first row, or nil.
---@param sql string
---@param ... chowk.pg.value
---@return chowk.pg.row?
function pg.one(sql, ...) end

---The first column of the first row, or nil.
---@param sql string
---@param ... chowk.pg.value
---@return any
function pg.value(sql, ...) end

---How many rows were affected.
---@param sql string
---@param ... chowk.pg.value
---@return integer
function pg.exec(sql, ...) end

---All rows as raw JSON, made without Lua tables.
---@param sql string
---@param ... chowk.pg.value
---@return chowk.raw
function pg.json(sql, ...) end

---The first row as raw JSON, or nil.
---@param sql string
---@param ... chowk.pg.value
---@return chowk.raw?
function pg.json_one(sql, ...) end

---Independent statements in flight together; each commits alone.
---@param list chowk.pg.statement[]
---@return chowk.pg.row[][]
function pg.all(list) end

---A list as an array parameter: `WHERE id = ANY($1)`. Lists in it are dimensions, pg.null is NULL.
---Items are JSON if `item_type` is "json" or "jsonb".
---@param list any[]
---@param item_type? string
---@return chowk.pg.param
function pg.array(list, item_type) end

---A value as a json or jsonb parameter.
---@param value any
---@return chowk.pg.param
function pg.jsonb(value) end

---@class chowk.pg.page_options
---@field by string[] columns that order the rows; together unique, never NULL
---@field desc? boolean all of them descending
---@field limit? integer 1 to 1000; 20
---@field cursor? string the next_cursor of the page before
---@field hide? string[] columns of the statement that are not shown

---One page of rows by keyset, as raw `{"items": […], "next_cursor": "…"|null}`. The statement has no ORDER BY and no
---LIMIT. A cursor that is not of this list answers the request with 422 `invalid_cursor`.
---@param sql string
---@param options chowk.pg.page_options
---@param ... chowk.pg.value
---@return chowk.raw
function pg.page(sql, options, ...) end

---@class chowk.pg.stats
---@field open integer connections
---@field idle integer of them
---@field in_flight integer calls
---@field waiting integer calls without a connection
---@field queries integer
---@field errors integer
---@field reconnects integer
---@field waits integer[] waits[i]: calls that waited for a connection less than 2^(i-1) ms, and at least half of that

---What the connections of this worker do; nil: no PostgreSQL is configured. Does not yield.
---@return chowk.pg.stats?
function pg.stats() end

---@class chowk.pg.listen_options
---@field queue? integer notifications kept while nobody takes them, 1000; more drop all of them, and are a gap
---@field gap? fun() called when notifications may have been missed: look at the tables again

---@class chowk.pg.subscription
local subscription = {}

---The next notification. Raises `deadline` and `cancelled` with its activity.
---@param timeout? string|number duration; nil waits for ever
---@return string? payload nil: none came in time, or the subscription was closed
---@return boolean is_gap true: notifications before this one may be missing (never with the `gap` option)
function subscription:next(timeout) end

---Ends it; whoever waits in next gets nil. Does not yield.
function subscription:close() end

---Subscribes to a channel, on a connection that all subscriptions of the worker share. With a function, that runs for
---each payload in an activity of its own; without one, take them with `sub:next(timeout)`. Outlives lost connections:
---then there was a gap. Raises `refused` when pg.pool_mode is "transaction".
---@param channel string 1 to 63 bytes
---@param fn? fun(payload: string)
---@param options? chowk.pg.listen_options
---@return chowk.pg.subscription
---@overload fun(channel: string, options?: chowk.pg.listen_options): chowk.pg.subscription
function pg.listen(channel, fn, options) end

---Notifies whoever listens, in every worker and process. Autocommit; a payload has less than 8000 bytes.
---@param channel string
---@param payload? string
function pg.notify(channel, payload) end

---@class chowk.pg.copy_writer
local writer = {}

---One row: a list of values in the order of the columns; nil and pg.null are NULL.
---@param values chowk.pg.value[]
function writer:row(values) end

---Bytes in the format that the statement names.
---@param text string
function writer:write(text) end

---Copies rows into a table: all of it or nothing. What the function raises ends it.
---@param sql string `COPY items (id, name) FROM STDIN`
---@param source chowk.pg.value[][]|fun(w: chowk.pg.copy_writer)
---@return integer n_rows
function pg.copy_in(sql, source) end

---Copies rows out: fn gets pieces of whole rows, and the next one is read when it returns.
---@param sql string `COPY (SELECT …) TO STDOUT WITH (FORMAT csv)`
---@param fn fun(text: string)
---@return integer n_rows
function pg.copy_out(sql, fn) end

---@class chowk.pg.replica
pg.replica = {}

---@param sql string
---@param ... chowk.pg.value
---@return chowk.pg.row[]
function pg.replica.query(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return chowk.pg.row?
function pg.replica.one(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return any
function pg.replica.value(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return chowk.raw
function pg.replica.json(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return chowk.raw?
function pg.replica.json_one(sql, ...) end

---@param list chowk.pg.statement[]
---@return chowk.pg.row[][]
function pg.replica.all(list) end

---@param sql string
---@param options chowk.pg.page_options
---@param ... chowk.pg.value
---@return chowk.raw
function pg.replica.page(sql, options, ...) end

---Bytes as a bytea parameter. Read, a bytea is base64: `crypto.unbase64(row.picture)` are the bytes.
---@param bytes string
---@return chowk.pg.param
function pg.bytea(bytes) end

---@class chowk.pg.tx_options
---@field isolation? "read committed"|"repeatable read"|"serializable"
---@field read_only? boolean
---@field retries? integer runs after a conflict (40001, 40P01); 3
---@field lock_timeout? string|number duration

---Runs fn(tx) in a transaction: returning commits, raising rolls back, a conflict runs it again.
---@param fn fun(tx: chowk.pg.tx): ...
---@param options? chowk.pg.tx_options
---@return ... # fn's results
function pg.tx(fn, options) end

---@class chowk.pg.tx
local tx = {}

---@param sql string
---@param ... chowk.pg.value
---@return chowk.pg.row[]
function tx:query(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return chowk.pg.row?
function tx:one(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return any
function tx:value(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return integer
function tx:exec(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return chowk.raw
function tx:json(sql, ...) end

---@param sql string
---@param ... chowk.pg.value
---@return chowk.raw?
function tx:json_one(sql, ...) end

---@param sql string
---@param options chowk.pg.page_options
---@param ... chowk.pg.value
---@return chowk.raw
function tx:page(sql, options, ...) end

---Statements in one round trip.
---@param list chowk.pg.statement[]
---@return chowk.pg.row[][]
function tx:all(list) end

---The next number of a series without gaps (seq.gapless), in its format. Others wait for this commit, so it comes last:
---afterwards there are `tx:defer`, `tx:commit` and further numbers only.
---@param series string "invoice", or "invoice/2025-26" for a period that has ended
---@return string
function tx:gapless(series) end

---Enqueues a job that is there once the transaction has committed, and never otherwise. As `jobs.enqueue`.
---@param name string
---@param args? table
---@param options? chowk.jobs.enqueue_options
---@return integer? id
function tx:enqueue(name, args, options) end

---Statements sent together with COMMIT once the function has returned, in their order; nobody sees their results.
---@param list chowk.pg.statement[]
function tx:defer(list) end

---When that unique constraint refuses the transaction: it is undone, fn runs outside of it, and it runs again.
---@param constraint string
---@param fn fun(err: table)
function tx:on_duplicate(constraint, fn) end

---The last statements together with COMMIT, in one round trip: `return tx:commit{ … }`. Ends the transaction.
---@param list chowk.pg.statement[]
---@return chowk.pg.row[][]
function tx:commit(list) end

---@class chowk.pg.lock_options
---@field mode? "update"|"no key update"|"share"|"key share"
---@field wait? string|number "nowait", "skip", or a duration
---@field key? string the column; "id"

---Locks rows in key order and returns them: one key gives the row or nil, a list gives a table from key to row.
---@param name string table
---@param ids any
---@param options? chowk.pg.lock_options
---@return chowk.pg.row|table<any, chowk.pg.row>|nil
function tx:lock(name, ids, options) end

---An advisory lock until the transaction ends. False only with `wait = "nowait"`, when another holds it.
---@param key string|integer
---@param options? { wait: "nowait" }
---@return boolean
function tx:advisory(key, options) end

---Names what this transaction changes of the cache. After the commit, and before `pg.tx` returns, `cache.fetch` returns
---nothing that was loaded before, on any machine; a crash in between is caught up with. Needs the table `cache_forget`.
---@param what { keys?: string|string[], tags?: string|string[] }
function tx:forget(what) end

---`try` inside a transaction: what fails in fn(tx) is undone, and the transaction goes on.
---@param fn fun(tx: chowk.pg.tx): ...
---@return ... # fn's results, or nil, err
function tx:savepoint(fn) end

return pg
