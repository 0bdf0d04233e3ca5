---@meta chowk.app
-- luacheck: ignore 212 241

---A request. Reading it never yields. After the request has ended every use raises.
---@class chowk.req
---@field method string "GET", "POST" …
---@field path string as sent, still percent-encoded
---@field route string the route's pattern, "/api/products/:slug"
---@field id string X-Request-Id
---@field ip string address of the client
---@field deadline number end of the request, on the clock of time.mono_ms()
---@field params table<string, any> of the pattern, decoded; coerced if the route declares `params`
---@field query table<string, any> a repeated name is a list; only the declared ones, coerced, if `query` is declared
---@field headers table<string, string> by name in any case; repeated ones joined with ", "
---@field cookies table<string, string>
---@field ctx table your own values
---@field user any what the route's `auth` function returned
local req = {}

---The body as JSON; coerced if the route declares `body`. Problems: 400 invalid_json, 415 unsupported_media_type.
---@return any
function req:json() end

---The body as an urlencoded form. Problems: 400 bad_form, 415 unsupported_media_type.
---@return table<string, string|string[]>
function req:form() end

---The body, byte-exact.
---@return string
function req:body() end

---The first header of that name, in any case.
---@param name string
---@return string|nil
function req:header(name) end

---One atomic phase of a route with `idempotent = "steps"`: fn's effects are committed together with its result, which a
---retry of the request gets without running fn again. Yields.
---@param name string
---@param fn fun(tx: chowk.pg.tx): any a value that JSON has
---@return any
function req:step(name, fn) end

---A key for a call out, the same in every retry of the request: 32 characters of 0-9a-f.
---@param name string
---@return string
function req:derived_key(name) end

---@class chowk.response

---@alias chowk.handler fun(req: chowk.req): any, any, table<string, string|number|string[]>|nil

---@class chowk.route_options
---@field params? table<string, chowk.type>|chowk.type
---@field query? table<string, chowk.type>|chowk.type
---@field body? table<string, chowk.type>|chowk.type
---@field auth? fun(req: chowk.req): any the user, or nil: 401
---@field limit? string|string[] classes of limit.classes (chowk.limit): 429 when over one of them
---@field max_body? integer|string bytes, or "10MiB"
---@field idempotent? true|"steps" done once per Idempotency-Key: true calls handler(req, tx) in the transaction that
---also keeps the answer; "steps" gives it req:step and req:derived_key
---@field guest? string whose keys they are when nobody is signed in: "body.email"
---@field deadline? number|string seconds, or "5s"
---@field summary? string
---@field tags? string[]
---@field name? string for app.url_for

---@class chowk.routes
local routes = {}

---@param pattern string "/a/:name/*rest"
---@param options chowk.route_options
---@param handler chowk.handler
---@return chowk.routes
---@overload fun(self: chowk.routes, pattern: string, handler: chowk.handler): chowk.routes
function routes:get(pattern, options, handler) end

---@param pattern string
---@param options chowk.route_options
---@param handler chowk.handler
---@return chowk.routes
---@overload fun(self: chowk.routes, pattern: string, handler: chowk.handler): chowk.routes
function routes:post(pattern, options, handler) end

---@param pattern string
---@param options chowk.route_options
---@param handler chowk.handler
---@return chowk.routes
---@overload fun(self: chowk.routes, pattern: string, handler: chowk.handler): chowk.routes
function routes:put(pattern, options, handler) end

---@param pattern string
---@param options chowk.route_options
---@param handler chowk.handler
---@return chowk.routes
---@overload fun(self: chowk.routes, pattern: string, handler: chowk.handler): chowk.routes
function routes:patch(pattern, options, handler) end

---@param pattern string
---@param options chowk.route_options
---@param handler chowk.handler
---@return chowk.routes
---@overload fun(self: chowk.routes, pattern: string, handler: chowk.handler): chowk.routes
function routes:delete(pattern, options, handler) end

---Runs before every handler of these routes and of those mounted below; what it returns, if anything, is the answer.
---@param fn chowk.handler
---@return chowk.routes
function routes:use(fn) end

---@param prefix string "/api"
---@param other chowk.routes
---@return chowk.routes
function routes:mount(prefix, other) end

---@class chowk.writer
local writer = {}

---Yields while the client reads slower than this writes. Raises cancelled when it is gone.
---@param bytes string|chowk.raw
function writer:write(bytes) end

---@class chowk.app
---@field empty chowk.response the 204
local app = {}

---A new set of routes. While loading only.
---@return chowk.routes
function app.routes() end

---Ends the request with an RFC 9457 problem; rolls back an open transaction. Does not return.
---@param status integer 400 to 599
---@param code string for programs
---@param detail? string for people
---@param extra? table further members; retry_after sets the header of a 429 or 503
function app.fail(status, code, detail, extra) end

---@param url string
---@param status? 301|302|303|307|308
---@return chowk.response
function app.redirect(url, status) end

---@param fn fun(w: chowk.writer) runs after the handler has returned, without a deadline
---@param options? {content_type?: string, status?: integer, headers?: table<string, string>}
---@return chowk.response
function app.stream(fn, options) end

---@param name string
---@param params? table<string, string|number>
---@param query? table<string, string|number|string[]>
---@return string path
function app.url_for(name, params, query) end

---Runs when this generation starts, on every worker; may yield. While loading only.
---@param fn fun()
function app.on_start(fn) end

---Runs when it stops; has five seconds. While loading only.
---@param fn fun()
function app.on_stop(fn) end

---Runs once before a reload, in a process that serves nobody, with PostgreSQL and Redis at hand; may yield. Raising,
---returning false or not ending within reload.timeout refuses the reload. While loading only.
---@param fn fun(): boolean?
function app.self_test(fn) end

---True once a stop has begun: requests are still served, but a readiness check should say no. Does not yield.
---@return boolean
function app.is_stopping() end

---True while some worker of this machine is in a crash loop: the others serve for it, but a readiness check should say
---no. Does not yield.
---@return boolean
function app.is_degraded() end

---A run-time failure, as raised by pg, redis and the like.
---@class chowk.error
---@field code string "unavailable", "deadline", "pg_error" …
---@field message string
---@field retryable boolean
---@field sqlstate? string

---fn's results, or nil and the run-time failure it raised. Bugs, app.fail, cancel and deadline pass through.
---@param fn function
---@return any, chowk.error|nil
function try(fn, ...) end -- luacheck: ignore

return app
