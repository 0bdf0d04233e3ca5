-- Rate limits. conf/chowk.lua declares classes, a route names one or several, and chowk counts:
--
--   limit = { classes = {
--     public = { limit = 100, window = "15m", key = "ip" },
--     auth   = { { limit = 10, window = "15m", key = "ip" },             -- several: all must allow it
--                { limit = 10, window = "15m", key = "body.email" } },
--   } }
--   routes:post("/login", { limit = "auth", body = … }, function(req) … end)
--
-- A class is a table, or a list of them:
--   limit, window       at most `limit` in any `window`
--   key                 whom to count: "ip" (IPv6 by /56), "user", "params.x", "body.x" (validated, lower-cased),
--                       or a list, of which the first that is there counts; what has none is counted by its address
--   algorithm           "sliding" (default), or "gcra" with `burst`: `limit` spread evenly over the window
--   on_store_failure    when limit.store is "redis" and Redis is away: "local" (default: this machine counts), "open",
--                       "closed" (503)
--
-- A refused request costs nothing in the classes that would have allowed it. One that fails the route's `auth` is
-- counted by its address and params, so that nobody guesses tokens for ever. Answers carry RateLimit-Policy and
-- RateLimit, a refusal is a 429 problem with Retry-After. LIMITS=report only counts and logs, LIMITS=off does nothing.
-- What counts only when it went wrong is no option of the route: limit.check("forged", req), where it has.
local config = require("chowk.core.config").read()
local core = require "chowk.core.limit"
local log = require "chowk.core.log"
local raise = require "chowk.raise"
local time = require "chowk.time"

local M = {}

local MODE = config["limit.mode"]
local PHASES = { early = 1, user = 2, body = 3 } -- when a key is there: at once, after auth, after validation
local MAX_RULES = 8
local OPTIONS = { limit = true, window = true, key = true, algorithm = true, burst = true, on_store_failure = true }

-- ---- keys -------------------------------------------------------------------------------------------------------

local function text(value)
  local kind = type(value)
  if kind == "string" and value ~= "" then return value:lower() end
  if kind == "number" then return ("%.17g"):format(value) end
end

local function user_key(req)
  local user = req.user
  if type(user) == "table" then user = user.id end
  return text(user)
end

-- One source: its phase, and a function of the request; nil from it means: not there.
local function read_source(source, where)
  if source == "ip" then return "early", function() return true end end
  if source == "user" then return "user", user_key end
  local part, name = tostring(source):match("^(%a+)%.([%w_]+)$")
  if part == "params" then return "early", function(req) return text(req.params[name]) end end
  if part == "body" then
    return "body", function(req)
      local body = req:json()
      return type(body) == "table" and text(body[name]) or nil
    end
  end
  error(('%s: key: expected "ip", "user", "params.x" or "body.x", got %s'):format(where, tostring(source)), 0)
end

local function read_key(key, where)
  local phase, sources = "early", {}
  for _, source in ipairs(type(key) == "table" and key or { key or "ip" }) do
    local needs, fn = read_source(source, where)
    if PHASES[needs] > PHASES[phase] then phase = needs end
    sources[#sources + 1] = fn
  end
  return phase, function(req)
    for _, fn in ipairs(sources) do
      local found = fn(req)
      if found then return found end
    end
    return true
  end
end

-- ---- classes ----------------------------------------------------------------------------------------------------

local function whole(value, where, name)
  if type(value) == "number" and value >= 1 and value % 1 == 0 and value < 2 ^ 32 then return value end
  error(("%s: %s: expected a whole number from 1, got %s"):format(where, name, tostring(value)), 0)
end

local function window_us(value, where)
  local ok, seconds = pcall(time.seconds, value)
  if ok and seconds >= 1 and seconds <= 86400 * 31 then return seconds * 1e6, seconds end
  error(('%s: window: expected "1s" to "31d", got %s'):format(where, tostring(value)), 0)
end

local function one_of(value, default, where, name, a, b, c)
  value = value or default
  if value == a or value == b or value == c then return value end
  error(("%s: %s: got %s"):format(where, name, tostring(value)), 0)
end

local function read_rule(name, options, where)
  if type(options) ~= "table" then error(("%s: expected a table, got %s"):format(where, type(options)), 0) end
  for key in pairs(options) do
    if not OPTIONS[key] then error(("%s: unknown option %s"):format(where, tostring(key)), 0) end
  end
  local limit = whole(options.limit, where, "limit")
  local us, seconds = window_us(options.window, where)
  local phase, key = read_key(options.key, where)
  local algorithm = one_of(options.algorithm, "sliding", where, "algorithm", "sliding", "gcra")
  local policy = one_of(options.on_store_failure, "local", where, "on_store_failure", "local", "open", "closed")
  return { name = name, phase = phase, key = key, limit = limit, seconds = seconds,
    rule = core.rule(name, algorithm, limit, whole(options.burst or limit, where, "burst"), us, policy) }
end

local function read_class(name, class)
  local where = "limit.classes." .. name
  if type(class) ~= "table" then error(("%s: expected a table, got %s"):format(where, type(class)), 0) end
  if not name:find("^[%w_-]+$") or #name > 24 then
    error(("%s: a name is at most 24 letters, digits, _ and -"):format(where), 0)
  end
  if #class == 0 then return { read_rule(name, class, where) } end
  local rules = {}
  for i, options in ipairs(class) do
    rules[i] = read_rule(i == 1 and name or name .. "-" .. i, options, where .. "[" .. i .. "]")
  end
  return rules
end

local classes, declared = {}, config["limit.classes"]
for name, class in pairs(type(declared) == "table" and declared or {}) do classes[name] = read_class(name, class) end

local function find(name)
  local class = classes[name]
  if not class then
    raise.misuse('there is no limit class "%s": add it to limit.classes in conf/chowk.lua', tostring(name))
  end
  return class
end

-- ---- checks -----------------------------------------------------------------------------------------------------

local function refuse(rule, retry)
  raise.problem(429, "rate_limited", ("at most %d in %d s"):format(rule.limit, rule.seconds),
    { retry_after = retry, ["violated-policies"] = { rule.name } })
end

local function settle(rules, ok, refusing, retry)
  if not ok then error(refusing, 0) end
  if refusing == 0 then return end
  if MODE == "on" then refuse(rules[refusing], retry) end
  log.write("info", "over the rate limit, let through: limit.mode is not on", { class = rules[refusing].name })
end

-- rule, key, rule, key, …: by the given key, or by the keys that req has for the rules
local function demands(rules, req, key)
  local args = {}
  for i, rule in ipairs(rules) do args[2 * i - 1], args[2 * i] = rule.rule, key or rule.key(req) end
  return unpack(args)
end

-- One function(req) for a route's rules; one rule, the usual case, without a table.
local function checker(rules)
  local check = core.check
  if #rules == 1 then
    local rule, key = rules[1].rule, rules[1].key
    return function(req) settle(rules, check(req, 1, rule, key(req))) end
  end
  return function(req) settle(rules, check(req, 1, demands(rules, req))) end
end

--- What a route's `limit` option compiles to. For the library.
-- @param names string|table  one class or a list
-- @return table  phase = "early" | "user" | "body": when to call check(req); check_stranger(req), unless all is early:
--   when `auth` has refused. Empty when limits are off.
function M.compile(names)
  local rules, early, phase, seen = {}, {}, "early", {}
  for _, name in ipairs(type(names) == "table" and names or { names }) do
    if seen[name] then raise.misuse('limit: the class "%s" is named twice', name) end
    seen[name] = true
    for _, rule in ipairs(find(name)) do
      rules[#rules + 1] = rule
      if rule.phase == "early" then early[#early + 1] = rule end
      if PHASES[rule.phase] > PHASES[phase] then phase = rule.phase end
    end
  end
  if #rules == 0 then raise.misuse("limit: expected the name of a class, or a list of names") end
  if #rules > MAX_RULES then raise.misuse("limit: more than %d limits on one route", MAX_RULES) end
  if MODE == "off" then return {} end
  return { phase = phase, check = checker(rules),
    check_stranger = phase ~= "early" and #early > 0 and checker(early) or nil }
end

local function ask(name, who, quantity)
  local req, key = type(who) == "userdata" and who or nil, text(who)
  if not req and not key then raise.misuse("limit: expected whom to count: a string, a number, or req") end
  quantity = quantity or 1
  if type(quantity) ~= "number" or quantity < 0 or quantity % 1 ~= 0 then
    raise.misuse("limit: expected a whole quantity, got %s", tostring(quantity))
  end
  local rules = find(name)
  if MODE == "off" then return rules, true, 0, 0 end
  return rules, core.check(req, quantity, demands(rules, req, key))
end

--- Counts against a class and refuses with 429: by the class's own keys when given the request, else by a key of yours.
-- @param name string  a class  @param who req|string|number  @param quantity integer|nil  default 1
-- @raise the problem 429 rate_limited; unavailable, where the class is closed and its store away
-- Yields when Redis counts.
function M.check(name, who, quantity)
  local rules, ok, refusing, retry = ask(name, who, quantity)
  settle(rules, ok, refusing, retry)
end

--- The same without raising the refusal.
-- @return boolean, integer  allowed (always, unless limits are "on"); seconds until it would be
-- @raise unavailable. Yields when Redis counts.
function M.allows(name, who, quantity)
  local _, ok, refusing, retry = ask(name, who, quantity)
  if not ok then error(refusing, 0) end
  return refusing == 0 or MODE ~= "on", retry
end

return M
