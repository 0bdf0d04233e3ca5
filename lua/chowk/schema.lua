-- Schemas: one value describes what is accepted, coerces it, and gives defaults. All errors are found at once and
-- raised as one 422 problem, code "invalid", with errors = [{pointer, message}]. None of these yields.
--
-- A type is a table with `run(value, at, ctx)`, which returns the coerced value, or nil after adding an error to ctx.
-- ctx.is_text says that values are strings from a URL: numbers and booleans are read out of them.
local copy = require "chowk.copy"
local json = require "chowk.core.json"
local raise = require "chowk.raise"

local M = {}
local Type = {}
Type.__index = Type

local floor, null = math.floor, json.null
local MAX_EXACT = 9007199254740992
local MAX_PAISE = 1e14 - 1 -- from 10^14 on PostgreSQL's bigint reads as a string

local function add_error(ctx, at, message)
  local errors = ctx.errors
  errors[#errors + 1] = { pointer = at, message = message, ["in"] = ctx.where }
end

local function check_options(name, opts, allowed)
  if opts == nil then return {} end
  if type(opts) ~= "table" then raise.misuse("t.%s: expected a table of options, got %s", name, type(opts)) end
  for k in pairs(opts) do
    if not allowed[k] then raise.unknown("t." .. name, k, allowed) end
  end
  for _, bound in ipairs { "min", "max" } do
    local value = opts[bound]
    if value ~= nil and type(value) ~= "number" then
      raise.misuse("t.%s: %s: expected a number, got %s", name, bound, type(value))
    end
  end
  if opts.min and opts.max and opts.min > opts.max then
    raise.misuse("t.%s: min is %s, above max, which is %s", name, tostring(opts.min), tostring(opts.max))
  end
  if opts.pattern ~= nil and type(opts.pattern) ~= "string" then
    raise.misuse("t.%s: pattern: expected a Lua pattern, got %s", name, type(opts.pattern))
  end
  return opts
end

-- A type whose `test(value, ctx)` returns the value, or nil and what is wrong.
local function scalar(kind, opts, test)
  local self = setmetatable({ kind = kind, opts = opts, default = opts.default }, Type)
  function self.run(value, at, ctx)
    local result, message = test(value, ctx)
    if message then add_error(ctx, at, message) end
    return result
  end
  return self
end

local function in_range(opts, value)
  if opts.min and value < opts.min then return nil, ("must be at least %s"):format(opts.min) end
  if opts.max and value > opts.max then return nil, ("must be at most %s"):format(opts.max) end
  return value
end

local DEFAULT, RANGE = { default = true }, { min = true, max = true, default = true }

local function integer(kind, opts, what)
  return scalar(kind, opts, function(value, ctx)
    if ctx.is_text and type(value) == "string" and #value <= 16 and value:match("^-?%d+$") then
      value = tonumber(value)
    end
    if type(value) ~= "number" or value ~= floor(value) or value > MAX_EXACT or value < -MAX_EXACT then
      return nil, what
    end
    return in_range(opts, value)
  end)
end

--- A whole number, exact below 2^53. @param opts table|nil  min, max, default
function M.integer(opts)
  return integer("integer", check_options("integer", opts, RANGE), "must be a whole number")
end

--- Money in paise: a whole number, 0 or more. @param opts table|nil  min, max, default
function M.paise(opts)
  opts = check_options("paise", opts, RANGE)
  return integer("paise", { min = opts.min or 0, max = opts.max or MAX_PAISE, default = opts.default },
    "must be an amount in whole paise")
end

--- Any finite number. @param opts table|nil  min, max, default
function M.number(opts)
  opts = check_options("number", opts, RANGE)
  return scalar("number", opts, function(value, ctx)
    if ctx.is_text and type(value) == "string" and #value <= 32 and value:match("^-?%d+%.?%d*$") then
      value = tonumber(value)
    end
    if type(value) ~= "number" or value ~= value or value == math.huge or value == -math.huge then
      return nil, "must be a number"
    end
    return in_range(opts, value)
  end)
end

local BOOLEANS = { ["true"] = true, ["1"] = true, ["false"] = false, ["0"] = false }

--- true or false; in a URL also 1 and 0. @param opts table|nil  default
function M.boolean(opts)
  return scalar("boolean", check_options("boolean", opts, DEFAULT), function(value, ctx)
    if ctx.is_text and BOOLEANS[value] ~= nil then value = BOOLEANS[value] end
    if type(value) ~= "boolean" then return nil, "must be true or false" end
    return value
  end)
end

local function count(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

local function length(text)
  local _, continuation = text:gsub("[\128-\191]", "")
  return #text - continuation
end

-- Characters are only counted where the bytes, one to four a character, do not settle it.
local function check_length(opts, text)
  local min, max = opts.min, opts.max
  if min and #text < min * 4 and length(text) < min then
    return min == 1 and "must not be empty" or "must have at least " .. count(min, "character")
  end
  if max and #text > max and length(text) > max then return "must have at most " .. count(max, "character") end
end

local function text_type(kind, opts, pattern_message, fold)
  return scalar(kind, opts, function(value)
    if type(value) ~= "string" then return nil, "must be a string" end
    local wrong = check_length(opts, value)
    if wrong then return nil, wrong end
    if fold then value = fold(value) end
    if not value then return nil, pattern_message end
    if opts.pattern and not value:find(opts.pattern) then return nil, pattern_message end
    return value
  end)
end

--- Text. @param opts table|nil  min, max (characters), pattern (Lua pattern), default
function M.string(opts)
  return text_type("string", check_options("string", opts, { min = true, max = true, pattern = true, default = true }),
    "has the wrong form")
end

local function default_of(name, opts)
  return check_options(name, opts, DEFAULT).default
end

--- Lower-case letters, digits and single hyphens, at most 200.
function M.slug(opts)
  return text_type("slug", { max = 200, default = default_of("slug", opts) },
    "must be lower-case letters, digits and hyphens", function(value)
      return value:find("^[a-z0-9][a-z0-9-]*$") and not value:find("--", 1, true) and value:sub(-1) ~= "-" and value
    end)
end

--- An e-mail address, at most 254 characters: one @, a dot in the domain, no spaces.
function M.email(opts)
  return text_type("email", { max = 254, default = default_of("email", opts) }, "must be an e-mail address",
    function(value)
      local name, domain = value:match("^([^@%s%c]+)@([^@%s%c]+)$")
      return name and #name <= 64 and domain:find("^[%w.-]+%.%w[%w-]+$") and not domain:find("..", 1, true) and value
    end)
end

local HEX4 = "%x%x%x%x"
local UUID = "^" .. HEX4 .. HEX4 .. "%-" .. HEX4 .. "%-" .. HEX4 .. "%-" .. HEX4 .. "%-" .. HEX4 .. HEX4 .. HEX4 .. "$"

--- A UUID; comes out in lower case.
function M.uuid(opts)
  return text_type("uuid", { pattern = UUID, default = default_of("uuid", opts) },
    "must be a UUID", string.lower)
end

--- One of the listed strings or numbers. @param opts table  {"a", "b", default="a"}
function M.enum(opts)
  if type(opts) ~= "table" or #opts == 0 then raise.misuse("t.enum: expected a list of values") end
  local known, shown = {}, {}
  for i, value in ipairs(opts) do known[value], shown[i] = value, tostring(value) end
  local message = "must be one of: " .. table.concat(shown, ", ")
  return scalar("enum", { default = opts.default, values = opts }, function(value, ctx)
    local found = known[value]
    if found == nil and ctx.is_text and type(value) == "string" then found = known[tonumber(value)] end
    if found == nil then return nil, message end
    return found
  end)
end

--- Anything that JSON can hold.
function M.any(opts)
  return scalar("any", check_options("any", opts, DEFAULT), function(value) return value end)
end

local function is_type(value)
  return getmetatable(value) == Type
end

-- The types' own run on one member; absent and null are the same.
local function run_member(member, value, at, ctx)
  if value == nil or value == null then
    if member.default ~= nil then return copy(member.default) end
    if not member.is_optional then add_error(ctx, at, "is required") end
    return nil
  end
  return member.run(value, at, ctx)
end

--- The same type, which may be missing or null. @param of type
function M.optional(of)
  if not is_type(of) then raise.misuse("t.optional: expected a type such as t.string()") end
  return setmetatable({ kind = of.kind, opts = of.opts, run = of.run, default = of.default, is_optional = true,
    of = of.of, fields = of.fields }, Type)
end

local function is_list(value)
  return type(value) == "table" and (json.is_array(value) or #value > 0 or next(value) == nil)
end

--- A list. @param of type  @param opts table|nil  min, max (items), default. In a URL: the name repeated.
function M.array(of, opts)
  if not is_type(of) then raise.misuse("t.array: expected a type such as t.string()") end
  opts = check_options("array", opts, RANGE)
  local default = opts.default and json.array(copy(opts.default))
  local self = setmetatable({ kind = "array", opts = opts, default = default, of = of }, Type)
  function self.run(value, at, ctx)
    if ctx.is_text and type(value) == "string" then value = { value } end
    if not is_list(value) then
      add_error(ctx, at, "must be a list")
      return nil
    end
    local n, out = #value, json.array {}
    if opts.min and n < opts.min then add_error(ctx, at, "must have at least " .. count(opts.min, "item")) end
    if opts.max and n > opts.max then
      add_error(ctx, at, "must have at most " .. count(opts.max, "item"))
      return nil -- a million items would be a million errors
    end
    for i = 1, n do out[i] = run_member(of, value[i], at .. "/" .. (i - 1), ctx) end
    return out
  end
  return self
end

local function escape_pointer(name)
  return (name:gsub("~", "~0"):gsub("/", "~1"))
end

local function check_fields(fields)
  if type(fields) ~= "table" then raise.misuse("t.object: expected a table of types, got %s", type(fields)) end
  local names = {}
  for name, member in pairs(fields) do
    if type(name) ~= "string" or not is_type(member) then
      raise.misuse("t.object: %s is not a type such as t.string()", tostring(name))
    end
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function report_unknown(fields, value, at, ctx)
  local unknown
  for name in pairs(value) do
    if not fields[name] then
      unknown = unknown or {}
      unknown[#unknown + 1] = tostring(name)
    end
  end
  if not unknown then return end
  table.sort(unknown)
  for _, name in ipairs(unknown) do add_error(ctx, at .. "/" .. escape_pointer(name), "is not known") end
end

--- An object with exactly these members; unknown ones are errors. @param fields table  name → type
function M.object(fields)
  local names = check_fields(fields)
  local pointers = {}
  for i, name in ipairs(names) do pointers[i] = "/" .. escape_pointer(name) end
  local self = setmetatable({ kind = "object", opts = {}, fields = fields }, Type)
  function self.run(value, at, ctx)
    if type(value) ~= "table" or json.is_array(value) or #value > 0 then
      add_error(ctx, at, "must be an object")
      return nil
    end
    local out = {}
    for i = 1, #names do
      local name = names[i]
      out[name] = run_member(fields[name], value[name], at == "" and pointers[i] or at .. pointers[i], ctx)
    end
    if not ctx.ignores_unknown then report_unknown(fields, value, at, ctx) end
    return out
  end
  return self
end

--- A type from what a route option holds: a type, or a plain table of them. Private to the library.
function M.compile(value, what)
  if is_type(value) then return value end
  if type(value) ~= "table" then raise.misuse("%s: expected a schema, got %s", what, type(value)) end
  return M.object(value)
end

--- Runs a type inside a context {errors, where?, is_text?, ignores_unknown?}. Private to the library.
function M.run(of, value, ctx)
  return run_member(of, value, "", ctx)
end

--- Raises the 422 problem if there are errors. Private to the library.
function M.raise_errors(errors)
  if #errors == 0 then return end
  local first = errors[1]
  local detail = (first.pointer ~= "" and first.pointer .. " " or "") .. first.message
  if #errors > 1 then detail = detail .. (" (and %d more)"):format(#errors - 1) end
  raise.problem(422, "invalid", detail, { errors = json.array(errors) })
end

--- Checks any value. @param of type|table  @param value any  @return the coerced value
-- Raises the 422 problem.
function M.validate(of, value)
  local ctx = { errors = {} }
  local result = run_member(M.compile(of, "schema.validate"), value, "", ctx)
  M.raise_errors(ctx.errors)
  return result
end

return M
