---@meta chowk.http
-- luacheck: ignore 212 241 (signatures only)

---Calls to other services. All but `escape` and `stats` wait, and raise `unavailable`, `timeout`, `queue_full`,
---`too_large`, `bad_response`, `forbidden_address` or `invalid`, with `sent`: whether the other side may have seen the
---call; at the request's deadline `deadline` or `outcome_unknown`. Not inside pg.tx. Any status is an answer.
---@class chowk.http
local http = {}

---@class chowk.http.options
---@field query? table<string, string|number|boolean|(string|number|boolean)[]> appended to the URL, escaped
---@field headers? table<string, string|number|string[]>
---@field basic? string[] { user, password }
---@field bearer? string
---@field json? any what is sent: one of json, form, multipart, body
---@field form? table<string, string|number|boolean|(string|number|boolean)[]>
---@field multipart? { name: string, data: string, filename?: string, type?: string }[]
---@field body? string
---@field timeout? number|string of the whole call; "5s"
---@field max_body? integer|string of the answer, after decompression; "8MiB"
---@field redirects? integer followed at most, 0 to 5; 0
---@field retries? integer on unavailable, timeout, 429, 502, 503, 504; only where a call may be repeated; 0
---@field idempotent? boolean a POST or PATCH that the other side knows when it comes again

---@class chowk.http.request: chowk.http.options
---@field url string
---@field method? string "GET"

---@class chowk.http.response
---@field status integer
---@field headers table<string, string|string[]> by name in any case; Set-Cookie is a list
---@field body string
---@field url string that answered
local response = {}

---The body, decoded. Raises `bad_response` if it is not JSON.
---@return any
function response:json() end

---@param options chowk.http.request
---@return chowk.http.response
function http.request(options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.get(url, options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.head(url, options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.options(url, options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.post(url, options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.put(url, options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.patch(url, options) end

---@param url string
---@param options? chowk.http.options
---@return chowk.http.response
function http.delete(url, options) end

---@class chowk.http.stream
---@field status integer
---@field headers table<string, string|string[]>
---@field url string
local stream = {}

---The next bytes; nil at the end. Waits.
---@return string?
function stream:read() end

---`for bytes in res:chunks() do … end`
---@return fun(): string?
function stream:chunks() end

---Gives the rest up.
function stream:close() end

---A call whose body is read bit by bit, and comes as it was sent. Ends by itself when nobody reads for `timeout`.
---@param url string
---@param options? chowk.http.request
---@return chowk.http.stream
function http.stream(url, options) end

---Escapes one segment of a path, or one value of a query.
---@param text string
---@return string
function http.escape(text) end

---@class chowk.http.stats
---@field active integer
---@field waiting integer
---@field hosts integer
---@field open_breakers integer
---@field calls integer
---@field failures integer
---@field timeouts integer
---@field refused integer by a breaker or a full queue

---Of this worker; nil where no calls are made.
---@return chowk.http.stats?
function http.stats() end

return http
