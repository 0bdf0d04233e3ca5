-- Calls to other services over HTTP. Connections are kept and shared (HTTP/2 where the other side speaks it), TLS is
-- verified, and every wait has a bound: each call its own `timeout` (http_client.timeout, 5 s), the request's deadline
-- above it. An answer is an answer, whatever its status; what is raised is that there was none.
--
--   local http = require "chowk.http"
--   local res = http.get("https://api.example.com/rates", { query = { base = "INR" }, timeout = "2s" })
--   res.status, res.headers["Content-Type"], res.body, res:json()
--   http.post(url, { json = { … }, basic = { key_id, key_secret }, headers = { ["Idempotency-Key"] = key } })
--
-- Raises error{code, message, retryable, sent}: unavailable (no connection; or the breaker of that host is open after
-- many failures in a row), timeout, queue_full, too_large, bad_response, forbidden_address (a private address: see
-- http_client.allow_private), invalid (the URL). `sent` says whether the other side may have seen the call: false
-- means that nothing has happened there. At the request's deadline it is deadline, or outcome_unknown for a call that
-- was sent and may have changed something. Not inside pg.tx: its locks would be held while somebody else thinks.
local config = require "chowk.config"
local core = require "chowk.core.http"
local crypto = require "chowk.crypto"
local json = require "chowk.json"
local body_of = require("chowk.http_body")
local raise = require "chowk.raise"
local task = require "chowk.task"
local time = require "chowk.time"
local vm = require "chowk.core.vm"

local M = {}

local settle, misuse = raise.settle, raise.misuse

-- ---- answers --------------------------------------------------------------------------------------------------

local Response = {}
Response.__index = Response
Response.__metatable = "http response"

--- The body, decoded. @return any  Raises bad_response if it is not JSON. Does not yield.
function Response:json()
  local value, err = raise.try(json.decode, self.body)
  if err then raise.failure("bad_response", self.url .. ": not JSON: " .. err.message) end
  return value
end

local any_case = { __index = function(t, name)
  return type(name) == "string" and rawget(t, name:lower()) or nil
end }

-- By lower-case name, readable in any case; repeated ones joined as RFC 9110 5.3 says, Set-Cookie as a list.
local function headers_of(flat)
  local headers = {}
  for i = 1, #flat, 2 do
    local name, value = flat[i]:lower(), flat[i + 1]
    local old = rawget(headers, name)
    if name == "set-cookie" then
      headers[name] = old or {}
      headers[name][#headers[name] + 1] = value
    else
      headers[name] = old and old .. ", " .. value or value
    end
  end
  return setmetatable(headers, any_case)
end

-- ---- calls ----------------------------------------------------------------------------------------------------

local METHODS = { GET = true, HEAD = true, OPTIONS = true, POST = true, PUT = true, PATCH = true, DELETE = true }
local IDEMPOTENT = { GET = true, HEAD = true, OPTIONS = true, PUT = true, DELETE = true }
local OPTIONS = { method = true, url = true, query = true, headers = true, basic = true, bearer = true, json = true,
  form = true, multipart = true, body = true, timeout = true, max_body = true, redirects = true, retries = true,
  idempotent = true }

local function check_options(what, o)
  for name in pairs(o) do
    if not OPTIONS[name] then raise.unknown(what, name, OPTIONS) end
  end
  if type(o.url) ~= "string" then misuse("%s: expected a URL, got %s", what, type(o.url)) end
  if not METHODS[o.method] then misuse("%s: unknown method %s", what, tostring(o.method)) end
end

local function whole(what, name, value, max)
  if type(value) ~= "number" or value % 1 ~= 0 or value < 0 or value > max then
    misuse("%s: %s: expected a whole number up to %d, got %s", what, name, max, tostring(value))
  end
  return value
end

local function add_header(flat, what, name, value)
  if type(value) == "number" then value = json.encode(value) end
  if type(name) ~= "string" or type(value) ~= "string" then
    misuse('%s: headers = { ["Name"] = "value" }, got %s = %s', what, tostring(name), type(value))
  end
  flat[#flat + 1], flat[#flat + 2] = name, value
end

local function headers_list(what, o, content_type)
  local flat, has_type = {}, false
  for name, value in pairs(o.headers or {}) do
    has_type = has_type or tostring(name):lower() == "content-type"
    if type(value) == "table" then
      for _, one in ipairs(value) do add_header(flat, what, name, one) end
    else
      add_header(flat, what, name, value)
    end
  end
  if content_type and not has_type then add_header(flat, what, "Content-Type", content_type) end
  if o.basic then
    add_header(flat, what, "Authorization", "Basic " .. crypto.base64(o.basic[1] .. ":" .. (o.basic[2] or "")))
  elseif o.bearer then
    add_header(flat, what, "Authorization", "Bearer " .. o.bearer)
  end
  return flat
end

local MAX_TIMEOUT_MS = 3600000

local function timeout_ms(o)
  if o.timeout == nil then return config.get("http_client.timeout") end
  return math.min(MAX_TIMEOUT_MS, math.max(1, math.ceil(time.seconds(o.timeout) * 1000)))
end

local function retries_of(what, o)
  local retries = whole(what, "retries", o.retries or 0, 10)
  if retries > 0 and not IDEMPOTENT[o.method] and not o.idempotent then
    misuse("%s: retries: %s may not be repeated. If the other side knows a repeated call when it sees one (an "
      .. "idempotency key), say idempotent = true", what, o.method)
  end
  return retries
end

local function prepare(what, o, default_max)
  check_options(what, o)
  local body, content_type = body_of.encode(what, o)
  if body and (o.method == "GET" or o.method == "HEAD" or o.method == "OPTIONS") then
    misuse("%s: a %s has no body: use query = { … }", what, o.method)
  end
  return {
    method = o.method,
    url = body_of.with_query(what, o.url, o.query),
    headers = headers_list(what, o, content_type),
    body = body,
    timeout_ms = timeout_ms(o),
    max_body = o.max_body and body_of.size(what, o.max_body) or default_max,
    redirects = whole(what, "redirects", o.redirects or 0, 5),
    retries = retries_of(what, o),
    is_repeatable = IDEMPOTENT[o.method] or o.idempotent,
  }
end

local TRY_AGAIN = { unavailable = true, timeout = true }
local BUSY = { [429] = true, [502] = true, [503] = true, [504] = true }
local MAX_PAUSE = 10 -- seconds

-- Full jitter over 100 ms · 2^n, or what the other side asks for.
local function pause(attempt, retry_after)
  local limit = math.min(0.1 * 2 ^ attempt, MAX_PAUSE)
  task.sleep(retry_after or limit * crypto.random(1):byte() / 255)
end

local function retry_after(flat)
  local seconds = tonumber(headers_of(flat)["retry-after"])
  return seconds and seconds >= 0 and math.min(seconds, MAX_PAUSE) or nil
end

local function fail(call, err, sent)
  err.sent = sent
  if sent and not call.is_repeatable then err.retryable = false end
  error(err, 0)
end

local function perform(call, is_stream)
  local attempt = 0
  while true do
    local ok, status, headers, body, url = core.request(call.method, call.url, call.headers, call.body,
      call.timeout_ms, call.max_body, call.redirects, is_stream)
    local may_retry = attempt < call.retries
    if ok and not (may_retry and BUSY[status]) then return status, headers, body, url end
    if not ok then
      vm.check()
      if not (may_retry and TRY_AGAIN[status.code]) then fail(call, status, headers) end
    elseif is_stream then
      core.stream_close(body)
    end
    pause(attempt, ok and retry_after(headers) or nil)
    attempt = attempt + 1
  end
end

local function call(what, o)
  local status, headers, body, url = perform(prepare(what, o, config.get("http_client.max_body")), false)
  return setmetatable({ status = status, headers = headers_of(headers), body = body, url = url }, Response)
end

local function with(method, url, options)
  local o = {}
  for k, v in pairs(options or {}) do o[k] = v end
  o.method, o.url = method, url
  return o
end

--- One call: http.request{ method = "PUT", url = …, … }.
-- @param options table
--   url string  http or https        method string  "GET"
--   query table  appended to the URL, escaped: { name = value | list }
--   headers table  { ["Name"] = value | list }; X-Request-Id and traceparent of the running request are added
--   basic {user, password} | bearer string  for Authorization
--   json value | form table | multipart list | body string  what is sent. multipart = { { name =, data =, filename =,
--     type = }, … }
--   timeout duration  "5s": of the whole call      max_body bytes | "8MiB"  of the answer, after decompression
--   redirects 0–5  followed at most, 0 by default: then a 3xx is an answer like any other. Each target is judged as the
--     first; Authorization and Cookie stay with the first origin; https does not lead to http
--   retries 0–10  on unavailable, timeout, 429, 502, 503, 504, with growing pauses; only for methods that may be
--     repeated (GET, HEAD, OPTIONS, PUT, DELETE), or with idempotent = true
-- @return {status, headers, body, url}, with :json(). headers by name in any case; Set-Cookie is a list
-- Yields. After anything but GET, HEAD and OPTIONS a client that goes away no longer ends the request.
function M.request(options)
  if type(options) ~= "table" then misuse("http.request: expected a table of options, got %s", type(options)) end
  return call("http.request", with(options.method or "GET", options.url, options))
end

for _, method in ipairs { "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE" } do
  local what = "http." .. method:lower()
  M[method:lower()] = function(url, options)
    if options ~= nil and type(options) ~= "table" then misuse("%s: options: expected a table", what) end
    return call(what, with(method, url, options))
  end
end

--- http.get head options post put patch delete (url, options) → as http.request. Yield.

-- ---- streams --------------------------------------------------------------------------------------------------

local Stream = {}
Stream.__index = Stream
Stream.__metatable = "http stream"

--- The next bytes, as many as have come (at most 80 KiB wait); nil at the end. What is not read is not received.
-- Raises as a call; timeout when nothing came for so long. Yields.
function Stream:read()
  return settle(core.stream_read(self.handle))
end

--- `for bytes in res:chunks() do … end`
function Stream:chunks()
  return function() return self:read() end
end

--- Gives the rest up, and the connection with it. Does not yield.
function Stream:close()
  core.stream_close(self.handle)
end

--- A call whose body is read bit by bit: res = http.stream(url, options), with {status, headers, url}, res:read(),
-- res:chunks() and res:close(). Options as http.request, with `method`; timeout is that of the head, and then of each
-- wait; max_body is none unless given. The body comes as it was sent (identity is asked for). May be passed on:
-- `return app.stream(function(w) for bytes in res:chunks() do w:write(bytes) end end)`. One that nobody reads for
-- `timeout` ends by itself. Yields.
function M.stream(url, options)
  if options ~= nil and type(options) ~= "table" then misuse("http.stream: options: expected a table") end
  local o = with(options and options.method or "GET", url, options)
  local status, headers, handle, from = perform(prepare("http.stream", o, 0), true)
  return setmetatable({ status = status, headers = headers_of(headers), url = from, handle = handle }, Stream)
end

-- ---- the rest -------------------------------------------------------------------------------------------------

--- Text for one segment of a path or one value of a query: everything but letters, digits and -._~ escaped.
M.escape = body_of.escape

--- What this worker does: { active, waiting, hosts, open_breakers, calls, failures, timeouts, refused }; nil where no
-- calls are made. Does not yield.
function M.stats()
  return core.stats()
end

return M
